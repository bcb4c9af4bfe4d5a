"""The simulated robot as a process: what a real robot's drivers and controllers would show on the network."""

from __future__ import annotations

import numpy as np
import pytest

from bora_common import topics
from bora_common.codec import decode_joint_states, encode_executed, encode_joint_trajectory, image_from_msg, stamp_to_ns
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import ExecutedCommand, Source, StreamId

pytestmark = pytest.mark.timeout(90)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
NOISY = 0.02  # rad


class FakeHardware:
    """Answers each tick with targets and `executed`, as the hardware node does."""

    def __init__(self, graph):
        self.graph, self.targets, self.joints, self.answers = graph, None, [], 0
        self.trajectories = {g.controller: graph.publisher(topics.joint_trajectory(g.controller)) for g in ROBOT.groups}
        self.executed = graph.publisher(topics.EXECUTED)
        for publisher in (*self.trajectories.values(), self.executed):
            graph.wait_matched(publisher)
        graph.on(topics.JOINT_STATES, self.answer)

    def answer(self, message):
        stamp, positions, _ = decode_joint_states(message, ROBOT.layout)
        self.joints.append((stamp, positions))
        if self.targets is None:
            return
        for group in ROBOT.groups:
            self.send(group.controller, group.joints, self.targets[ROBOT.group_indices(group.name)])
        record = ExecutedCommand(stamp, self.targets, self.targets, (), Source.HOLD, 0.0, 0, StreamId(), -1)
        self.executed.publish(encode_executed(record, ROBOT.layout))
        self.answers += 1

    def send(self, controller, joints, positions):
        self.trajectories[controller].publish(encode_joint_trajectory(joints, positions, np.zeros(len(joints)), 0.02))

    @property
    def positions(self):
        return self.joints[-1][1]

    def wait_ticks(self, n):
        seen = len(self.joints)
        self.graph.wait(lambda: len(self.joints) >= seen + n, f'{n} joint states')


def start(graph, **parameters):
    return graph.start('simulated_robot', parameters={'simulated_robot': parameters})


def test_cameras_joints_clock_and_truth_are_published_on_the_simulated_time(graph):
    start(graph, width=64, height=48)
    images = {c: graph.record(topics.camera_image(c), depth=10) for c in topics.CAMERAS}
    info = graph.record(topics.camera_info('front'))
    joints, clock, truth = (graph.record(t, depth=50) for t in (topics.JOINT_STATES, topics.CLOCK, topics.SIM_STATE))
    graph.wait(lambda: all(len(m) >= 8 for m in images.values()) and len(info) > 0 and len(truth) > 5, 'images')
    for camera, messages in images.items():
        assert messages[0].header.frame_id == f'camera_{camera}_color_optical_frame'
        assert image_from_msg(messages[0]).shape == (48, 64, 3)
        assert image_from_msg(messages[0]).std() > 5  # a scene, not a blank
        steps = np.diff([stamp_to_ns(m.header.stamp) for m in messages]) / (1e9 / 15)
        assert np.allclose(steps, np.round(steps), atol=1e-6) and steps.min() > 0.99
    assert info[0].width == 64 and info[0].k[0] == info[0].k[4] > 0
    ticks = np.diff([stamp_to_ns(m.clock) for m in clock])
    assert np.all(ticks % 10_000_000 == 0) and np.all(ticks > 0)
    assert sorted(joints[0].name) == sorted(ROBOT.layout.names) and tuple(joints[0].name) != ROBOT.layout.names
    assert truth[0].task == 'press_button' and not truth[0].success and 'cap_x' in truth[0].task_values_names
    np.testing.assert_allclose(decode_joint_states(joints[0], ROBOT.layout)[1], truth[0].qpos, atol=NOISY)


def test_the_robot_follows_trajectories_in_lock_step_and_records_them(graph, tmp_path):
    process = start(graph, realtime_factor=0.0, lockstep_timeout=5.0, record=str(tmp_path / 'record.npz'))
    hardware = FakeHardware(graph)
    hardware.wait_ticks(2)
    goal = hardware.positions.copy()
    goal[0] += 0.1
    goal[8] += 0.2
    hardware.targets = goal
    graph.wait(lambda: hardware.answers > 100, '100 answered ticks')
    np.testing.assert_allclose(hardware.positions, goal, atol=NOISY)
    stamps = np.array([t for t, _ in hardware.joints[-80:]])
    assert np.all(np.diff(stamps) == 10_000_000)  # no tick without an answer, none lost
    assert process.stop() == 0
    record = np.load(tmp_path / 'record.npz')
    assert tuple(record['joint_names']) == ROBOT.layout.names
    np.testing.assert_array_equal(record['positions'][-1], goal)
    assert np.all(np.diff(record['t_ns']) > 0) and len(record['t_ns']) >= 100


def test_a_silent_graph_does_not_stop_the_simulation(graph):
    start(graph, realtime_factor=0.0, lockstep_timeout=0.01)
    hardware = FakeHardware(graph)
    hardware.wait_ticks(2)
    hardware.targets = hardware.positions.copy()
    graph.wait(lambda: hardware.answers > 20, '20 answered ticks')
    hardware.targets = None
    hardware.wait_ticks(40)


def test_wrong_joint_names_are_rejected_and_the_robot_stays(graph):
    process = start(graph)
    hardware = FakeHardware(graph)
    hardware.wait_ticks(20)
    before = hardware.positions.copy()
    arm = ROBOT.groups[0]
    wrong = [*arm.joints[:-1], 'panda_joint7']
    for _ in range(20):
        hardware.send(arm.controller, wrong, before[:7] + 0.3)
        hardware.wait_ticks(2)
    np.testing.assert_allclose(hardware.positions[:7], before[:7], atol=0.005)
    graph.wait(lambda: 'panda_joint7' in process.output, 'rejection in the log')


def test_reset_scene_moves_the_objects_and_not_the_arm(graph):
    start(graph)
    hardware = FakeHardware(graph)
    truth = graph.record(topics.SIM_STATE)
    hardware.wait_ticks(2)
    goal = hardware.positions.copy()
    goal[1] += 0.15
    hardware.targets = goal
    graph.wait(lambda: abs(hardware.positions[1] - goal[1]) < NOISY, 'motion')
    request = graph.request(topics.SIM_RESET_SCENE)
    request.task, request.seed = 'press_button', 41
    assert graph.call(topics.SIM_RESET_SCENE, request).success
    graph.wait(lambda: truth and truth[-1].seed == 41, 'the new scene')
    hardware.wait_ticks(20)
    np.testing.assert_allclose(hardware.positions, goal, atol=NOISY)
    first, last = (dict(zip(m.task_values_names, m.task_values, strict=True)) for m in (truth[0], truth[-1]))
    assert (first['cap_x'], first['cap_y']) != (last['cap_x'], last['cap_y'])
    request.task = 'press_buttons'
    answer = graph.call(topics.SIM_RESET_SCENE, request)
    assert not answer.success and 'press_button' in answer.message


def test_a_camera_rate_that_does_not_fit_is_refused_by_name(graph):
    process = start(graph, camera_rate=14.0)
    assert process.wait() == 1
    assert 'camera_rate 14 Hz does not divide' in process.output
