"""The controller refuses what ros2_control's refuses, and interpolates as it does."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bora_sim.controller import JointTrajectoryController, TrajectoryPoint

MS = 1_000_000
NAMES = ('a', 'b')
POINT = TrajectoryPoint((0.2, 0.4), None, 20 * MS)


def make(**kwargs) -> JointTrajectoryController:
    return JointTrajectoryController('arm', NAMES, np.zeros(2), **kwargs)


@pytest.mark.parametrize(
    ('names', 'points', 'stamp', 'reason'),
    [
        ((), [POINT], 0, 'Empty joint names'),
        (('a',), [TrajectoryPoint((0.2,), None, 20 * MS)], 0, "don't match the controller joints"),
        (('a', 'c'), [POINT], 0, 'Incoming joint c'),
        (('a', 'a'), [POINT], 0, "don't match"),
        (NAMES, [], 0, 'Empty trajectory'),
        (NAMES, [POINT, POINT], 0, 'not strictly increasing'),
        (NAMES, [TrajectoryPoint((0.2,), None, 20 * MS)], 0, r'positions \(1\)'),
        (NAMES, [TrajectoryPoint((0.2, 0.1), (0.1,), 20 * MS)], 0, r'velocities \(1\)'),
        (NAMES, [TrajectoryPoint((0.2, 0.1), (), 20 * MS, (), (1.0, 1.0))], 0, 'effort'),
        (NAMES, [POINT], 500 * MS, 'ends in the past'),
    ],
)
def test_refuses_with_the_reason_and_goes_on_holding(names, points, stamp, reason):
    controller = make()
    answer = controller.receive(names, points, 1000 * MS, stamp)
    assert re.search(reason, answer)
    assert controller.rejected == 1 and controller.last_rejection == answer
    np.testing.assert_array_equal(controller.sample(2000 * MS)[0], [0, 0])
    assert len(controller.record[0]) == 0


def test_nonzero_velocity_at_the_end_is_a_parameter():
    point = TrajectoryPoint((0.2, 0.4), (1.0, 0.0), 20 * MS)
    assert make(allow_nonzero_end_velocity=False).receive(NAMES, [point], 0) == 'Velocity of last trajectory point is not zero.'
    assert make().receive(NAMES, [point], 0) == ''


def test_positions_only_are_interpolated_linearly_from_the_desired_state_at_arrival():
    controller = make()
    assert controller.receive(NAMES, [POINT], 100 * MS) == ''
    np.testing.assert_allclose(controller.sample(110 * MS)[0], [0.1, 0.2])
    assert controller.receive(NAMES, [TrajectoryPoint((0.1, 0.0), None, 20 * MS)], 110 * MS) == ''
    np.testing.assert_allclose(controller.sample(120 * MS)[0], [0.1, 0.1])
    np.testing.assert_allclose(controller.sample(500 * MS)[0], [0.1, 0.0])


def test_names_are_mapped_not_assumed():
    controller = make()
    controller.receive(('b', 'a'), [TrajectoryPoint((0.4, 0.2), None, 10 * MS)], 0)
    np.testing.assert_allclose(controller.sample(10 * MS)[0], [0.2, 0.4])


def test_nonfinite_positions_pass_as_they_do_in_the_real_controller():
    controller = make()
    assert controller.receive(NAMES, [TrajectoryPoint((float('nan'), 0.0), None, 10 * MS)], 0) == ''
    assert np.isnan(controller.sample(10 * MS)[0][0])


def test_a_stamp_sets_the_start():
    controller = make()
    controller.receive(NAMES, [TrajectoryPoint((0.0, 0.0), None, 0), POINT], 100 * MS, 200 * MS)
    np.testing.assert_allclose(controller.sample(210 * MS)[0], [0.1, 0.2])


@given(
    start=st.floats(-2, 2), speed=st.floats(-2, 2), end=st.floats(-2, 2), end_speed=st.floats(-2, 2), share=st.floats(0, 1)
)  # fmt: skip
def test_cubic_meets_both_ends_and_its_velocity_is_its_derivative(start, speed, end, end_speed, share):
    controller = JointTrajectoryController('arm', ('a',), np.array([start]))
    first = TrajectoryPoint((start + 0.1 * speed,), (speed,), 100 * MS)
    controller.receive(('a',), [first, TrajectoryPoint((end,), (end_speed,), 200 * MS)], 0)
    position, velocity = controller.sample(100 * MS)
    np.testing.assert_allclose([position[0], velocity[0]], [start + 0.1 * speed, speed], atol=1e-9)
    position, velocity = controller.sample(200 * MS)
    np.testing.assert_allclose([position[0], velocity[0]], [end, end_speed], atol=1e-9)
    t, h = int((101 + 98 * share) * MS), 1000
    slope = (controller.sample(t + h)[0] - controller.sample(t - h)[0]) / (2 * h * 1e-9)
    np.testing.assert_allclose(controller.sample(t)[1], slope, rtol=1e-3, atol=1e-3)


def test_record_is_what_was_accepted(tmp_path):
    controller = make()
    controller.receive(NAMES, [POINT], 5 * MS)
    controller.receive(('a',), [POINT], 6 * MS)
    controller.save_record(tmp_path / 'sent.npz')
    with np.load(tmp_path / 'sent.npz', allow_pickle=False) as file:
        np.testing.assert_array_equal(file['t_ns'], [5 * MS])
        np.testing.assert_allclose(file['positions'], [[0.2, 0.4]])
        assert list(file['joints']) == ['a', 'b'] and int(file['rejected']) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['sent.npz']
