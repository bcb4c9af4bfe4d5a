"""The hardware core: what holds, what latches, what ends by itself, and what is recorded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import CodecError
from bora_common.paths import share
from bora_common.robot import load_robot
from bora_common.types import JointCommand, Mode, RobotMode, Source, StreamId
from bora_hw.controllers import ControllerMap
from bora_hw.hardware import Hardware, Settings
from bora_hw.watchdog import Timeouts

ROBOT = load_robot(share() / 'config' / 'robots' / 'fr3_hand12.yaml')
D = len(ROBOT.layout)
MS = 1_000_000
TICK = 10 * MS
T0 = 1_000_000 * MS
READY = np.concatenate([[0.0, -0.3, 0.0, -2.3, 0.0, 2.1, 0.785], np.full(12, 0.3)])
TIMEOUTS = Timeouts(command=0.1, joint_states=0.5, clock=1.0, controller=0.5, startup=5.0)


class Rig:
    """A hardware core with both clocks, measured joints and controllers under the test's hand."""

    def __init__(self, prepared: bool = True):
        self.steady = 77 * TICK
        self.ros = T0
        self.hardware = Hardware(ROBOT, Settings(timeouts=TIMEOUTS), self.steady)
        self.measured = READY.copy()
        self.absent: tuple[str, ...] = ()
        self.seq = 0
        self.sent = []
        self.modes: list[RobotMode] = []
        self.joints = self.clock = True
        if prepared:
            self.idle(2)

    def pass_tick(self):
        self.steady += TICK
        self.ros += TICK if self.clock else 0
        if self.joints:
            self.hardware.on_joint_states(self.measured.copy(), self.steady)

    def watch(self):
        self.keep(self.hardware.tick(self.ros, self.steady, self.absent))

    def idle(self, ticks: int):
        for _ in range(ticks):
            self.pass_tick()
            self.watch()

    def command(self, positions=READY, **values):
        fields = {'stamp_ns': self.ros, 'source': Source.POLICY, 'epoch': 3, 'chunk_id': StreamId(8, 1), 'step': 4}
        fields['id'] = StreamId(5, self.seq)
        self.seq += 1
        self.keep(self.hardware.on_command(JointCommand(positions=np.asarray(positions), **(fields | values)), self.ros, self.steady))

    def follow(self, ticks: int, positions=READY):
        for _ in range(ticks):
            self.pass_tick()
            self.command(positions)
            self.watch()

    def keep(self, sent):
        if sent is not None:
            self.sent.append(sent)
        news = self.hardware.news(self.ros)
        if news is not None:
            self.modes.append(news)

    @property
    def mode(self):
        return self.hardware.mode[0]

    @property
    def reason(self):
        return self.hardware.mode[1]


# --- running and holding ----------------------------------------------------------------------------------------------------------


def test_holds_the_measured_pose_until_commands_come():
    rig = Rig()
    rig.idle(5)
    assert rig.mode == Mode.HOLD and 'no command' in rig.reason
    assert len(rig.sent) >= 5
    for sent in rig.sent:
        e = sent.executed
        assert np.array_equal(e.positions, READY) and np.array_equal(e.requested, READY) and not sent.velocities.any()
        assert e.held and e.hold_reason and e.source == Source.HOLD and not e.command_id and not e.chunk_id and e.step == -1


def test_a_command_is_sent_on_arrival_and_recorded_with_its_origin():
    rig = Rig()
    rig.sent.clear()
    rig.follow(1, READY + 1e-4)
    assert rig.mode == Mode.RUN and len(rig.sent) == 1
    sent = rig.sent[0]
    e = sent.executed
    assert np.array_equal(e.positions, READY + 1e-4) and e.limits == () and not e.held
    assert (e.stamp_ns, e.source, e.epoch, e.chunk_id, e.step) == (rig.ros, Source.POLICY, 3, StreamId(8, 1), 4)
    assert e.command_id == StreamId(5, 0)
    assert sent.time_from_start == pytest.approx(0.02)
    assert [m.mode for m in rig.modes] == [Mode.HOLD, Mode.RUN]


