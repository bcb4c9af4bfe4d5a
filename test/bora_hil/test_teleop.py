"""A pad's axes and buttons: what is driven, what is not, and when nobody is in control."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from bora_common.errors import CodecError, ConfigError
from bora_hil.teleop import Teleop, load_device

ROOT = Path(__file__).resolve().parents[2]
XBOX = ROOT / 'config/teleop/xbox.yaml'
MS = 1_000_000
ARM, HAND = range(7), range(7, 19)


class Pad:
    """A pad that speaks at 50 Hz."""

    def __init__(self, robot, task):
        self.device = load_device(XBOX, robot)
        self.teleop = Teleop(robot, self.device)
        self.sent = task.start_pose.copy()
        self.now = 1_000_000_000
        self.axes = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
        self.buttons = [0] * 11

    def say(self, deadman=None, gap_ms=20, follow=True, **pressed):
        self.now += gap_ms * MS
        if deadman is not None:
            self.buttons[self.device.deadman] = int(deadman)
        names = {'mode': self.device.mode, **self.device.buttons}
        for name, value in pressed.items():
            self.buttons[names[name]] = int(value)
        output = self.teleop.update(self.axes, self.buttons, self.now, self.sent)
        if follow and output.human is not None:
            self.sent = self.sent.copy()
            self.sent[output.human.indices] = output.human.positions
        return output


@pytest.fixture
def pad(robot, task):
    pad = Pad(robot, task)
    pad.say(deadman=False)
    return pad


def test_without_the_deadman_nothing_is_named_and_nobody_is_engaged(pad):
    pad.axes[0] = 1.0
    human = pad.say().human
    assert not human.engaged and len(human.indices) == 0


def test_the_deadman_engages_at_the_last_sent_command(pad):
    human = pad.say(deadman=True).human
    assert human.engaged
    np.testing.assert_array_equal(human.positions, pad.sent[human.indices])


def test_in_arm_mode_only_arm_joints_are_named_and_move(pad):
    start = pad.sent.copy()
    pad.say(deadman=True)
    pad.axes[0] = 1.0
    for _ in range(50):
        human = pad.say().human
    assert set(human.indices) <= set(ARM)
    assert pad.sent[0] - start[0] == pytest.approx(0.5, rel=0.01)  # one second at 0.5 rad/s
    np.testing.assert_array_equal(pad.sent[7:], start[7:])


def test_in_hand_mode_only_hand_joints_are_named_and_close_together(pad):
    start = pad.sent.copy()
    pad.say(deadman=True)
    pad.say(mode=True)
    pad.axes[1] = 1.0
    for _ in range(25):
        human = pad.say(mode=False).human
    assert set(human.indices) <= set(HAND)
    np.testing.assert_array_equal(pad.sent[:7], start[:7])
    assert np.all(pad.sent[[11, 12, 13, 14, 15, 16, 17, 18]] - start[[11, 12, 13, 14, 15, 16, 17, 18]] > 0.4)


def test_a_held_mode_button_toggles_once(pad):
    for _ in range(5):
        pad.say(mode=True)
    assert pad.teleop.mode_name == 'hand'
    pad.say(mode=False)
    pad.say(mode=True)
    assert pad.teleop.mode_name == 'arm'


def test_letting_go_is_a_fresh_message_that_releases(pad):
    pad.say(deadman=True)
    human = pad.say(deadman=False).human
    assert human is not None and not human.engaged


def test_after_a_gap_the_deadman_must_be_pressed_again(pad):
    pad.say(deadman=True)
    assert pad.say(gap_ms=200).human is None  # neither engaged nor a release: the arbiter must see silence
    assert pad.say().human is None
    assert not pad.say(deadman=False).human.engaged
    assert pad.say(deadman=True).human.engaged


def test_a_deadman_that_is_down_from_the_start_engages_nobody(robot, task):
    pad = Pad(robot, task)
    assert [pad.say(deadman=True).human for _ in range(3)] == [None] * 3
    pad.say(deadman=False)
    assert pad.say(deadman=True).human.engaged


def test_nobody_engages_before_a_command_was_seen(pad):
    sent, pad.sent = pad.sent, None
    assert not pad.say(deadman=True, follow=False).human.engaged
    pad.sent = sent
    assert not pad.say().human.engaged  # pressed too early: press again
    pad.say(deadman=False)
    assert pad.say(deadman=True).human.engaged


def test_targets_do_not_run_away_from_a_robot_that_does_not_follow(pad, robot):
    pad.say(deadman=True)
    pad.axes[0] = 1.0
    for _ in range(500):
        human = pad.say(follow=False).human
    assert np.abs(human.positions - pad.sent[human.indices]).max() == pytest.approx(pad.device.leash)
    pad.axes[1] = 1.0
    for _ in range(500):
        human = pad.say().human
    assert np.all(pad.sent <= robot.upper) and np.all(pad.sent >= robot.lower)


def test_a_new_grasp_of_the_deadman_starts_from_what_was_sent_meanwhile(pad):
    pad.say(deadman=True)
    pad.say(deadman=False)
    pad.sent = pad.sent + 0.02
    human = pad.say(deadman=True).human
    np.testing.assert_array_equal(human.positions, pad.sent[human.indices])


def test_dead_zone_and_trigger_rest(pad):
    pad.say(deadman=True)
    pad.axes[0], pad.axes[2] = 0.09, 1.0
    before = pad.sent.copy()
    pad.say()
    np.testing.assert_array_equal(pad.sent, before)
    pad.axes[2] = -1.0
    pad.say()
    assert pad.sent[2] - before[2] == pytest.approx(-0.2 * 0.02)


def test_buttons_are_edges(pad):
    assert pad.say(success=True).pressed == ('success',)
    assert pad.say().pressed == ()
    assert pad.say(success=False, resume=True).pressed == ('resume',)
    assert pad.say(resume=True, deadman=True, hold=True).pressed == ('hold',)


def test_a_button_that_is_down_from_the_start_is_no_press(robot, task):
    pad = Pad(robot, task)
    assert pad.say(failure=True).pressed == ()


@pytest.mark.parametrize(
    'axes,buttons,what',
    [
        ([0.0] * 4, [0] * 11, '4 axes'),
        ([0.0] * 8, [0] * 3, '3 buttons'),
        ([0.0, float('nan'), *[0.0] * 6], [0] * 11, 'axis 1'),
    ],
)
def test_a_joy_message_that_does_not_fit_is_named(pad, axes, buttons, what):
    with pytest.raises(CodecError, match=what):
        pad.teleop.update(axes, buttons, pad.now, pad.sent)


@pytest.mark.parametrize(
    'change,what',
    [
        (lambda d: d.pop('deadman'), 'deadman'),
        (lambda d: d.update(dedzone=1), 'deadzone'),
        (lambda d: d.update(leash='far'), 'leash'),
        (lambda d: d['buttons'].update(sucess=1), 'success'),
        (lambda d: d['modes']['arm'].append({'axis': 0, 'joints': {'fr3_joint9': 1.0}}), 'fr3_joint9'),
        (lambda d: d['modes']['arm'].append({'axis': 0, 'joints': {'fr3_joint1': 99.0}}), 'fr3_joint1'),
        (lambda d: d['modes'].clear(), 'modes'),
    ],
)
def test_a_mapping_that_does_not_fit_is_named(robot, tmp_path, change, what):
    data = yaml.safe_load(XBOX.read_text())
    change(data)
    path = tmp_path / 'pad.yaml'
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=what):
        load_device(path, robot)
