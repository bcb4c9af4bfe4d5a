"""One episode at a time, and what may be said about it when."""

from dataclasses import replace

import pytest

from bora_common.types import ArbiterState as S
from bora_common.types import EpisodeState as E
from bora_common.types import InterventionEvent, Outcome
from bora_hil.episode_keeper import EpisodeError, EpisodeKeeper, KeeperSettings

SEC = 1_000_000_000
T = 100 * SEC
DT_NS = round(SEC / 15)


@pytest.fixture
def keeper(robot, task):
    return EpisodeKeeper(robot, task, 'run', KeeperSettings(), new_seed=lambda: 42)


def event(state, stamp, previous=S.HOLD, reason=''):
    return InterventionEvent(stamp, state, previous, 0.0, 1, reason)


def arrived(stamp):
    return event(S.HOLD, stamp, S.RESET, 'start pose reached')


def running(keeper, at=T):
    """Through reset and scene into RUNNING; the start stamp."""
    keeper.start(at)
    keeper.on_intervention(event(S.RESET, at + 1), at + 1)
    keeper.on_intervention(arrived(at + SEC), at + SEC)
    keeper.scene_ready(at + SEC)
    (start,) = keeper.tick(at + 2 * SEC)
    assert start.state == E.RUNNING and start.started_ns == start.stamp_ns
    keeper.on_intervention(event(S.AUTONOMOUS, start.started_ns), start.started_ns)
    return start.started_ns


