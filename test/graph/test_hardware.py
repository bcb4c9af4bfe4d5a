"""The hardware node alone in its process: a controller and an arbiter of this process talk to it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bora_common import topics
from bora_common.codec import decode_executed, decode_robot_mode, encode_command, encode_joint_states
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import JointCommand, Mode, Source, StreamId

pytestmark = pytest.mark.timeout(90)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
D = len(ROBOT.layout)
READY = np.concatenate([[0.0, -0.3, 0.0, -2.3, 0.0, 2.1, 0.785], np.full(12, 0.3)])


class FakeRobot:
    """Joint states at 100 Hz, listening controllers, and a stream of commands that can be switched."""

    def __init__(self, graph, names=ROBOT.layout.names, **parameters):
        self.graph, self.names = graph, names
        self.measured = READY.copy()
        self.positions: np.ndarray | None = None  # to command
        self.seq = 0
        self.points = {g.controller: graph.record(topics.joint_trajectory(g.controller), depth=50) for g in ROBOT.groups}
        self.process = graph.start('hardware', parameters={'hardware': parameters})
        self.states = graph.publisher(topics.JOINT_STATES)
        self.commands = graph.publisher(topics.COMMAND)
        self.modes, self.executed = graph.record(topics.ROBOT_STATE), graph.record(topics.EXECUTED)
        graph.wait_matched(self.states)
        graph.wait_matched(self.commands)
        self.timer = graph.node.create_timer(0.01, self.tick)

    def tick(self):
        now = self.graph.node.get_clock().now().nanoseconds
        order = np.argsort(self.names)[::-1]  # not the layout's
        self.states.publish(encode_joint_states(now, [self.names[i] for i in order], self.measured[order]))
        if self.positions is not None:
            self.commands.publish(self.command(self.positions))

    def command(self, positions):
        now = self.graph.node.get_clock().now().nanoseconds
        self.seq += 1
        value = JointCommand(now, np.nan_to_num(positions), Source.POLICY, epoch=2, chunk_id=StreamId(9, 1), id=StreamId(7, self.seq))
        message = encode_command(value, ROBOT.layout)
        if not np.all(np.isfinite(positions)):
            message.positions = positions.tolist()
        return message

    @property
    def mode(self):
        return decode_robot_mode(self.modes[-1]) if self.modes else None

    def wait_mode(self, mode, text='', timeout=15.0):
        self.graph.wait(lambda: self.mode and self.mode.mode == mode and text in self.mode.reason, f'mode {mode.name} "{text}"', timeout)

    def last(self):
        return decode_executed(self.executed[-1], ROBOT.layout)

    def wait_executed(self, more):
        count = len(self.executed)
        self.graph.wait(lambda: len(self.executed) >= count + more, f'{more} points')


def test_commands_are_sent_and_their_loss_is_a_hold_that_ends_by_itself(graph):
    robot = FakeRobot(graph)
    robot.wait_mode(Mode.HOLD, 'no command')
    robot.wait_executed(5)
    assert robot.last().held and np.array_equal(robot.last().positions, READY)
    robot.positions = READY + 0.001
    robot.wait_mode(Mode.RUN)
    graph.wait(lambda: not robot.last().held and np.allclose(robot.last().positions, READY + 0.001), 'the command at the robot')
    assert robot.last().source == Source.POLICY and robot.last().epoch == 2 and robot.last().chunk_id == StreamId(9, 1)
    for group in ROBOT.groups:
        message = robot.points[group.controller][-1]
        assert tuple(message.joint_names) == group.joints and len(message.points) == 1
        assert message.header.stamp.sec == message.header.stamp.nanosec == 0
        assert message.points[0].time_from_start.nanosec == 20_000_000 and len(message.points[0].velocities) == len(group.joints)
    robot.positions = None
    lost = time.monotonic()
    robot.wait_mode(Mode.HOLD, 'no command')
    assert time.monotonic() - lost < 5.0
    robot.wait_executed(20)  # holding is a command
    assert robot.last().held and np.allclose(robot.last().positions, READY + 0.001)
    robot.positions = READY + 0.001
    robot.wait_mode(Mode.RUN)


def test_nan_is_never_sent_and_latches_until_a_person_clears_it(graph):
    robot = FakeRobot(graph)
    robot.positions = READY
    robot.wait_mode(Mode.RUN)
    bad = READY.copy()
    bad[4] = np.nan
    robot.positions = None
    graph.wait(lambda: robot.commands.publish(robot.command(bad)) or robot.mode.mode == Mode.FAULT, 'fault')
    assert 'finite' in robot.mode.reason
    robot.positions = READY
    robot.wait_executed(30)
    assert robot.last().held and robot.mode.mode == Mode.FAULT
    assert all(np.all(np.isfinite(p.positions)) for messages in robot.points.values() for m in messages for p in m.points)
    assert not graph.call(topics.RESUME).success
    assert graph.call(topics.CLEAR_FAULT).success
    robot.wait_mode(Mode.RUN)


def test_hold_and_resume(graph):
    robot = FakeRobot(graph)
    robot.positions = READY
    robot.wait_mode(Mode.RUN)
    assert graph.call(topics.HOLD).success
    robot.wait_mode(Mode.HOLD)
    assert robot.mode.held_by_person
    robot.positions = READY + 0.01
    robot.wait_executed(20)
    assert robot.last().held and np.array_equal(robot.last().positions, READY)
    assert graph.call(topics.RESUME).success
    robot.wait_mode(Mode.RUN)
    assert robot.mode.resumed
    graph.wait(lambda: np.allclose(robot.last().positions, READY + 0.01), 'motion')


def test_another_robots_joint_names_are_a_fault_and_nothing_is_sent(graph):
    names = tuple('panda_joint1' if n == 'fr3_joint1' else n for n in ROBOT.layout.names)
    robot = FakeRobot(graph, names=names)
    robot.positions = READY
    robot.wait_mode(Mode.FAULT, '"fr3_joint1" is missing')
    seq = robot.seq
    graph.wait(lambda: robot.seq > seq + 50, 'commands')
    assert not robot.executed and not any(robot.points.values())


def test_a_command_that_names_other_joints_is_dropped(graph):
    robot = FakeRobot(graph)
    robot.wait_mode(Mode.HOLD, 'no command')
    for _ in range(30):
        message = robot.command(READY + 0.05)
        message.joint_names = ['panda_joint1', *ROBOT.layout.names[1:]]
        robot.commands.publish(message)
        robot.wait_executed(1)
    graph.wait(lambda: 'fr3_joint1' in robot.process.output, 'the drop in the log')
    assert robot.mode.mode == Mode.HOLD
    assert all(decode_executed(m, ROBOT.layout).held for m in robot.executed)


def test_lost_joint_states_latch(graph):
    robot = FakeRobot(graph, joint_state_timeout=0.3)
    robot.positions = READY
    robot.wait_mode(Mode.RUN)
    robot.timer.cancel()
    robot.wait_mode(Mode.FAULT, 'joint states')
    assert not graph.call(topics.CLEAR_FAULT).success
    robot.timer.reset()
    graph.wait(lambda: graph.call(topics.CLEAR_FAULT).success, 'clear')
    robot.wait_mode(Mode.RUN)


def test_the_end_of_the_node_leaves_a_hold_behind(graph):
    robot = FakeRobot(graph)
    robot.positions = READY
    robot.wait_mode(Mode.RUN)
    assert robot.process.stop() == 0
    graph.wait(lambda: robot.executed and robot.last().hold_reason == 'hardware node stops', 'the last hold', 15.0)
    assert not np.any(robot.points['fr3_arm_controller'][-1].points[0].velocities)


def test_missing_controllers_are_named(graph):
    graph.start('hardware', parameters={'hardware': {'startup_timeout': 8.0}})
    states, modes = graph.publisher(topics.JOINT_STATES), graph.record(topics.ROBOT_STATE)
    graph.wait_matched(states)
    clock = graph.node.get_clock()
    graph.node.create_timer(0.01, lambda: states.publish(encode_joint_states(clock.now().nanoseconds, ROBOT.layout.names, READY)))
    graph.wait(lambda: modes and modes[-1].mode == int(Mode.FAULT), 'fault', 30.0)
    assert 'fr3_arm_controller' in modes[-1].reason and '/fr3_arm_controller/joint_trajectory' in modes[-1].reason
