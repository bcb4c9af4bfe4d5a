"""Position, velocity, acceleration and jerk limits of a stream of joint targets, one point a control tick.

Velocity, acceleration and jerk of a stream of points are its differences: v = (p' - p) / dt, a = (v' - v) / dt, j = (a' - a) / dt.
A point is *admissible* when those are within their limits and braking from it, one acceleration step a tick, stays inside the velocity
envelope. From an admissible point the braking step is admissible again, so there is always a legal next point: the request itself where
it is admissible, else the next point of Ruckig's time-optimal motion towards it, else the braking step. Joints are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import ruckig

from bora_common.robot import RobotSpec
from bora_hw.envelope import VelocityEnvelope

PASS = 1e-9  # rad; a request that is changed by less counts as unchanged
DT_RANGE = (0.5, 3.0)  # of the nominal period: what a tick may last
_SLACK = 1e-9  # relative, rounding of the differences
_WAY_STEP = 0.05  # s between the postures of a braking way
_CRAWL = 0.02  # rad/s; Ruckig refuses velocity limits near zero
_SIDES = np.array([[1.0], [-1.0]])


@dataclass(frozen=True)
class LimitedPoint:
    """Next point of the stream."""

    positions: np.ndarray  # [D] rad
    velocities: np.ndarray  # [D] rad/s
    limits: tuple[str, ...]  # of "position", "velocity", "acceleration", "jerk": what kept the request from passing


class JointLimiter:
    """Holds the last point sent and gives the next one. `period` is the nominal control period in s."""

    def __init__(self, robot: RobotSpec, period: float):
        self._robot = robot
        self._period = period
        self._shortest = DT_RANGE[0] * period
        self.envelope = VelocityEnvelope(robot)
        size = len(robot.layout)
        self._otg = ruckig.Ruckig(size, period)
        self._trajectory = ruckig.Trajectory(size)
        self._input = ruckig.InputParameter(size)
        self._input.synchronization = ruckig.Synchronization.No
        self._input.max_acceleration = robot.acceleration.tolist()
        self._input.max_jerk = robot.jerk.tolist()
        self._input.target_acceleration = [0.0] * size
        self.reset(np.zeros(size))

    def reset(self, positions: np.ndarray) -> None:
        """Start at rest from `positions` [D]."""
        self.positions = np.array(positions, dtype=np.float64)
        zero = np.zeros_like(self.positions)
        self.velocities, self._accelerations = zero, zero  # differences of the points sent
        self._seed_velocities, self._seed_accelerations = zero, zero  # at the last point, where Ruckig goes on
        self._wished, self._wished_velocities = self.positions, zero

    @property
    def stop_positions(self) -> np.ndarray:
        """Where braking from the last point ends [D] rad."""
        return self.positions + self.velocities * np.abs(self.velocities) / (2 * self._robot.acceleration)

    @property
    def stop_time(self) -> float:
        """How long braking from the last point takes, s."""
        return float(np.max(np.abs(self.velocities) / self._robot.acceleration))

    def braking_way(self) -> list[np.ndarray]:
        """Postures [D] on the way that braking from the last point takes: its end first, the last point last."""
        speed, limit = np.abs(self.velocities), self._robot.acceleration
        longest = self.stop_time
        way = [self.stop_positions]
        for i in reversed(range(int(longest / _WAY_STEP))):
            t = np.minimum(longest * (i + 1) / (int(longest / _WAY_STEP) + 1), speed / limit)
            way.append(self.positions + np.sign(self.velocities) * (speed * t - limit * t**2 / 2))
        return [*way, self.positions] if longest > 0 else way

    def save(self) -> tuple[np.ndarray, ...]:
        """State for `restore`, to try a point and take it back."""
        return (
            self.positions, self.velocities, self._accelerations, self._seed_velocities, self._seed_accelerations,
            self._wished, self._wished_velocities,
        )  # fmt: skip

    def restore(self, state: tuple[np.ndarray, ...]) -> None:
        (
            self.positions, self.velocities, self._accelerations, self._seed_velocities, self._seed_accelerations,
            self._wished, self._wished_velocities,
        ) = state  # fmt: skip

    def brake(self, dt: float) -> LimitedPoint:
        """The braking step of every joint; at rest it stays where it is."""
        dt = self._clamp(dt)
        points = self._braking(dt)
        self._advance(points, dt, None)
        self._wished, self._wished_velocities = points, np.zeros_like(points)
        return LimitedPoint(self.positions, self.velocities, ())

    def step(self, request: np.ndarray, dt: float) -> LimitedPoint:
        """The point nearest to `request` [D] (finite) that may be sent `dt` s after the last one."""
        dt = self._clamp(dt)
        low = np.minimum(self.envelope.lower, self.positions)
        high = np.maximum(self.envelope.upper, self.positions)
        target = np.clip(request, low, high)
        limits = {'position'} if np.any(np.abs(target - request) > PASS) else set()
        wish = self._wish(target, dt)
        passes = self._admissible(target, dt, limits) & (np.abs((target - self.positions) / dt - wish) <= self._slack(dt))
        if passes.all():
            self._advance(target, dt, None)
            return LimitedPoint(self.positions, self.velocities, tuple(sorted(limits)))
        points, seeds = self._track(target, np.clip(wish, *self.envelope.stopping(target)), passes, dt)
        if not limits and np.any(np.abs(points - request) > PASS):
            limits.add('acceleration')  # catching up with a request that is legal again
        self._advance(points, dt, seeds)
        return LimitedPoint(self.positions, self.velocities, tuple(sorted(limits)))

    # --- parts of a step ----------------------------------------------------------------------------------------------------------

    def _clamp(self, dt: float) -> float:
        return min(max(dt, DT_RANGE[0] * self._period), DT_RANGE[1] * self._period)

    def _slack(self, dt: float) -> np.ndarray:
        return self._robot.acceleration * dt * (1 + _SLACK) + _SLACK

    def _wish(self, target: np.ndarray, dt: float) -> np.ndarray:
        """Velocity [D] that the requests themselves keep up: the smaller of their last two, so that a jump counts as none."""
        now, before = (target - self._wished) / dt, self._wished_velocities
        self._wished, self._wished_velocities = target, now
        return np.where(now * before > 0, np.where(np.abs(now) < np.abs(before), now, before), 0.0)

    def _admissible(self, points: np.ndarray, dt: float, limits: set[str] | None = None) -> np.ndarray:
        """Per joint: may `points` [D] be sent next? Adds to `limits` what stands against it."""
        robot = self._robot
        velocity = (points - self.positions) / dt
        acceleration = (velocity - self.velocities) / dt
        jerk = (acceleration - self._accelerations) / dt
        low, high = self.envelope.law(points)
        # Braking begins with the next tick, which may be as short as DT_RANGE allows.
        left = np.maximum(velocity * _SIDES - robot.acceleration * self._shortest, 0.0)
        x = points * _SIDES
        fits = left <= self.envelope.outward(x + left * self._shortest) + _SLACK
        fits &= x <= np.maximum(self.envelope.ends, self.positions * _SIDES) + PASS / 10
        checks = {
            'velocity': (velocity >= low - _SLACK) & (velocity <= high + _SLACK) & fits[0] & fits[1],
            'acceleration': np.abs(acceleration) <= robot.acceleration * (1 + _SLACK) + _SLACK / dt,
            'jerk': np.abs(jerk) <= robot.jerk * (1 + _SLACK) + _SLACK / dt**2,
        }
        if limits is not None:
            limits.update(name for name, good in checks.items() if not good.all())
        return checks['velocity'] & checks['acceleration'] & checks['jerk']

    def _braking(self, dt: float) -> np.ndarray:
        step = self._robot.acceleration * dt
        return self.positions + np.sign(self.velocities) * np.maximum(np.abs(self.velocities) - step, 0.0) * dt

    def _track(self, target: np.ndarray, wish: np.ndarray, passes: np.ndarray, dt: float) -> tuple[np.ndarray, tuple]:
        """Points [D] where the request can't pass, and the (velocity, acceleration) at them: keeping up, arriving, creeping or braking."""
        points, good = np.where(passes, target, self.positions), passes.copy()
        velocity = (points - self.positions) / dt
        acceleration = np.zeros_like(points)
        for propose in (partial(self._optimal, speed=wish), partial(self._optimal, speed=np.zeros_like(wish)), self._creep):
            p, v, a = propose(target, dt=dt)
            take = self._admissible(p, dt) & ~good
            points, velocity, acceleration = np.where(take, p, points), np.where(take, v, velocity), np.where(take, a, acceleration)
            good |= take
            if good.all():
                return points, (velocity, acceleration)
        brake = self._braking(dt)
        slow, slowing = self._seed((brake - self.positions) / dt, dt)
        return np.where(good, points, brake), (np.where(good, velocity, slow), np.where(good, acceleration, slowing))

    def _creep(self, target: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As fast towards `target` as the envelope leaves a tick ahead: where its bound falls too fast, or is too low, for Ruckig."""
        reach = self._reach(dt, 1)
        limit = self._robot.acceleration
        change = limit * dt
        way = target - self.positions
        arrive = np.sqrt(change**2 + 2 * limit * np.abs(way)) - change  # can stop there
        velocity = np.clip(np.clip(way / dt, -arrive, arrive), -reach[1], reach[0])
        velocity = np.clip(velocity, self.velocities - change, self.velocities + change)
        return self.positions + velocity * dt, *self._seed(velocity, dt)

    def _seed(self, velocity: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """(velocity, acceleration) at the end of a tick of mean `velocity`: a joint that slows down goes on doing so."""
        acceleration = (velocity - self.velocities) / dt
        acceleration = np.where(acceleration * velocity < 0, acceleration, 0.0)
        return velocity + acceleration * dt / 2, acceleration

    def _reach(self, dt: float, ticks: int) -> np.ndarray:
        """Highest velocity [2, D] towards each end that the envelope still allows some ticks ahead."""
        x = self.positions * _SIDES
        return self.envelope.outward(x + self.envelope.outward(x) * dt * ticks)

    def _optimal(self, target: np.ndarray, speed: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(position, velocity, acceleration) [D] after `dt` of Ruckig's time-optimal motion to `target` with velocity `speed` there."""
        reach = np.maximum(self._reach(dt, 2), _CRAWL)
        given = self._input
        given.current_position, given.target_position = self.positions.tolist(), target.tolist()
        given.current_velocity, given.current_acceleration = self._seed_velocities.tolist(), self._seed_accelerations.tolist()
        given.max_velocity, given.min_velocity = reach[0].tolist(), (-reach[1]).tolist()
        given.target_velocity = np.clip(speed, -reach[1], reach[0]).tolist()
        self._otg.calculate(given, self._trajectory)
        p, v, a = self._trajectory.at_time(dt)
        return np.array(p), np.array(v), np.array(a)

    def _advance(self, points: np.ndarray, dt: float, seeds: tuple[np.ndarray, np.ndarray] | None) -> None:
        velocity = (points - self.positions) / dt
        self._accelerations = (velocity - self.velocities) / dt
        self.positions, self.velocities = points, velocity
        limit = self._robot.acceleration
        if seeds is None:
            self._seed_velocities, self._seed_accelerations = velocity, np.zeros_like(velocity)
        else:
            self._seed_velocities, self._seed_accelerations = seeds[0], np.clip(seeds[1], -limit, limit)