def test_the_first_command_far_away_is_approached_within_the_limits():
    rig = Rig()
    far = READY + 0.3
    rig.sent.clear()
    rig.follow(1, far)
    assert np.abs(rig.sent[0].executed.positions - READY).max() < 0.01
    assert 'acceleration' in rig.sent[0].executed.limits and np.array_equal(rig.sent[0].executed.requested, far)
    rig.measured = far
    rig.follow(200, far)
    assert np.abs(rig.sent[-1].executed.positions - far).max() < 1e-6


def test_loss_of_commands_holds_in_time_and_ends_by_itself():
    rig = Rig()
    for i in range(30):
        rig.follow(1, READY + 0.002 * i)
    rig.measured = rig.sent[-1].executed.positions
    lost_at, moving = rig.steady, rig.sent[-1].velocities
    assert np.abs(moving).max() > 0.15
    rig.sent.clear()
    while rig.mode == Mode.RUN:
        rig.idle(1)
    assert rig.steady - lost_at <= 110 * MS
    assert 'no command' in rig.reason
    rig.idle(30)
    assert not rig.sent[-1].velocities.any() and rig.sent[-1].executed.held
    stop = rig.sent[-1].executed.positions
    rig.follow(1, stop)
    assert rig.mode == Mode.RUN and not rig.sent[-1].executed.held
    assert not rig.hardware._watchdog.fault


def test_the_hold_brakes_within_the_acceleration_limit():
    rig = Rig()
    for i in range(60):
        rig.measured = rig.sent[-1].executed.positions
        rig.follow(1, READY + 0.008 * i)
    rig.idle(80)
    assert np.abs(next(s for s in rig.sent[3:] if s.executed.held).velocities).max() > 0.5
    velocity = np.array([s.velocities for s in rig.sent[3:]])  # every point is a nominal period after the one before
    assert np.abs(velocity[-1]).max() == 0.0
    assert np.all(np.abs(np.diff(velocity, axis=0)) / 0.01 <= ROBOT.acceleration * (1 + 1e-6) + 1e-6)


# --- services ---------------------------------------------------------------------------------------------------------------------


def test_hold_lasts_until_resume_and_ignores_commands():
    rig = Rig()
    rig.follow(5)
    rig.hardware.hold(rig.steady)
    rig.sent.clear()
    rig.follow(20, READY + 0.05)
    assert rig.mode == Mode.HOLD and rig.modes[-1].held_by_person
    assert all(s.executed.held and np.array_equal(s.executed.positions, READY) for s in rig.sent) and len(rig.sent) >= 19
    done, _ = rig.hardware.resume(rig.steady)
    rig.follow(3)
    assert done and rig.mode == Mode.RUN and rig.modes[-1].resumed


def test_resume_is_announced_also_when_nothing_was_held_and_only_until_the_next_hold():
    rig = Rig()
    rig.follow(5)
    assert not rig.modes[-1].resumed
    count = len(rig.modes)
    rig.hardware.resume(rig.steady)
    rig.follow(5)
    assert len(rig.modes) == count + 1 and rig.modes[-1].resumed
    rig.idle(20)
    rig.follow(1)
    assert rig.modes[-1].mode == Mode.RUN and not rig.modes[-1].resumed


def test_resume_does_not_clear_a_fault():
    rig = Rig()
    rig.follow(2)
    rig.hardware.on_unusable('command', 'not finite')
    done, why = rig.hardware.resume(rig.steady)
    assert not done and 'clear_fault' in why
    assert rig.mode == Mode.FAULT or rig.hardware._watchdog.fault


# --- faults -----------------------------------------------------------------------------------------------------------------------


def provoke_nan(rig):
    bad = READY.copy()
    bad[3] = np.nan
    rig.command(bad)


def provoke_tracking(rig):
    rig.measured[1] += 0.4


def provoke_joints(rig):
    rig.joints = False
    for _ in range(60):
        rig.follow(1)
    rig.joints = True


def provoke_clock_stop(rig):
    rig.clock = False
    rig.idle(120)
    rig.clock = True


def provoke_clock_jump(rig):
    rig.ros -= 2000 * MS


def provoke_controller(rig):
    rig.absent = ('hand_controller',)
    rig.follow(60)
    rig.absent = ()


