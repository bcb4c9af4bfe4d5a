"""The safety filter: not finite, workspace, table, tracking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import ConfigError, NotFiniteError
from bora_common.kinematics import PALM, TIPS, Kinematics, forward
from bora_common.paths import share
from bora_common.robot import load_robot
from bora_hw.safety import SafetyFilter
from bora_hw.workspace import WorkspaceGuard

ROBOT = load_robot(share() / 'config' / 'robots' / 'fr3_hand12.yaml')
D = len(ROBOT.layout)
DT = 0.01
READY = np.concatenate([[0.0, -0.3, 0.0, -2.3, 0.0, 2.1, 0.785], np.full(12, 0.3)])
EDGE = 2e-3  # m; a corner may be cut by this while joints brake at different times


def outside(q: np.ndarray) -> float:
    frames = forward(q)
    palm = frames[PALM][:3, 3]
    tips = min(frames[tip][2, 3] for tip in TIPS)
    return max((ROBOT.workspace_low - palm).max(), (palm - ROBOT.workspace_high).max(), ROBOT.table_clearance - tips)


def started(at: np.ndarray = READY) -> SafetyFilter:
    safety = SafetyFilter(ROBOT, DT)
    safety.reset(at)
    return safety


def test_ready_pose_is_inside():
    assert outside(READY) < -0.05


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_changes_nothing(value):
    safety = started()
    request = READY.copy()
    request[8] = value
    with pytest.raises(NotFiniteError, match='hand_thumb_joint2'):
        safety.filter(request, DT)
    assert np.array_equal(safety.positions, READY)


@pytest.mark.parametrize('joint, way', [(1, 1.0), (0, -1.0), (3, 1.0), (3, -1.0), (5, 1.0)])
def test_workspace_stops_the_palm_and_the_tips(joint, way):
    safety = started()
    request, bit = READY.copy(), set()
    for _ in range(400):
        request[joint] = np.clip(request[joint] + way * 0.006, ROBOT.lower[joint], ROBOT.upper[joint])
        point = safety.filter(request, DT)
        bit |= set(point.limits)
        assert outside(point.positions) <= EDGE
    assert ('workspace' in bit) == (outside(request) > -0.003)
    for _ in range(400):
        point = safety.filter(READY, DT)
    assert np.abs(point.positions - READY).max() < 1e-6  # it comes back


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.2, 0.8, 3.0]))
def test_no_sequence_of_requests_leaves_the_workspace(seed, scale):
    rng = np.random.default_rng(seed)
    safety = started()
    before, velocity = READY, np.zeros(D)
    for i in range(80):
        if i % 25 == 0:
            request = READY + rng.normal(size=D) * scale
        point = safety.filter(request, DT)
        v = (point.positions - before) / DT
        assert outside(point.positions) <= EDGE
        assert np.all(np.abs(v) <= ROBOT.velocity * (1 + 1e-6))
        assert np.all(np.abs(v - velocity) / DT <= ROBOT.acceleration * (1 + 1e-6))
        before, velocity = point.positions, v


def test_a_start_outside_may_come_back_in():
    low = READY.copy()
    low[1] = 1.2  # palm and tips below the table
    assert outside(low) > 0.02
    safety = started(low)
    assert np.array_equal(safety.filter(low, DT).positions, low)
    for _ in range(500):
        point = safety.filter(READY, DT)
    assert np.abs(point.positions - READY).max() < 1e-6


def test_the_way_along_a_face_stays_open():
    """Pushing against the table must not stop the motion along it."""
    safety = started()
    request = READY.copy()
    for _ in range(300):
        request[1] = min(request[1] + 0.004, 0.6)
        point = safety.filter(request, DT)
    assert 'workspace' in point.limits
    turned = point.positions[0]
    for _ in range(200):
        request[0] = min(request[0] + 0.002, 0.3)
        point = safety.filter(request, DT)
    assert 'workspace' in point.limits
    assert point.positions[0] - turned > 0.2


def test_depth_of_postures_near_a_known_one_is_bounded_not_guessed():
    guard = WorkspaceGuard(ROBOT, Kinematics())
    rng = np.random.default_rng(1)
    for _ in range(300):
        q = READY + rng.normal(size=D) * 0.1
        assert guard.outside(q) == pytest.approx(max(outside(q), 0.0), abs=1e-12)


def test_tracking_names_the_joint_and_the_limit():
    safety = started()
    measured = READY.copy()
    assert safety.tracking(measured) == ''
    measured[2] += 0.9 * ROBOT.tracking_error[2]
    measured[9] += 2.5  # a force-limited grip
    assert safety.tracking(measured) == ''
    measured[2] = READY[2] - 1.1 * ROBOT.tracking_error[2]
    assert 'fr3_joint3' in safety.tracking(measured) and 'limit 0.35 rad' in safety.tracking(measured)


def test_the_guard_needs_the_robots_kinematics():
    with pytest.raises(ConfigError, match='no kinematics'):
        WorkspaceGuard(ROBOT, Kinematics(joints=ROBOT.layout.names[::-1]))
