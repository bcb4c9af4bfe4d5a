"""The arbiter tick by tick: who moves the robot, from where, and what is dropped."""

from dataclasses import replace

import numpy as np
import pytest
from hil_bench import DT, TICK, Bench

from bora_common.types import HOLD_SERVICE, RESUME_SERVICE, EpisodeState, Mode, Outcome, Source
from bora_common.types import ArbiterState as S
from bora_hil.arbiter import Arbiter


def last(bench):
    return bench.commands[-1]


def jump(bench):
    """Largest change between consecutive commands [rad]."""
    return np.abs(np.diff([c.positions for c in bench.commands], axis=0)).max()


# --- before and around an episode -------------------------------------------------------------------------------------------------


def test_nothing_is_commanded_before_the_joints_were_seen(robot, task):
    arbiter = Arbiter(robot, task)
    assert arbiter.tick(0, 0).command is None
    arbiter.on_joints(task.start_pose + 0.01)
    decision = arbiter.tick(TICK, TICK)
    np.testing.assert_allclose(decision.command.positions, task.start_pose + 0.01)
    assert decision.command.source == Source.HOLD
    assert [e.reason for e in decision.events] == ['arbiter started']


def test_holds_the_first_measured_pose_not_the_present_one(bench):
    bench.tick()
    bench.arbiter.on_joints(bench.home + 0.2)
    bench.tick(5)
    np.testing.assert_allclose(last(bench).positions, bench.home)


def test_reset_goes_to_the_start_pose_within_a_fraction_of_the_limits(robot, task):
    bench = Bench(robot, task, reset_speed=0.3, reset_settle=0.1)
    away = np.clip(task.start_pose + 0.6, robot.lower, robot.upper)
    bench.arbiter.on_joints(away)
    bench.tick()
    bench.episode(EpisodeState.RESETTING)
    bench.tick()
    assert bench.arbiter.state == S.RESET and last(bench).source == Source.RESET
    bench.tick(400)
    assert bench.arbiter.state == S.HOLD and bench.events[-1].reason == 'start pose reached' and bench.events[-1].previous == S.RESET
    np.testing.assert_allclose(last(bench).positions, task.start_pose, atol=1e-9)
    track = np.array([c.positions for c in bench.commands])
    assert np.all(np.abs(np.diff(track, axis=0)).max(0) <= 0.3 * robot.velocity * 0.01 + 1e-9)
    assert np.all(np.abs(np.diff(track, 2, axis=0)).max(0) <= 0.3 * robot.acceleration * 1e-4 + 1e-9)


def test_reset_starts_from_the_last_sent_command(bench):
    bench.tick()
    bench.arbiter.on_joints(bench.home - 0.3)
    bench.episode(EpisodeState.RESETTING)
    bench.tick(3)
    assert jump(bench) < 1e-9  # it is there already; the measured pose plays no part


def test_the_episode_starts_the_policy_and_ends_it(bench):
    bench.run()
    assert bench.arbiter.state == S.AUTONOMOUS and last(bench).source == Source.POLICY and last(bench).chunk_id
    bench.episode(EpisodeState.ENDED, outcome=Outcome.TIMEOUT)
    bench.tick()
    assert bench.arbiter.state == S.HOLD and last(bench).source == Source.HOLD and not last(bench).chunk_id
    assert bench.events[-1].reason == 'episode ended: timeout'


def test_an_old_running_event_is_no_start_signal(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING, stamp_ns=bench.now - 5_000_000_000)
    bench.tick()
    assert bench.arbiter.state == S.HOLD
    bench.tick(1, engaged=True)
    assert bench.arbiter.state == S.BLEND_IN  # a person may still take it


def test_a_replayed_history_counts_only_by_its_newest_event(bench):
    bench.tick()
    for state in (EpisodeState.RESETTING, EpisodeState.READY, EpisodeState.RUNNING, EpisodeState.ENDED):
        bench.episode(state)
    bench.tick()
    assert bench.arbiter.state == S.HOLD and len(bench.events) == 1


def test_the_start_event_is_not_stamped_before_the_start(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING, stamp_ns=bench.now + 3 * TICK)
    bench.tick()
    assert bench.events[-1].stamp_ns == bench.now + 2 * TICK


# --- the policy -------------------------------------------------------------------------------------------------------------------


