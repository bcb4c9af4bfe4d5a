"""A limited joint trajectory to a pose: one quintic time law for all joints, so that they arrive together."""

from __future__ import annotations

import numpy as np

PEAK_VELOCITY = 1.875  # of s(u) = 10 u^3 - 15 u^4 + 6 u^5
PEAK_ACCELERATION = 10.0 / np.sqrt(3.0)


class ResetTrajectory:
    """From `start` to `goal` [D] rad within fractions of the velocity [D] rad/s and acceleration [D] rad/s² limits."""

    def __init__(self, start_ns: int, start: np.ndarray, goal: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, speed: float):
        self._start_ns = start_ns
        self._start = np.array(start, dtype=np.float64)
        self._travel = np.asarray(goal, dtype=np.float64) - self._start
        distance = np.abs(self._travel)
        by_velocity = PEAK_VELOCITY * distance / (speed * velocity)
        by_acceleration = np.sqrt(PEAK_ACCELERATION * distance / (speed * acceleration))
        self.duration = float(max(by_velocity.max(), by_acceleration.max(), 1e-3))  # s

    def position(self, t_ns: int) -> np.ndarray:
        """Positions [D] rad at `t_ns`."""
        u = min(max((t_ns - self._start_ns) * 1e-9 / self.duration, 0.0), 1.0)
        return self._start + self._travel * (u * u * u * (10.0 + u * (6.0 * u - 15.0)))

    def finished(self, t_ns: int, settle: float = 0.0) -> bool:
        """True `settle` s after the goal was commanded."""
        return (t_ns - self._start_ns) * 1e-9 >= self.duration + settle
