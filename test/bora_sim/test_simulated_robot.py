"""The simulated robot's ticks, camera grid, controllers and record."""

from __future__ import annotations

import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_sim.simulated_robot import Record, SimulatedRobot, step_ns

ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))


@pytest.fixture
def make(monkeypatch):
    def render(self, width, height, cameras):
        return {c: np.full((height, width, 3), self.ticks, np.uint16) for c in cameras}

    monkeypatch.setattr('bora_sim.world.SimWorld.render', render)
    return lambda camera_rate=15.0: SimulatedRobot(ROBOT, 'press_button', 3, camera_rate, 8, 6)


def send(robot, positions, joints=None):
    for group in ROBOT.groups:
        where = ROBOT.group_indices(group.name)
        points = [(positions[where], np.zeros(len(where)), 20_000_000)]
        assert robot.receive(group.controller, joints or group.joints, points) == ''


@pytest.mark.parametrize('rate, period', [(15.0, 20), (30.0, 10), (100.0, 3)])
def test_frames_fall_on_the_multiples_of_the_camera_period_also_within_a_tick(make, rate, period):
    robot = make(rate)
    frames = [f for f in (robot.tick() for _ in range(100)) if f is not None]
    assert robot.now_ns == 1_000_000_000
    assert [f.stamp_ns for f in frames] == [step_ns(period * (i + 1)) for i in range(300 // period)]
    assert frames[0].images['left'][0, 0, 0] == period  # the state at that physics step, not at the tick's end


def test_a_camera_rate_that_does_not_divide_is_refused(make):
    with pytest.raises(ConfigError, match='camera_rate 16 Hz'):
        make(16.0)


def test_targets_are_followed_and_recorded_as_one_row_an_instant(make):
    robot = make()
    goal = robot.world.qpos
    goal[2] += 0.05
    goal[9] += 0.1
    for _ in range(100):
        send(robot, goal)
        robot.tick()
    np.testing.assert_allclose(robot.world.qpos, goal, atol=0.02)
    assert len(robot.record) == 100


def test_a_rejected_trajectory_is_neither_followed_nor_recorded(make):
    robot = make()
    before = robot.targets.copy()
    points = [(np.ones(7), np.zeros(7), 20_000_000)]
    reason = robot.receive('fr3_arm_controller', [f'panda_joint{i}' for i in range(1, 8)], points)
    assert 'panda_joint1' in reason
    robot.tick()
    np.testing.assert_array_equal(robot.targets, before)
    assert len(robot.record) == 0


def test_joint_order_of_a_trajectory_is_free(make):
    robot = make()
    group, where = ROBOT.groups[0], ROBOT.group_indices('arm')
    goal = robot.world.qpos[where] + 0.01 * np.arange(7)
    points = [(goal[::-1], np.zeros(7), 20_000_000)]
    assert robot.receive(group.controller, group.joints[::-1], points) == ''
    for _ in range(3):
        robot.tick()
    np.testing.assert_allclose(robot.targets[where], goal, atol=1e-12)


def test_a_new_scene_moves_the_objects_only_and_time_goes_on(make):
    robot = make()
    goal = robot.world.qpos
    goal[1] += 0.1
    for _ in range(80):
        send(robot, goal)
        robot.tick()
    at, now, button = robot.world.qpos, robot.now_ns, robot.world.task_values['cap_x']
    robot.reset_scene(11)
    assert robot.world.seed == 11 and robot.world.task_values['cap_x'] != button
    np.testing.assert_allclose(robot.world.qpos, at, atol=1e-12)
    robot.tick()
    assert robot.now_ns == now + 10_000_000
    np.testing.assert_allclose(robot.world.targets, goal, atol=1e-9)  # those of the controllers, not the measured pose
    np.testing.assert_allclose(robot.world.qpos, at, atol=0.005)


def test_record_grows_and_is_written_whole(tmp_path):
    record = Record(['a', 'b'], np.array([1.0, 2.0]))
    for i in range(5000):
        record.add(i * 10, np.array([0]), np.array([float(i)]))
        record.add(i * 10, np.array([1]), np.array([-float(i)]))
    record.write(tmp_path / 'run' / 'record.npz')
    data = np.load(tmp_path / 'run' / 'record.npz')
    assert data['positions'].shape == (5000, 2) and tuple(data['joint_names']) == ('a', 'b')
    np.testing.assert_array_equal(data['positions'][4999], [4999.0, -4999.0])
    np.testing.assert_array_equal(data['t_ns'], np.arange(5000) * 10)
    assert [p.name for p in (tmp_path / 'run').iterdir()] == ['record.npz']
