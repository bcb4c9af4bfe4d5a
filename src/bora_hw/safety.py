"""The last word on every joint target: what can be clipped is clipped and named, what can't stops the robot.

Order: finite, position limits, velocity (position-dependent, over the stopping distance), acceleration, jerk, then the workspace of
palm and finger tips, then the distance between what was sent and what is measured. Names, sizes and age are checked before, where the
message is read (`bora_common.codec`, `bora_hw.hardware`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bora_common.errors import NotFiniteError
from bora_common.kinematics import fr3_hand12
from bora_common.robot import RobotSpec
from bora_hw.limiter import JointLimiter
from bora_hw.workspace import Frames, WorkspaceGuard

_DEEPER = 1e-6  # m; rounding when the depth outside the workspace is compared
_STILL = 1e-6  # rad
_CLOSE_BY = 0.1  # rad, of the joint that moves most


@dataclass(frozen=True)
class SafePoint:
    """A point that may be sent."""

    positions: np.ndarray  # [D] rad
    velocities: np.ndarray  # [D] rad/s
    limits: tuple[str, ...] = ()


class SafetyFilter:
    """Follows the points it lets pass: each one is judged against the last. Start it with `reset`."""

    def __init__(self, robot: RobotSpec, period: float, kinematics: Frames | None = None):
        self.robot = robot
        self.limiter = JointLimiter(robot, period)
        self._guard = WorkspaceGuard(robot, kinematics or fr3_hand12())
        self._depth = 0.0  # m, of the last point outside the workspace
        self.ready = False

    @property
    def positions(self) -> np.ndarray:
        """Last point [D] rad."""
        return self.limiter.positions

    def reset(self, positions: np.ndarray) -> None:
        """Start at rest from `positions` [D], wherever that is: activation, or a fault that was cleared."""
        self.limiter.reset(positions)
        self._depth = self._outside()
        self.ready = True

    def filter(self, request: np.ndarray, dt: float) -> SafePoint:
        """The point nearest to `request` [D] that may be sent `dt` s after the last one. Raises NotFiniteError."""
        if not np.isfinite(request).all():
            joint = self.robot.layout.names[int(np.argmin(np.isfinite(request)))]
            raise NotFiniteError(f'command: position of {joint} is not finite')
        state = self.limiter.save()
        moves = np.abs(request - state[0]).max() > _STILL  # a robot that rests outside may rest
        target = self._guard.project(request) if moves and self._guard.violated(request) else request
        point = self.limiter.step(target, dt)
        if self._stays_inside():
            return SafePoint(point.positions, point.velocities, point.limits if target is request else (*point.limits, 'workspace'))
        for detour in self._detours(target, state[0]):
            self.limiter.restore(state)
            point = self.limiter.step(detour, dt)
            if self._stays_inside():
                return SafePoint(point.positions, point.velocities, (*point.limits, 'workspace'))
        self.limiter.restore(state)
        point = self.hold(dt)
        return SafePoint(point.positions, point.velocities, ('workspace',))

    def _detours(self, target: np.ndarray, last: np.ndarray) -> Iterator[np.ndarray]:
        """What is tried where the way to `target` leads outside, as joints that arrive one by one curve it: a posture close by, or just
        back inside."""
        way = target - last
        yield self._guard.project(last + way * min(1.0, _CLOSE_BY / max(np.abs(way).max(), _CLOSE_BY)))
        yield self._guard.project(last)

    def hold(self, dt: float) -> SafePoint:
        """Next point of a hold: every joint brakes at its acceleration limit, then stays."""
        point = self.limiter.brake(dt)
        self._depth = self._outside()
        return SafePoint(point.positions, point.velocities)

    def last_stop(self) -> tuple[np.ndarray, float]:
        """(positions [D], s) of the stop that one last message can ask for."""
        return self.limiter.stop_positions, self.limiter.stop_time

    def tracking(self, measured: np.ndarray) -> str:
        """Which joint is too far from its command, empty where none is."""
        error = np.abs(self.limiter.positions - measured)
        late = error > self.robot.tracking_error
        if not late.any():
            return ''
        joint = int(np.argmax(np.where(late, error / self.robot.tracking_error, 0.0)))
        limit = self.robot.tracking_error[joint]
        return f'tracking: {self.robot.layout.names[joint]} is {error[joint]:.3f} rad from its command, limit {limit:g} rad'

    def _outside(self) -> float:
        """Largest depth outside the workspace of the last point and of the way that braking from it takes, m."""
        return max(self._guard.outside(q) for q in self.limiter.braking_way())

    def _stays_inside(self) -> bool:
        """True where the point is inside, or no deeper outside than the one before: a robot that starts outside may come back."""
        depth = self._outside()
        if depth > self._depth + _DEEPER:
            return False
        self._depth = depth
        return True