def test_without_a_chunk_the_last_sent_command_is_kept(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick(30)
    assert last(bench).source == Source.POLICY and last(bench).step == -1 and not last(bench).chunk_id
    np.testing.assert_allclose(last(bench).positions, bench.home)


def test_a_newer_chunk_is_adopted_when_the_horizon_is_played_and_the_newest_wins(bench):
    bench.run()
    first = last(bench).chunk_id
    start = bench.now
    while bench.now < start + 15.5 * DT * 1e9:
        newest = bench.chunk().id
        bench.tick()
        assert last(bench).chunk_id == first
    while last(bench).chunk_id == first:
        bench.tick()
    assert last(bench).chunk_id == newest
    assert bench.now - start == pytest.approx(16 * DT * 1e9, abs=2 * TICK)


def test_an_exhausted_chunk_keeps_its_last_step(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick()
    chunk = bench.chunk(slope=0.05)
    bench.tick(round(33 * DT / 0.01))
    np.testing.assert_allclose(last(bench).positions, np.clip(chunk.positions[-1], bench.robot.lower, bench.robot.upper), atol=1e-9)
    assert not bench.arbiter.playing
    before = last(bench).positions
    bench.tick(50)
    np.testing.assert_array_equal(last(bench).positions, before)


@pytest.mark.parametrize(
    'kind,reason',
    [
        ({'epoch': 0}, 'of another epoch'),
        ({'epoch': 99}, 'of another epoch'),
        ({'episode': 'other'}, 'of another episode'),
        ({'stamp_ns': -500_000_000}, 'too old'),
    ],
)
def test_unfit_chunks_are_dropped_and_counted(bench, kind, reason):
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick()
    bench.chunk(offset=0.5, **kind)
    bench.tick(20)
    assert bench.arbiter.dropped == {reason: 1}
    np.testing.assert_allclose(last(bench).positions, bench.home)


def test_a_late_chunk_is_looked_up_by_time(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick()
    seen = bench.now
    bench.tick(40)  # inference took 0.4 s: six steps are due by now
    bench.chunk(stamp_ns=seen, slope=0.1)
    bench.tick()
    assert last(bench).step == 6
    assert jump(bench) < 0.004


def test_a_first_chunk_far_away_is_faded_in(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick()
    bench.chunk(offset=0.15)
    bench.tick(3)
    assert 0.0 < np.abs(last(bench).positions - bench.home).max() < 0.04
    bench.tick(12)
    np.testing.assert_allclose(last(bench).positions, np.clip(bench.home + 0.15, bench.robot.lower, bench.robot.upper))


# --- takeover ---------------------------------------------------------------------------------------------------------------------


def test_a_takeover_is_in_force_at_the_next_tick_and_freezes_the_policy(bench):
    bench.run()
    bench.chunk(slope=0.5)
    bench.tick(3)
    frozen = last(bench).positions
    epoch = bench.arbiter.epoch
    bench.human(offset=0.2)
    bench.chunk(offset=0.3)
    bench.tick()
    assert bench.arbiter.state == S.BLEND_IN and bench.arbiter.epoch == epoch + 1
    assert last(bench).source == Source.HUMAN and 0 < last(bench).beta <= 0.05 and last(bench).step == -1
    np.testing.assert_allclose(last(bench).positions, frozen, atol=0.05 * 0.2 + 1e-9)
    event = bench.events[-1]
    assert (event.state, event.previous, event.device, event.epoch) == (S.BLEND_IN, S.AUTONOMOUS, 'pad', epoch + 1)


def test_beta_ramps_to_one_within_the_blend_time(bench):
    bench.run()
    bench.tick(25, engaged=True, offset=0.1)
    ramp = [c.beta for c in bench.commands if c.source == Source.HUMAN]
    assert ramp[0] > 0 and np.all(np.diff(ramp) >= 0) and ramp[-1] == 1.0
    assert sum(b < 1.0 for b in ramp) == pytest.approx(19, abs=1)
    assert bench.arbiter.state == S.HUMAN
    np.testing.assert_allclose(last(bench).positions[:7], (bench.home + 0.1)[:7], atol=1e-6)


def test_blending_mixes_the_command_at_takeover_not_the_running_policy(bench):
    bench.run()
    frozen = last(bench).positions
    for _ in range(10):
        bench.chunk(offset=0.4, epoch=bench.arbiter.epoch)
        bench.tick(1, engaged=True, offset=0.1)
        expected = frozen[:7] + last(bench).beta * 0.1
        assert np.all(last(bench).positions[:7] <= expected + 1e-9)
        np.testing.assert_array_equal(last(bench).positions[7:], frozen[7:])


def test_joints_a_device_does_not_name_keep_the_command_at_takeover(bench):
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick()
    bench.chunk(slope=0.2)
    bench.tick(10)
    frozen = last(bench).positions
    assert np.abs(frozen[7:] - bench.home[7:]).max() > 0.001  # the policy moved the hand until then
    bench.tick(40, engaged=True, offset=0.05)
    np.testing.assert_array_equal(last(bench).positions[7:], frozen[7:])


def test_joints_no_longer_named_keep_their_last_target(bench):
    bench.run()
    bench.tick(40, engaged=True, offset=0.1)
    for _ in range(30):
        bench.human(indices=[11, 12], positions=[0.5, 0.5])
        bench.tick()
    np.testing.assert_allclose(last(bench).positions[:7], (bench.home + 0.1)[:7], atol=1e-6)
    np.testing.assert_allclose(last(bench).positions[[11, 12]], 0.5)


def test_no_policy_command_after_a_takeover_until_the_release(bench):
    bench.run()
    bench.human()
    bench.tick()
    first = len(bench.commands) - 1
    for i in range(60):
        bench.chunk(offset=0.3, epoch=bench.arbiter.epoch - i % 2)
        bench.tick(1, engaged=True)
    assert all(c.source == Source.HUMAN and not c.chunk_id for c in bench.commands[first:])


def test_nobody_takes_over_outside_an_episode(bench):
    bench.tick(10, engaged=True)
    assert bench.arbiter.state == S.HOLD
    bench.episode(EpisodeState.RESETTING)
    bench.tick(3, engaged=True)
    assert bench.arbiter.state == S.RESET


# --- release and silence ----------------------------------------------------------------------------------------------------------


def test_a_release_holds_until_a_chunk_of_the_new_epoch_then_ramps_down(bench):
    bench.run()
    bench.tick(40, engaged=True, offset=0.1)
    held = last(bench).positions
    epoch = bench.arbiter.epoch
    bench.tick(30, engaged=False)
    assert bench.arbiter.state == S.BLEND_OUT and bench.arbiter.epoch == epoch + 1
    assert last(bench).source == Source.HUMAN and last(bench).beta == 1.0
    np.testing.assert_array_equal(last(bench).positions, held)
    bench.chunk(epoch=epoch, offset=0.3)  # proposed before the release
    bench.tick()
    np.testing.assert_array_equal(last(bench).positions, held)
    bench.chunk()
    bench.tick(10)
    assert last(bench).source == Source.POLICY and 0 < last(bench).beta < 1 and last(bench).chunk_id
    bench.tick(12)
    assert bench.arbiter.state == S.AUTONOMOUS and last(bench).beta == 0.0
    assert bench.events[-1].epoch == epoch + 1  # the chunk that ends the hand-over stays valid
    assert jump(bench) < 0.012


def test_silence_of_the_device_holds_and_only_a_person_ends_it(bench):
    bench.run()
    bench.tick(40, engaged=True, offset=0.1)
    held = last(bench).positions
    bench.tick(15)
    assert bench.arbiter.state == S.HUMAN  # exactly the time-out
    bench.tick(1)
    assert bench.arbiter.state == S.HOLD and last(bench).source == Source.HOLD and 'silent' in bench.events[-1].reason
    np.testing.assert_allclose(last(bench).positions, held, atol=1e-9)
    bench.chunk(offset=0.3)
    bench.tick(100)
    bench.tick(20, engaged=False)  # the device is back with the deadman up: no release, nobody was in control
    bench.robot_mode(Mode.RUN, 'commands are back')
    bench.tick(10)
    assert bench.arbiter.state == S.HOLD
    bench.tick(1, engaged=True)
    assert bench.arbiter.state == S.BLEND_IN


def test_resume_ends_the_hold_after_silence(bench):
    bench.run()
    bench.tick(40, engaged=True)
    bench.tick(20)
    epoch = bench.arbiter.epoch
    bench.robot_mode(Mode.RUN, RESUME_SERVICE)
    bench.tick()
    assert bench.arbiter.state == S.AUTONOMOUS and bench.arbiter.epoch == epoch + 1


def test_a_resume_of_the_past_sets_nothing_in_motion(bench):
    bench.robot_mode(Mode.RUN, RESUME_SERVICE)
    bench.now += 5_000_000_000
    bench.tick()
    bench.episode(EpisodeState.RUNNING, stamp_ns=0)
    bench.robot_mode(Mode.RUN, RESUME_SERVICE)
    bench.arbiter._modes[-1] = replace(bench.arbiter._modes[-1], stamp_ns=0)
    bench.tick()
    assert bench.arbiter.state == S.HOLD


def test_silence_is_measured_on_the_steady_clock(bench):
    bench.run()
    bench.tick(5, engaged=True)
    bench.steady += 200_000_000  # the simulator made one tick only
    bench.tick()
    assert bench.arbiter.state == S.HOLD


def test_a_release_heard_too_late_is_silence(bench):
    bench.run()
    bench.tick(5, engaged=True)
    bench.human(engaged=False)
    bench.steady += 200_000_000
    bench.tick()
    assert bench.arbiter.state == S.HOLD


def test_repeated_messages_do_not_keep_a_dead_device_alive(bench):
    bench.run()
    bench.tick(5, engaged=True)
    for _ in range(20):
        bench._human_seq -= 1
        bench.human()
        bench.tick()
    assert bench.arbiter.state == S.HOLD


def test_one_device_at_a_time(bench):
    bench.run()
    bench.tick(30, engaged=True, offset=0.1)
    held = last(bench).positions
    for _ in range(10):
        bench.human(device='glove', engaged=False)
        bench.human(device='glove', offset=-0.3)
        bench.human(offset=0.1)
        bench.tick()
    assert bench.arbiter.state == S.HUMAN
    np.testing.assert_allclose(last(bench).positions, held)


def test_taking_over_again_while_the_policy_fades_in(bench):
    bench.run()
    bench.tick(40, engaged=True)
    bench.tick(1, engaged=False)
    bench.chunk(offset=0.2)
    bench.tick(8, engaged=False)
    frozen = last(bench).positions
    bench.tick(1, engaged=True)
    assert bench.arbiter.state == S.BLEND_IN and bench.events[-1].previous == S.BLEND_OUT
    assert np.abs(last(bench).positions - frozen).max() < 0.02


# --- the robot --------------------------------------------------------------------------------------------------------------------


def test_a_fault_is_mirrored_and_left_only_when_cleared_from_the_measured_pose(bench):
    bench.run()
    bench.robot_mode(Mode.FAULT, 'tracking error')
    bench.tick()
    assert bench.arbiter.state == S.FAULT and 'tracking error' in bench.events[-1].reason
    fallen = bench.home - 0.05
    bench.arbiter.on_joints(fallen)
    bench.episode(EpisodeState.RESETTING)
    bench.tick(3, engaged=True)
    assert bench.arbiter.state == S.FAULT and last(bench).source == Source.HOLD
    bench.robot_mode(Mode.RUN)
    bench.tick()
    assert bench.arbiter.state == S.HOLD
    np.testing.assert_allclose(last(bench).positions, fallen)
    bench.arbiter.on_joints(bench.home)
    bench.tick(10)
    np.testing.assert_allclose(last(bench).positions, fallen)


@pytest.mark.parametrize('engaged', [False, True])
def test_a_hold_by_a_person_holds_until_resumed(bench, engaged):
    bench.run()
    bench.tick(5, engaged=engaged)
    bench.robot_mode(Mode.HOLD, f'{HOLD_SERVICE}: stop')
    bench.tick(10, engaged=engaged)
    assert bench.arbiter.state == S.HOLD
    bench.robot_mode(Mode.RUN, RESUME_SERVICE)
    bench.tick()
    assert bench.arbiter.state == S.AUTONOMOUS


def test_a_hold_of_the_watchdog_changes_nothing(bench):
    bench.run()
    bench.robot_mode(Mode.HOLD, 'no command for 0.1 s')
    bench.tick()
    assert bench.arbiter.state == S.AUTONOMOUS


def test_a_reset_waits_for_a_held_robot(bench):
    bench.run()
    bench.robot_mode(Mode.HOLD, HOLD_SERVICE)
    bench.episode(EpisodeState.RESETTING)
    bench.tick(100)
    assert bench.arbiter.state == S.HOLD and bench.events[-1].reason != 'start pose reached'
    bench.robot_mode(Mode.RUN, RESUME_SERVICE)
    bench.tick()
    assert bench.arbiter.state == S.RESET


def test_clearing_a_fault_moves_nothing_by_itself(bench):
    bench.tick()
    bench.episode(EpisodeState.RESETTING)
    bench.tick()
    bench.robot_mode(Mode.FAULT, 'x')
    bench.tick()
    bench.robot_mode(Mode.RUN)
    bench.tick(50)
    assert bench.arbiter.state == S.HOLD


def test_commands_stay_within_position_and_velocity_limits(bench):
    bench.run()
    bench.tick(30, engaged=True, offset=9.0)
    track = np.array([c.positions for c in bench.commands])
    assert np.all(track <= bench.robot.upper) and np.all(track >= bench.robot.lower)
    assert np.all(np.abs(np.diff(track, axis=0)).max(0) <= bench.robot.velocity * 0.01 + 1e-9)