def test_the_whole_way(keeper, task):
    (reset,) = keeper.start(T, round=2, evaluation=True, seed=5)
    assert (reset.state, reset.episode, reset.seed, reset.round, reset.evaluation) == (E.RESETTING, 'run-0000', 5, 2, True)
    assert reset.instruction == task.instruction and reset.started_ns == 0
    keeper.on_intervention(event(S.RESET, T + 1), T + 1)
    assert not keeper.needs_scene
    keeper.on_intervention(arrived(T + SEC), T + SEC)
    assert keeper.needs_scene
    (ready,) = keeper.scene_ready(T + SEC)
    assert ready.state == E.READY and not keeper.needs_scene
    assert keeper.tick(T + SEC + SEC // 10) == ()
    (run,) = keeper.tick(T + SEC + SEC // 5)
    assert run.state == E.RUNNING
    (end,) = keeper.mark_success(T + 3 * SEC, by='referee')
    assert (end.state, end.outcome, end.stamp_ns, end.started_ns) == (E.ENDED, Outcome.SUCCESS, T + 3 * SEC, run.started_ns)
    assert [r.name for r in end.rewards] == ['success'] and end.reason == 'marked success (referee)'


def test_numbers_and_seeds(keeper):
    started = running(keeper)
    keeper.abort(started + SEC)
    (second,) = keeper.start(started + 2 * SEC)
    assert second.episode == 'run-0001' and second.seed == 42


@pytest.mark.parametrize('stage', ['resetting', 'scene', 'ready', 'running'])
def test_a_second_start_is_refused_by_name(keeper, stage):
    keeper.start(T)
    if stage != 'resetting':
        keeper.on_intervention(arrived(T + SEC), T + SEC)
    if stage in ('ready', 'running'):
        keeper.scene_ready(T + SEC)
    if stage == 'running':
        keeper.tick(T + 2 * SEC)
    with pytest.raises(EpisodeError, match='run-0000'):
        keeper.start(T + 2 * SEC)


def test_another_task_is_refused_by_name(keeper):
    with pytest.raises(EpisodeError, match='open_box.*press_button'):
        keeper.start(T, task='open_box')
    assert keeper.current is None


def test_a_start_pose_of_an_earlier_reset_does_not_count(keeper):
    keeper.start(T)
    keeper.on_intervention(arrived(T - 1), T + 1)
    assert not keeper.needs_scene


def test_the_scene_is_not_ready_before_the_robot_is_away(keeper):
    keeper.start(T)
    with pytest.raises(EpisodeError, match='start pose'):
        keeper.scene_ready(T + 1)
    keeper.abort(T + 2)
    with pytest.raises(EpisodeError, match='no episode waits'):
        keeper.scene_ready(T + 3)


def test_a_reset_that_never_ends_is_aborted_with_its_reason(keeper):
    keeper.start(T)
    assert keeper.tick(T + 60 * SEC) == ()
    (end,) = keeper.tick(T + 60 * SEC + 1)
    assert (end.state, end.outcome) == (E.ENDED, Outcome.ABORTED) and 'start pose' in end.reason and end.rewards == ()


def test_a_scene_that_can_not_be_set_is_aborted_with_its_reason(keeper):
    keeper.start(T)
    keeper.on_intervention(arrived(T + SEC), T + SEC)
    (end,) = keeper.scene_failed(T + SEC, 'no such task')
    assert end.outcome == Outcome.ABORTED and 'no such task' in end.reason
    assert keeper.scene_failed(T + SEC, 'again') == ()


def test_time_out_is_stamped_at_the_last_step_whenever_it_is_noticed(keeper, task):
    started = running(keeper)
    deadline = started + round(task.episode_steps * SEC / 15)
    assert keeper.tick(deadline - 1) == ()
    (end,) = keeper.tick(deadline + 7_000_000)
    assert (end.outcome, end.stamp_ns) == (Outcome.TIMEOUT, deadline) and end.rewards == ()


def test_a_fault_ends_the_episode_and_the_next_start_needs_its_clearing(keeper):
    started = running(keeper)
    (end,) = keeper.on_intervention(event(S.FAULT, started + SEC, reason='robot fault: tracking'), started + SEC)
    assert (end.outcome, end.stamp_ns) == (Outcome.ABORTED, started + SEC) and 'tracking' in end.reason
    with pytest.raises(EpisodeError, match='tracking'):
        keeper.start(started + 2 * SEC)
    keeper.on_intervention(event(S.HOLD, started + 3 * SEC, S.FAULT), started + 3 * SEC)
    assert keeper.start(started + 4 * SEC)


def test_a_hold_does_not_end_the_episode(keeper):
    started = running(keeper)
    assert keeper.on_intervention(event(S.HOLD, started + SEC, S.HUMAN), started + SEC) == ()
    assert keeper.current.state == E.RUNNING


# --- marks ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mark', ['mark_success', 'mark_failure'])
def test_marks_need_a_running_episode(keeper, mark):
    with pytest.raises(EpisodeError, match='no episode runs'):
        getattr(keeper, mark)(T)
    keeper.start(T)
    with pytest.raises(EpisodeError, match='not started'):
        getattr(keeper, mark)(T + 1)
    keeper.abort(T + 2)
    with pytest.raises(EpisodeError):
        getattr(keeper, mark)(T + 3)


def test_the_mark_is_stamped_when_it_happened(keeper):
    started = running(keeper)
    (end,) = keeper.mark_success(started + 2 * SEC, stamp_ns=started + SEC)
    assert end.stamp_ns == started + SEC == end.rewards[0].stamp_ns


def test_a_stamp_outside_the_episode_is_refused(keeper):
    started = running(keeper)
    for stamp in (started, started - SEC, started + 2 * SEC):
        with pytest.raises(EpisodeError, match='outside'):
            keeper.mark_success(started + SEC, stamp_ns=stamp)
    assert keeper.mark_success(started + SEC, stamp_ns=started + SEC + 20_000_000)  # a newer clock elsewhere


@pytest.mark.parametrize('failure_ends,outcome', [(True, Outcome.FAILURE), (False, Outcome.ABORTED)])
def test_a_failure_is_terminal_only_where_it_ends_the_task(robot, task, failure_ends, outcome):
    keeper = EpisodeKeeper(robot, replace(task, failure_ends=failure_ends), 'run')
    started = running(keeper)
    (end,) = keeper.mark_failure(started + SEC)
    assert end.outcome == outcome and end.outcome.terminal == failure_ends


def test_a_late_mark_amends_within_two_seconds_and_at_the_end_at_the_latest(keeper, task):
    started = running(keeper)
    deadline = started + round(task.episode_steps * SEC / 15)
    keeper.tick(deadline + 1)
    (late,) = keeper.mark_success(deadline + 2 * SEC)
    assert (late.state, late.outcome, late.stamp_ns) == (E.AMENDED, Outcome.SUCCESS, deadline)
    assert [(r.name, r.stamp_ns) for r in late.rewards] == [('success', deadline)]
    with pytest.raises(EpisodeError, match='already'):
        keeper.mark_success(deadline + 2 * SEC)
    with pytest.raises(EpisodeError, match='ago'):
        keeper.mark_failure(deadline + 2 * SEC + 2)


def test_a_late_mark_moves_the_end_back_and_drops_rewards_beyond_it(keeper, task):
    started = running(keeper)
    takeover = started + 5 * SEC
    keeper.on_intervention(event(S.BLEND_IN, takeover, S.AUTONOMOUS), takeover)
    deadline = started + round(task.episode_steps * SEC / 15)
    (end,) = keeper.tick(deadline)
    assert [(r.name, r.stamp_ns) for r in end.rewards] == [('intervention', takeover - DT_NS)]
    (late,) = keeper.mark_success(deadline + SEC, stamp_ns=started + 4 * SEC)
    assert [(r.name, r.stamp_ns) for r in late.rewards] == [('success', started + 4 * SEC)]


def test_an_aborted_episode_can_not_be_judged(keeper):
    started = running(keeper)
    keeper.abort(started + SEC, by='pad', reason='cable')
    with pytest.raises(EpisodeError, match='cable'):
        keeper.mark_success(started + SEC + 1)
    with pytest.raises(EpisodeError, match='no episode is active'):
        keeper.abort(started + SEC + 1)


def test_a_takeover_heard_after_the_end_still_counts_for_a_late_mark(keeper, task):
    started = running(keeper)
    deadline = started + round(task.episode_steps * SEC / 15)
    keeper.tick(deadline)
    keeper.on_intervention(event(S.BLEND_IN, deadline - SEC, S.AUTONOMOUS), deadline + 1)
    (late,) = keeper.mark_success(deadline + SEC)
    assert [r.name for r in late.rewards] == ['intervention', 'recovery', 'success']


def test_interventions_of_one_episode_do_not_reach_the_next(keeper):
    started = running(keeper)
    keeper.on_intervention(event(S.BLEND_IN, started + SEC, S.AUTONOMOUS), started + SEC)
    keeper.mark_failure(started + 2 * SEC)
    started = running(keeper, started + 5 * SEC)
    (end,) = keeper.mark_success(started + SEC)
    assert [r.name for r in end.rewards] == ['success']