FAULTS = {
    'fr3_joint4': provoke_nan,
    'tracking: fr3_joint2': provoke_tracking,
    'joint states: none': provoke_joints,
    'stands still': provoke_clock_stop,
    'jumped back': provoke_clock_jump,
    'controller "hand_controller" does not listen on /hand_controller/joint_trajectory': provoke_controller,
}


@pytest.mark.parametrize('text', FAULTS)
def test_a_fault_latches_holds_and_is_cleared_only_by_a_person(text):
    rig = Rig()
    rig.follow(5)
    rig.pass_tick()
    FAULTS[text](rig)
    rig.idle(2)
    assert rig.mode == Mode.FAULT and text in rig.reason
    rig.sent.clear()
    rig.measured = READY + 0.02
    rig.follow(20, READY + 0.05)
    rig.idle(20)
    assert rig.mode == Mode.FAULT and text in rig.reason
    assert len(rig.sent) >= 39  # holding is a command
    assert all(s.executed.held and text in s.executed.hold_reason for s in rig.sent)
    assert all(np.array_equal(s.executed.positions, rig.sent[0].executed.positions) for s in rig.sent)
    done, why = rig.hardware.clear_fault(rig.ros, rig.steady)
    assert done, why
    rig.idle(1)
    assert rig.mode == Mode.HOLD
    assert np.array_equal(rig.sent[-1].executed.positions, rig.measured)  # from the measured pose
    rig.follow(2, rig.measured)
    assert rig.mode == Mode.RUN


def test_the_first_reason_stays():
    rig = Rig()
    rig.follow(3)
    rig.hardware.on_unusable('command', 'first')
    rig.joints = False
    rig.idle(100)
    assert rig.reason == 'command: first'


def test_a_fault_whose_cause_is_still_there_is_not_cleared():
    rig = Rig()
    rig.follow(3)
    rig.joints = False
    rig.idle(60)
    done, why = rig.hardware.clear_fault(rig.ros, rig.steady)
    assert not done and 'joint states' in why
    rig.idle(1)
    assert rig.mode == Mode.FAULT


def test_commands_decided_before_the_fault_was_cleared_are_not_followed():
    rig = Rig()
    rig.follow(3)
    rig.hardware.on_unusable('command', 'x')
    rig.idle(3)
    old = rig.ros - TICK
    assert rig.hardware.clear_fault(rig.ros, rig.steady)[0]
    rig.pass_tick()
    rig.sent.clear()
    rig.command(READY + 0.2, stamp_ns=old)
    assert rig.sent == [] and rig.mode == Mode.HOLD


# --- never started ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('missing', ['joint_states', 'clock', 'controllers', 'wrong joints'])
def test_nothing_is_ever_sent_before_everything_is_there(missing):
    rig = Rig(prepared=False)
    rig.joints = missing not in ('joint_states', 'wrong joints')
    if missing == 'clock':
        rig.ros, rig.clock = 0, False
    if missing == 'controllers':
        rig.absent = ('fr3_arm_controller',)
    if missing == 'wrong joints':
        rig.hardware.on_unusable('/joint_states', 'joint "fr3_joint1" is missing')
    for _ in range(600):
        rig.pass_tick()
        rig.command(READY + 0.1)
        rig.watch()
    assert rig.sent == [] and rig.mode == Mode.FAULT
    expected = {'joint_states': '/joint_states', 'clock': '/clock', 'controllers': 'fr3_arm_controller', 'wrong joints': 'fr3_joint1'}
    assert expected[missing] in rig.reason
    if missing != 'wrong joints':
        assert any(m.mode == Mode.HOLD and 'waiting' in m.reason for m in rig.modes)
    assert rig.hardware.last_hold(rig.ros, 'stop') is None


# --- commands that don't count ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('offset_ms', [-150, 150])
def test_a_command_of_another_time_is_dropped(offset_ms):
    rig = Rig()
    rig.sent.clear()
    with pytest.raises(CodecError, match='old'):
        rig.command(stamp_ns=rig.ros + offset_ms * MS)
    assert rig.sent == [] and rig.mode == Mode.HOLD


def test_a_repeated_command_is_dropped():
    rig = Rig()
    rig.follow(2)
    with pytest.raises(CodecError, match='twice'):
        rig.command(id=StreamId(5, 1))


