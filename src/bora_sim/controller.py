"""A joint_trajectory_controller as ros2_control's 4.x behaves on its topic, without its communication.

What it refuses, it refuses whole and for the reasons that the real one has. Like the real one it never checks finiteness: what isn't a
number goes to the drives. Times are integer nanoseconds of ROS time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

NS = 1_000_000_000
END_VELOCITY_EPS = 1e-9


class TrajectoryPoint(NamedTuple):
    """One point of a trajectory, in the order of the message's joint names. An empty sequence or None means "not given"."""

    positions: Sequence[float]
    velocities: Sequence[float] | None
    time_from_start_ns: int
    accelerations: Sequence[float] | None = None
    effort: Sequence[float] | None = None


@dataclass(frozen=True)
class _Knot:
    t_ns: int
    positions: np.ndarray
    velocities: np.ndarray | None


class JointTrajectoryController:
    """Follows the newest accepted trajectory of its joints; holds the last point after its end.

    A new trajectory replaces the old one at once and is interpolated from the desired state at its arrival (`open_loop_control`, or
    `interpolate_from_desired_state` in later releases), linearly, or cubically where both ends have velocities.
    `allow_nonzero_end_velocity` is the parameter `allow_nonzero_velocity_at_trajectory_end`.
    """

    def __init__(self, name: str, joints: Sequence[str], positions: np.ndarray, *, allow_nonzero_end_velocity: bool = True):
        """A controller that holds `positions` [n] (the measured ones) until it is told otherwise."""
        self.name = name
        self.joints = tuple(joints)
        self.allow_nonzero_end_velocity = allow_nonzero_end_velocity
        self.accepted = 0
        self.rejected = 0
        self.last_rejection = ''
        self._record: list[tuple[int, np.ndarray]] = []
        self.activate(positions)

    def activate(self, positions: np.ndarray) -> None:
        """Forget every trajectory and hold `positions` [n]."""
        self._knots = [_Knot(0, np.array(positions, dtype=np.float64), None)]

    def receive(self, joints: Sequence[str], points: Sequence[tuple], now_ns: int, stamp_ns: int = 0) -> str:
        """Take a trajectory message that arrives at `now_ns`. Returns why it was refused; empty when it was taken.

        `points`: TrajectoryPoint, or tuples in its order. `stamp_ns`: the message's header stamp, its time of start; 0 means now.
        """
        points = [TrajectoryPoint(*point) for point in points]
        reason = self._refusal(joints, points, now_ns, stamp_ns)
        if reason:
            self.rejected += 1
            self.last_rejection = reason
            return reason
        self.accepted += 1
        order = [list(joints).index(joint) for joint in self.joints]
        knots = [_Knot(now_ns, *self.sample(now_ns))]
        for point in points:
            at = np.asarray(point.positions, dtype=np.float64)[order]
            speed = np.asarray(point.velocities, dtype=np.float64)[order] if _given(point.velocities) else None
            knots.append(_Knot((stamp_ns or now_ns) + point.time_from_start_ns, at, speed))
        self._knots = knots
        self._record.append((now_ns, knots[-1].positions.copy()))
        return ''

    def update(self, now_ns: int) -> np.ndarray:
        """Position commands [n] for the drives at `now_ns`, in the controller's joint order."""
        return self.sample(now_ns)[0]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions [n], velocities [n]) desired at `now_ns`, in the controller's joint order."""
        first, end = self._knots[0], self._knots[-1]
        if now_ns >= end.t_ns:
            return end.positions.copy(), np.zeros_like(end.positions) if end.velocities is None else end.velocities.copy()
        if now_ns <= first.t_ns:
            return first.positions.copy(), np.zeros_like(first.positions) if first.velocities is None else first.velocities.copy()
        after = next(i for i, knot in enumerate(self._knots) if knot.t_ns > now_ns)
        return _interpolate(self._knots[after - 1], self._knots[after], now_ns)

    @property
    def record(self) -> tuple[np.ndarray, np.ndarray]:
        """What was accepted: (arrival times int64 [n] in ns, last point's positions float64 [n, joints])."""
        times = np.array([t for t, _ in self._record], dtype=np.int64)
        return times, np.array([p for _, p in self._record], dtype=np.float64).reshape(len(times), len(self.joints))

    def save_record(self, path: str | Path) -> None:
        """Write the record as .npz (`t_ns`, `positions`, `joints`, `rejected`); the file appears whole or not at all."""
        path = Path(path)
        times, positions = self.record
        partial = path.with_name(f'.{path.name}.partial')
        with open(partial, 'wb') as file:
            np.savez_compressed(file, t_ns=times, positions=positions, joints=np.array(self.joints), rejected=self.rejected)
        os.replace(partial, path)

    def _refusal(self, joints: Sequence[str], points: Sequence[TrajectoryPoint], now_ns: int, stamp_ns: int) -> str:
        if not len(joints):
            return 'Empty joint names on incoming trajectory.'
        for joint in joints:
            if joint not in self.joints:
                return f"Incoming joint {joint} doesn't match the controller's joints."
        if len(joints) != len(self.joints) or len(set(joints)) != len(joints):
            return "Joints on incoming trajectory don't match the controller joints."
        if not points:
            return 'Empty trajectory received.'
        if stamp_ns != 0 and stamp_ns + points[-1].time_from_start_ns < now_ns:
            return f'Received trajectory with non-zero start time ({stamp_ns / NS}) that ends in the past.'
        if not self.allow_nonzero_end_velocity and _moving(points[-1].velocities):
            return 'Velocity of last trajectory point is not zero.'
        for i, (a, b) in enumerate(zip(points, points[1:], strict=False)):
            if b.time_from_start_ns <= a.time_from_start_ns:
                return f'Time between points {i} and {i + 1} is not strictly increasing.'
        return next(filter(None, map(self._point_refusal, points, range(len(points)))), '')

    def _point_refusal(self, point: TrajectoryPoint, i: int) -> str:
        if _given(point.effort):
            return 'Trajectories with effort fields are currently not supported.'
        for field in ('positions', 'velocities', 'accelerations'):
            values = getattr(point, field)
            if (field == 'positions' or _given(values)) and len(values) != len(self.joints):
                return f'Mismatch between joint_names size ({len(self.joints)}) and {field} ({len(values)}) at point #{i}.'
        return ''


def _given(values: Sequence[float] | None) -> bool:
    return values is not None and len(values) > 0


def _moving(velocities: Sequence[float] | None) -> bool:
    return _given(velocities) and bool(np.any(np.abs(velocities) > END_VELOCITY_EPS))


def _interpolate(a: _Knot, b: _Knot, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, velocities) between two knots: cubic where both have velocities, else linear."""
    span = (b.t_ns - a.t_ns) / NS
    t = (now_ns - a.t_ns) / NS
    change = b.positions - a.positions
    if a.velocities is None or b.velocities is None:
        return a.positions + change * (t / span), change / span
    quadratic = (3 * change / span - 2 * a.velocities - b.velocities) / span
    cubic = (-2 * change / span + a.velocities + b.velocities) / span**2
    positions = a.positions + t * (a.velocities + t * (quadratic + t * cubic))
    return positions, a.velocities + t * (2 * quadratic + 3 * t * cubic)
