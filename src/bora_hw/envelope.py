"""How fast each joint may move at each position, so that it can always stop before its end with the deceleration it has.

The FR3 narrows a joint's velocity near its ends: towards the upper end `v <= -c + sqrt(k (q_max - q))`, mirrored at the lower one. On some
joints that bound falls faster than the joint can brake, so the bound is evaluated over the stopping distance: the envelope is the
highest velocity from which braking at the joint's acceleration limit stays under the bound at every position passed.
"""

from __future__ import annotations

import numpy as np

from bora_common.errors import ConfigError
from bora_common.robot import RobotSpec

FR3_OFFSET = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])  # c, rad/s
FR3_SLOPE = np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])  # k, rad/s^2
_SIDES = np.array([[1.0], [-1.0]])  # upper end, lower end


class VelocityEnvelope:
    """Velocity bounds of a robot's joints by position. Arrays are [D] in layout order, or [2, D] for (upper, lower) end."""

    def __init__(self, robot: RobotSpec):
        size = len(robot.layout)
        self.velocity = robot.velocity
        self.acceleration = robot.acceleration
        self.ends = np.stack([robot.upper, -robot.lower])  # [2, D], each end seen along its own direction
        self.lawful = np.zeros(size, dtype=bool)
        offset, slope = np.zeros(size), 2.0 * robot.acceleration  # without a law: just stop before the end
        if robot.position_velocity == 'fr3':
            arm = robot.group_indices('arm')
            if len(arm) != len(FR3_OFFSET):
                raise ConfigError(f'robot {robot.name}: position_velocity "fr3" needs an arm of 7 joints, found {len(arm)}')
            offset[arm], slope[arm], self.lawful[arm] = FR3_OFFSET, FR3_SLOPE, True
        self._offset, self._slope = offset, slope
        # Above the knee velocity the law falls faster than the joint brakes: there the braking parabola through the knee is the bound.
        steep = slope / 2 > self.acceleration
        knee = np.where(steep, self.acceleration * offset / np.where(steep, slope / 2 - self.acceleration, 1.0), np.inf)
        self._knee = knee
        self._knee_ends = np.where(steep, self.ends - np.where(steep, knee + offset, 0.0) ** 2 / slope, np.inf)
        reach = self.ends - offset**2 / slope  # where the law leaves no velocity
        self.upper, self.lower = reach[0], -reach[1]

    def law(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(lowest, highest) velocity [D] rad/s that the position-dependent law and the velocity limits allow at `positions` [D]."""
        bound = np.where(self.lawful, self._law(positions * _SIDES), np.inf)
        bound = np.minimum(bound, self.velocity)
        return -bound[1], bound[0]

    def stopping(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(lowest, highest) velocity [D] rad/s from which the joint stops in time, under the law all the way."""
        bound = self.outward(positions * _SIDES)
        return -bound[1], bound[0]

    def outward(self, x: np.ndarray) -> np.ndarray:
        """Highest velocity [2, D] towards each end at positions `x` [2, D], seen along the direction of that end."""
        square = np.where(np.isinf(self._knee), np.inf, self._knee**2 + 2 * self.acceleration * np.maximum(self._knee_ends - x, 0.0))
        return np.minimum(np.minimum(self._law(x), np.sqrt(square)), self.velocity)

    def _law(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, np.sqrt(self._slope * np.maximum(self.ends - x, 0.0)) - self._offset)
