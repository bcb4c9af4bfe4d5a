"""A Gymnasium environment over the simulated robot: one action a step of 1/15 s, absolute joint targets."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from bora_common.images import to_model_size
from bora_common.kinematics import JOINTS, LOWER, UPPER
from bora_sim.tasks.base import STEP_S
from bora_sim.world import CAMERAS, SimWorld


class BoraEnv(gymnasium.Env):
    """Observation: model images [C,size,size,3] and joint positions [19]; action: joint targets [19] in rad, reached over the step.

    Reward: +1 at success, a penalty of 1/(episode limit) each step. Success (and a failure that ends the task) terminates; the step
    limit truncates. `options={'scene': n}` at reset asks for one scene by its seed.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': round(1 / STEP_S)}

    def __init__(self, task: str = 'press_button', objects: str = 'standard', size: int = 64, render_mode: str | None = None):
        self.world = SimWorld(task, objects=objects)
        self.size, self.render_mode = size, render_mode
        self.observation_space = spaces.Dict({
            'images': spaces.Box(0, 255, (len(CAMERAS), size, size, 3), np.uint8),
            'proprio': spaces.Box(-np.inf, np.inf, (len(JOINTS),), np.float32),
        })  # fmt: skip
        self.action_space = spaces.Box(LOWER.astype(np.float32), UPPER.astype(np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        scene = (options or {}).get('scene')
        self.world.reset(int(self.np_random.integers(2**31)) if scene is None else int(scene))
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        command = np.clip(np.asarray(action, dtype=np.float64), LOWER, UPPER)
        self.world.step_towards(self.world.targets, command)
        self._steps += 1
        limit = self.world.task.episode_steps
        terminated = self.world.success or (self.world.failure and self.world.task.failure_ends)
        reward = float(self.world.success) - 1 / limit
        return self._observation(), reward, terminated, not terminated and self._steps >= limit, self._info()

    def render(self) -> np.ndarray | None:
        if self.render_mode != 'rgb_array':
            return None
        return self.world.render(640, 480, ('overview',))['overview']

    def _observation(self) -> dict[str, np.ndarray]:
        frames = self.world.render()
        images = np.stack([to_model_size(frames[camera], self.size) for camera in CAMERAS])
        return {'images': images, 'proprio': self.world.qpos.astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        world = self.world
        return {'success': world.success, 'failure': world.failure, 'scene': world.seed, 'instruction': world.task.instruction}