def test_commands_faster_than_the_control_rate_do_not_move_the_robot_faster():
    rig = Rig()
    rig.follow(1)
    start, before = rig.steady, len(rig.sent)
    for i in range(100):  # 1 kHz
        rig.steady += MS
        rig.ros += MS
        rig.measured = rig.sent[-1].executed.positions
        rig.hardware.on_joint_states(rig.measured, rig.steady)
        try:
            rig.command(READY + 0.01 * i, stamp_ns=rig.ros)
        except CodecError as error:
            assert 'faster' in str(error)
    assert rig.steady - start == 100 * MS and len(rig.sent) - before <= 21
    gap = np.diff([s.executed.stamp_ns for s in rig.sent[before - 1 :]])
    assert np.all(gap >= 5 * MS)


def test_lock_step_commands_a_tick_ahead_of_the_clock_heard_here():
    rig = Rig()
    for _ in range(5):
        rig.pass_tick()
        rig.command(READY, stamp_ns=rig.ros + TICK)
    stamps = [s.executed.stamp_ns for s in rig.sent if not s.executed.held]
    assert len(stamps) == 5 and np.all(np.diff(stamps) == TICK)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_happens_what_is_sent_is_finite_and_bounded(seed):
    rng = np.random.default_rng(seed)
    rig = Rig()
    velocity = np.zeros(D)
    rig.sent = rig.sent[-1:]
    for _ in range(100):
        rig.pass_tick()
        kind = rng.integers(12)
        request = READY + rng.normal(size=D) * rng.choice([0.001, 0.1, 10.0])
        if kind == 0:
            request[rng.integers(D)] = rng.choice([np.nan, np.inf, 1e300])
        if kind == 1:
            rig.hardware.hold(rig.steady)
        if kind == 2:
            rig.hardware.resume(rig.steady)
        if kind == 3:
            rig.measured = rig.sent[-1].executed.positions
            rig.hardware.clear_fault(rig.ros, rig.steady)
        before = len(rig.sent)
        if kind not in (4, 5):
            rig.command(request)
        rig.watch()
        for sent in rig.sent[before:]:
            p = sent.executed.positions
            assert np.all(np.isfinite(p)) and np.all(np.isfinite(sent.velocities))
            assert np.all(p >= ROBOT.lower - 1e-9) and np.all(p <= ROBOT.upper + 1e-9)
            assert np.all(np.abs(sent.velocities) <= ROBOT.velocity * (1 + 1e-6))
            velocity = sent.velocities
        rig.measured = rig.sent[-1].executed.positions
    assert velocity.shape == (D,)


# --- end --------------------------------------------------------------------------------------------------------------------------


def test_the_last_message_stops_the_robot_by_itself():
    rig = Rig()
    for i in range(40):
        rig.measured = rig.sent[-1].executed.positions
        rig.follow(1, READY + 0.004 * i)
    last, moving = rig.sent[-1], np.abs(rig.sent[-1].velocities)
    assert moving.max() > 0.3
    final = rig.hardware.last_hold(rig.ros, 'hardware node stops')
    way = np.abs(final.executed.positions - last.executed.positions)
    assert not final.velocities.any() and final.executed.held and final.executed.hold_reason == 'hardware node stops'
    assert np.allclose(way, moving**2 / (2 * ROBOT.acceleration))
    assert final.time_from_start >= np.max(moving / ROBOT.acceleration) - 1e-12


def test_controllers_get_their_own_joints():
    points = ControllerMap(ROBOT).split(np.arange(D, dtype=float), -np.arange(D, dtype=float))
    assert [p.controller for p in points] == ['fr3_arm_controller', 'hand_controller']
    assert points[0].joints == ROBOT.layout.names[:7] and points[1].joints == ROBOT.layout.names[7:]
    assert np.array_equal(points[1].positions, np.arange(7.0, 19.0)) and np.array_equal(points[1].velocities, -points[1].positions)


def test_controllers_follow_the_names_not_the_order_of_groups():
    swapped = replace(ROBOT, groups=ROBOT.groups[::-1])
    points = ControllerMap(swapped).split(np.arange(D, dtype=float), np.zeros(D))
    assert points[0].controller == 'hand_controller' and np.array_equal(points[0].positions, np.arange(7.0, 19.0))
