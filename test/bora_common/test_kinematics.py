"""The kinematic table: known poses, Jacobian against differences, inverse against forward, URDF file against its generator."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import ConfigError
from bora_common.kinematics import FRAMES, JOINTS, LINKS, LOWER, PALM, TIPS, UPPER, forward, fr3_hand12, rotation_error
from bora_common.urdf import urdf

ROOT = Path(__file__).parents[2]
READY = np.r_[0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4, np.zeros(12)]


def random_pose(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(LOWER, UPPER)


def test_flange_at_the_ready_pose_is_where_the_manufacturer_has_it():
    flange = forward(READY)['fr3_link8']
    np.testing.assert_allclose(flange[:3, 3], [0.3069, 0.0, 0.5903], atol=2e-4)
    np.testing.assert_allclose(flange[:3, 2], [0, 0, -1], atol=1e-12)


def test_layout_and_frames():
    assert len(JOINTS) == 19 and JOINTS[7] == 'hand_thumb_joint1' and JOINTS[-1] == 'hand_little_joint2'
    assert {'fr3_link0', 'fr3_link8', PALM, *TIPS} <= set(FRAMES)
    assert np.all(LOWER < UPPER)


def test_fingers_and_thumb_close_towards_each_other():
    closed = READY.copy()
    closed[7:] = np.r_[0, 0.5, 0.5, 0.5, np.tile([0.5, 0.5], 4)]
    open_frames, closed_frames = forward(READY), forward(closed)
    into_palm = open_frames[PALM][:3, 1]  # towards the thumb
    for tip in TIPS:
        moved = (closed_frames[tip] - open_frames[tip])[:3, 3] @ into_palm
        assert (moved < -0.02) if tip == 'hand_thumb_tip' else (moved > 0.02)


@given(st.integers(0, 10_000), st.sampled_from(TIPS + (PALM,)))
@settings(max_examples=20)
def test_jacobian_is_the_derivative(seed, frame):
    q, h = random_pose(seed), 1e-6
    pose, jacobian = fr3_hand12().jacobian(q, frame)
    np.testing.assert_allclose(pose, forward(q)[frame], atol=1e-12)
    for j in range(19):
        ahead = fr3_hand12().pose(q + h * np.eye(19)[j], frame)
        difference = np.r_[(ahead - pose)[:3, 3], rotation_error(ahead[:3, :3], pose[:3, :3])] / h
        np.testing.assert_allclose(jacobian[:, j], difference, atol=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_inverse_reaches_a_reachable_pose_and_stays_inside_the_limits(seed):
    rng = np.random.default_rng(seed)
    start = np.clip(READY + rng.uniform(-0.2, 0.2, 19), LOWER, UPPER)
    goal = np.clip(start + np.r_[rng.uniform(-0.15, 0.15, 7), np.zeros(12)], LOWER, UPPER)
    target = fr3_hand12().pose(goal, PALM)
    found = fr3_hand12().solve(start, PALM, target, joints=range(7), iterations=100)
    np.testing.assert_allclose(fr3_hand12().pose(found, PALM), target, atol=1e-3)
    assert np.all((found >= LOWER) & (found <= UPPER))
    np.testing.assert_array_equal(found[7:], start[7:])


def test_rotation_error_turns_one_into_the_other_even_at_half_a_turn():
    np.testing.assert_allclose(np.abs(rotation_error(np.diag([1.0, -1.0, -1.0]), np.eye(3))), [np.pi, 0, 0], atol=1e-9)
    np.testing.assert_allclose(rotation_error(np.eye(3), np.eye(3)), 0)


def test_wrong_frames_and_shapes_are_named():
    with pytest.raises(ConfigError, match='hand_palm'):
        fr3_hand12().pose(READY, 'hand_plam')
    with pytest.raises(ConfigError, match='19'):
        forward(READY[:7])


def test_urdf_file_is_what_the_table_says():
    text = (ROOT / 'config' / 'urdf' / 'fr3_hand12.urdf').read_text()
    assert text == urdf(), 'renew it with: python -m bora_common.urdf config/urdf/fr3_hand12.urdf'
    robot = ET.fromstring(text)
    movable = {j.get('name'): j for j in robot.iter('joint') if j.get('type') == 'revolute'}
    assert set(movable) == set(JOINTS)
    assert len(robot.findall('link')) == len(LINKS)
    assert float(movable['fr3_joint4'].find('limit').get('upper')) == pytest.approx(-0.1458)


def test_robot_description_agrees_with_the_table():
    from bora_common.robot import load_robot

    robot = load_robot(ROOT / 'config' / 'robots' / 'fr3_hand12.yaml')
    assert tuple(robot.layout.names) == JOINTS
    np.testing.assert_allclose(robot.lower, LOWER)
    np.testing.assert_allclose(robot.upper, UPPER)
