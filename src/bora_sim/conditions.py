"""How a workplace differs from the one that the demonstrations come from: calibration, cameras, friction, latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from bora_common.kinematics import HAND_JOINTS, JOINTS


@dataclass(frozen=True)
class Conditions:
    """Constant differences, the same in every episode."""

    joint_offset: tuple[float, ...] = (0.0,) * len(JOINTS)  # rad, true position less what the encoder reads
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m, of every camera of the robot
    camera_tilt: float = 0.0  # rad, of every camera about its horizontal axis
    friction: float = 1.0  # factor on every sliding friction
    latency: int = 0  # physics steps of 1/300 s from a target to the drives

    def apply(self, model: mujoco.MjModel, cameras: Sequence[str]) -> None:
        """Change what of this is in the model."""
        model.geom_friction[:, 0] *= self.friction
        tilt = np.array([math.cos(self.camera_tilt / 2), math.sin(self.camera_tilt / 2), 0.0, 0.0])
        for name in cameras:
            camera = model.camera(name)
            camera.pos += self.camera_shift
            turned = np.empty(4)
            mujoco.mju_mulQuat(turned, camera.quat, tilt)
            camera.quat[:] = turned


NOMINAL = Conditions()
DEPLOYMENT = Conditions(
    joint_offset=(0.0025, -0.0020, 0.0, 0.0028, 0.0, -0.0036, 0.0030, *(0.006 if 'thumb' in joint else -0.004 for joint in HAND_JOINTS)),
    camera_shift=(0.0012, -0.0016, 0.0010),
    camera_tilt=0.0024,
    friction=0.8,
    latency=9,
)
