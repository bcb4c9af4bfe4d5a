"""The simulated robot: MuJoCo physics, tasks, cameras, scripted experts and operators. It knows nothing of policies."""

import os

os.environ.setdefault('MUJOCO_GL', 'egl')  # read when mujoco is first imported; there is no screen to open a window on
