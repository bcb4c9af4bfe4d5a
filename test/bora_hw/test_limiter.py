"""The limiter never sends what breaks a limit, passes what is feasible, and tracks what is not without overshoot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.paths import share
from bora_common.robot import load_robot
from bora_hw.limiter import JointLimiter

ROBOT = load_robot(share() / 'config' / 'robots' / 'fr3_hand12.yaml')
D = len(ROBOT.layout)
DT = 0.01
MIDDLE = (ROBOT.lower + ROBOT.upper) / 2
REL = 1 + 1e-6


def check_stream(limiter: JointLimiter, start: np.ndarray, points: list[np.ndarray], times: list[float]) -> None:
    """Differences of a stream that began at rest at `start`."""
    before, velocity = start, np.zeros(D)
    for p, dt in zip(points, times, strict=True):
        v = (p - before) / dt
        low, high = limiter.envelope.law(p)
        assert np.all(np.isfinite(p))
        assert np.all(p <= np.maximum(ROBOT.upper, start) + 1e-9) and np.all(p >= np.minimum(ROBOT.lower, start) - 1e-9)
        assert np.all(v <= high * REL + 1e-7) and np.all(v >= low * REL - 1e-7)
        assert np.all(np.abs(v - velocity) / dt <= ROBOT.acceleration * REL + 1e-4)
        before, velocity = p, v


def smooth(seconds: float, frequency: float, share_of_limits: float) -> np.ndarray:
    """Requests [N, D] from MIDDLE and back that use a share of the velocity and acceleration limits."""
    w = 2 * np.pi * frequency
    reach = np.minimum(0.6 * (ROBOT.upper - MIDDLE), share_of_limits * np.minimum(ROBOT.velocity / w, ROBOT.acceleration / w**2))
    t = np.arange(0.0, seconds, DT)[:, None]
    return MIDDLE + reach * (1 - np.cos(w * t)) / 2


@pytest.mark.parametrize('frequency', [0.1, 0.5, 2.0])
def test_feasible_request_passes_unchanged(frequency):
    limiter = JointLimiter(ROBOT, DT)
    limiter.reset(MIDDLE)
    for request in smooth(4.0, frequency, 0.95):
        point = limiter.step(request, DT)
        assert np.abs(point.positions - request).max() <= 1e-9
        assert point.limits == ()


@pytest.mark.parametrize('jump', [0.003, 0.02, 0.1, 0.5, 0.9, 1.4, -0.2, -1.3])
def test_a_jump_is_tracked_without_overshoot(jump):
    limiter = JointLimiter(ROBOT, DT)
    limiter.reset(MIDDLE)
    request = MIDDLE + jump * (ROBOT.upper - MIDDLE)
    goal = np.clip(request, limiter.envelope.lower, limiter.envelope.upper)
    steps = [limiter.step(request, DT) for _ in range(500)]
    check_stream(limiter, MIDDLE, [s.positions for s in steps], [DT] * 500)
    path = np.array([s.positions for s in steps])
    assert np.all((goal - path) * np.sign(jump) >= -1e-9)
    assert np.abs(path[-1] - goal).max() < 1e-6
    assert ('position' in steps[-1].limits) == (np.abs(goal - request).max() > 1e-9)
    if jump > 0.01:
        assert 'acceleration' in steps[0].limits


def test_a_lagging_point_catches_up_with_a_moving_request_and_then_passes_it():
    limiter = JointLimiter(ROBOT, DT)
    limiter.reset(MIDDLE)
    lag = []
    for i in range(100):
        request = MIDDLE + 0.05 + 0.3 * DT * i
        lag.append(np.abs(limiter.step(request, DT).positions - request).max())
    assert lag[0] > 0.04 and max(lag[60:]) <= 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.003, 0.03, 0.3, 3.0, 1e3]), every=st.integers(1, 30), vary=st.booleans())
def test_no_sequence_of_requests_breaks_a_limit(seed, scale, every, vary):
    rng = np.random.default_rng(seed)
    limiter = JointLimiter(ROBOT, DT)
    start = rng.uniform(ROBOT.lower, ROBOT.upper)
    limiter.reset(start)
    points, times, request = [], [], start
    for i in range(80):
        if i % every == 0:
            request = start + rng.normal(size=D) * scale
        dt = DT * rng.uniform(0.5, 3.0) if vary else DT
        point = limiter.brake(dt) if rng.random() < 0.03 else limiter.step(request, dt)
        points.append(point.positions)
        times.append(dt)
    check_stream(limiter, start, points, times)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_jerk_limit_holds_at_the_control_rate(seed):
    rng = np.random.default_rng(seed)
    limiter = JointLimiter(ROBOT, DT)
    limiter.reset(MIDDLE)
    path = [MIDDLE] * 3 + [limiter.step(MIDDLE + rng.normal(size=D), DT).positions for _ in range(100)]
    jerk = np.diff(np.array(path), n=3, axis=0) / DT**3
    assert np.all(np.abs(jerk) <= ROBOT.jerk * REL)


def test_braking_stops_where_it_said():
    limiter = JointLimiter(ROBOT, DT)
    limiter.reset(MIDDLE)
    for i in range(40):
        limiter.step(MIDDLE + 0.01 * i, DT)
    foreseen, seconds = limiter.stop_positions, limiter.stop_time
    assert np.abs(limiter.velocities).max() > 0.5
    for _ in range(int(seconds / DT) + 2):
        point = limiter.brake(DT)
    assert np.all(point.velocities == 0.0)
    assert np.abs(point.positions - foreseen).max() < 0.6 * np.abs(ROBOT.velocity).max() * DT
    assert np.array_equal(limiter.brake(DT).positions, point.positions)


def test_a_start_outside_the_limits_may_rest_or_come_back_but_not_go_further():
    limiter = JointLimiter(ROBOT, DT)
    outside = ROBOT.upper + 0.05
    limiter.reset(outside)
    assert np.array_equal(limiter.step(outside, DT).positions, outside)
    for _ in range(50):
        assert np.all(limiter.step(outside + 1.0, DT).positions <= outside + 1e-12)
    for _ in range(300):
        point = limiter.step(MIDDLE, DT)
    assert np.abs(point.positions - MIDDLE).max() < 1e-6
