import dataclasses

import numpy as np
import pytest
from by_hand import Episode, at
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.types import ArbiterState, EpisodeState, Outcome, RewardEvent, StreamId
from bora_replay.cutter import cut, record_from_demo, steps_of, terminal_ns

DT = 1 / 15


def starts(transitions, instant):
    return [round((t.stamp_ns - instant(0)) / (DT * 1e9)) for t in transitions]


def spans(transitions):
    return [t.n for t in transitions]


def test_executed_is_the_last_sent_at_or_before_the_end_of_the_step(episode, instant):
    steps = steps_of(episode().ends(Outcome.TIMEOUT, 3).record())
    # ticks every 10 ms from t0: the newest at or before 66.7, 133.3 and 200 ms
    np.testing.assert_allclose([s.executed[0] for s in steps], [5.06, 5.13, 5.20], atol=1e-9)
    assert [s.index for s in steps] == [0, 1, 2]
    assert [s.stamp_ns for s in steps] == [instant(1), instant(2), instant(3)]


def test_a_tick_a_nanosecond_behind_the_boundary_belongs_to_the_step(episode):
    record = episode().ends(Outcome.TIMEOUT, 3).record()
    executed = [dataclasses.replace(t, stamp_ns=t.stamp_ns + (t.stamp_ns == 5_200_000_000)) for t in record.executed]
    assert steps_of(dataclasses.replace(record, executed=executed))[2].executed[0] == pytest.approx(5.20)


def test_success_is_done_at_its_step_and_masked_up_to_it(episode, instant):
    transitions = cut(episode((0, 4, 8)).ends(Outcome.SUCCESS, 12).record())
    assert starts(transitions, instant) == [0, 4, 8]
    assert spans(transitions) == [8, 8, 4]
    assert [t.done.tolist().index(True) if t.done.any() else None for t in transitions] == [None, 7, 3]
    assert [t.truncated for t in transitions] == [False, False, False]
    assert all(t.success for t in transitions)
    np.testing.assert_array_equal(transitions[2].mask, [True] * 4 + [False] * 4)
    np.testing.assert_array_equal(transitions[2].next_tokens, np.full((2, 4), 8.0))  # the last proposal's, unused


def test_failure_is_done_without_reward_or_success(episode):
    last = cut(episode((0, 4, 8)).ends(Outcome.FAILURE, 12).record())[-1]
    assert last.done.tolist() == [False] * 3 + [True] + [False] * 4
    assert not last.truncated and not last.success
    np.testing.assert_allclose(last.reward[:4], -1 / 90)


def test_timeout_truncates_and_bootstraps_from_the_last_proposal_before_it(episode):
    transitions = cut(episode((0, 4, 8)).ends(Outcome.TIMEOUT, 12).record())
    assert spans(transitions) == [8, 8, 4]
    assert [t.truncated for t in transitions] == [False, True, True]
    assert not any(t.done.any() for t in transitions)
    np.testing.assert_array_equal(transitions[1].next_tokens, np.full((2, 4), 8.0))
    np.testing.assert_array_equal(transitions[1].next_proprio, np.full(3, 0.8))


def test_a_proposal_at_the_instant_of_the_timeout_is_what_it_bootstraps_from(episode):
    transitions = cut(episode((0, 4, 8)).ends(Outcome.TIMEOUT, 8).record())
    assert spans(transitions) == [8, 4]
    assert [t.truncated for t in transitions] == [True, True]
    np.testing.assert_array_equal(transitions[0].next_tokens, np.full((2, 4), 8.0))


def test_abort_truncates(episode):
    transitions = cut(episode((0, 4)).ends(Outcome.ABORTED, 6).record())
    assert spans(transitions) == [6, 2]
    assert all(t.truncated and not t.done.any() and not t.success for t in transitions)


def test_takeover_marks_the_steps_from_its_first_tick(episode):
    # beta > 0 from 2.5 steps on
    scene = episode((0, 4, 8)).ends(Outcome.TIMEOUT, 12).human(2.5, 40.0)
    transitions = cut(scene.record())
    assert transitions[0].human.tolist() == [False, False, True, True, True, True, True, True]
    assert transitions[1].human.tolist() == [True] * 8


def test_release_marks_the_steps_up_to_its_last_tick_and_keeps_the_largest_share(episode):
    scene = episode((0, 4, 8)).ends(Outcome.TIMEOUT, 12).human(0.0, 2.0, 1.0).human(2.0, 3.2, 0.25)
    first = cut(scene.record())[0]
    assert first.human.tolist() == [True, True, True, True, False, False, False, False]
    np.testing.assert_allclose(first.beta, [1, 1, 0.25, 0.25, 0, 0, 0, 0])


def test_human_marks_do_not_leave_the_mask(episode):
    last = cut(episode((0, 4, 8)).ends(Outcome.SUCCESS, 12).human(0, 40).record())[-1]
    assert last.human.tolist() == [True] * 4 + [False] * 4
    assert last.beta.tolist() == [1.0] * 4 + [0.0] * 4


def test_a_hold_after_device_silence_ends_the_segment_and_the_next_begins_behind_it(episode, instant):
    scene = episode((0, 4, 8, 12), k=16).ends(Outcome.SUCCESS, 20)
    scene.arbiter(ArbiterState.HOLD, 5.5, ArbiterState.HUMAN).arbiter(ArbiterState.AUTONOMOUS, 9.5, ArbiterState.HOLD)
    transitions = cut(scene.record())
    assert starts(transitions, instant) == [0, 4, 12]  # the proposal at 8 lies within the hold: nothing was executed for it
    assert spans(transitions) == [5, 1, 8]
    assert [t.truncated for t in transitions] == [True, True, False]
    np.testing.assert_array_equal(transitions[0].next_tokens, np.full((2, 4), 4.0))  # the last observation before the hold
    assert transitions[2].done.tolist().index(True) == 7


def test_a_hold_of_the_hardware_ends_the_segment(episode):
    scene = episode((0, 4, 8), k=8).ends(Outcome.SUCCESS, 12)
    scene.helds.append(((instant_ns := 5_000_000_000 + round(6.2 * DT * 1e9)), instant_ns + 20_000_000))
    transitions = cut(scene.record())
    assert spans(transitions) == [6, 2, 4]
    assert [t.truncated for t in transitions] == [True, True, False]
    assert not transitions[0].done.any()


def test_the_rest_before_the_start_and_the_hold_that_the_end_causes_cut_nothing(episode):
    scene = episode((0, 4, 8)).ends(Outcome.SUCCESS, 11.5)
    scene.arbiter(ArbiterState.HOLD, -3.0, ArbiterState.RESET).arbiter(ArbiterState.AUTONOMOUS, 0.1, ArbiterState.HOLD)
    scene.arbiter(ArbiterState.HOLD, 11.6, ArbiterState.AUTONOMOUS)
    scene.helds.append((scene.event().stamp_ns, scene.event().stamp_ns + 10**9))
    transitions = cut(scene.record())
    assert spans(transitions) == [8, 8, 4]
    assert transitions[-1].done[3]


def test_a_step_nobody_recorded_ends_the_segment(episode):
    scene = episode((0, 4, 8)).ends(Outcome.SUCCESS, 12)
    scene.missing.append((scene.proposals[0].stamp_ns + round(5 * DT * 1e9), scene.proposals[0].stamp_ns + round(6 * DT * 1e9)))
    assert spans(cut(scene.record())) == [5, 1, 4]


def test_an_episode_that_ends_inside_a_chunk_repeats_the_last_valid_step(episode):
    last = cut(episode((0, 4, 8), k=8).ends(Outcome.SUCCESS, 10).record())[-1]
    assert last.n == 2
    np.testing.assert_allclose(last.executed[:, 0], [5.60, 5.66, *[5.66] * 6], atol=1e-9)
    np.testing.assert_allclose(last.reward, [-1 / 90, 1 - 1 / 90, *[0] * 6], rtol=1e-6)


def test_late_inference_moves_first_behind_what_the_old_chunk_did(episode):
    scene = episode((0, 4, 8)).ends(Outcome.TIMEOUT, 12)
    delays = [0.0, 1.5, 2.0]  # step i is due i + 1 steps after the observation
    scene.chunks = [scene.chunk(p, d) for p, d in zip(scene.proposals, delays, strict=True)]
    transitions = cut(scene.record())
    assert [t.first for t in transitions] == [0, 1, 2]
    assert all(t.version.update == 50 and t.alpha == 0.3 for t in transitions)
    np.testing.assert_allclose(transitions[1].executed[0], [5.33] * 3, atol=1e-9)  # as executed, whoever decided it


def test_a_chunk_that_never_came_decided_nothing(episode):
    scene = episode((0, 4)).ends(Outcome.TIMEOUT, 8)
    scene.chunks = scene.chunks[:1]
    transitions = cut(scene.record())
    assert [t.first for t in transitions] == [0, 8]
    assert transitions[1].alpha == 0.0 and str(transitions[1].version) == 'zero'


def test_a_chunk_sent_again_does_not_count(episode):
    scene = episode((0, 4)).ends(Outcome.TIMEOUT, 8)
    scene.chunks.append(scene.chunk(scene.proposals[0], 3.0))
    assert cut(scene.record())[0].first == 0


def test_without_a_proposal_within_k_there_is_nothing_to_bootstrap_from(episode, instant):
    transitions = cut(episode((0, 4, 30), k=8).ends(Outcome.TIMEOUT, 33).record())
    assert starts(transitions, instant) == [0, 30]  # 4 + 8 reaches neither 30 nor the end
    assert spans(transitions) == [4, 3]


def test_a_proposal_at_an_odd_time_goes_to_the_nearest_instant(episode):
    transitions = cut(episode((0, 4.4, 8.6)).ends(Outcome.TIMEOUT, 12).record())
    assert spans(transitions) == [4, 8, 3]
    np.testing.assert_array_equal(transitions[0].next_tokens, np.full((2, 4), np.float32(4.4)))


def test_exactly_k_steps_to_the_next_proposal(episode):
    transitions = cut(episode((0, 8), k=8).ends(Outcome.TIMEOUT, 20).record())
    assert spans(transitions) == [8]  # the proposal at 8 has neither an end nor a proposal within 8 steps
    assert transitions[0].mask.all() and not transitions[0].truncated


def test_exactly_k_steps_to_the_end(episode):
    only = cut(episode((0,), k=8).ends(Outcome.SUCCESS, 8).record())[0]
    assert only.n == 8 and only.done[7] and not only.truncated


def test_the_furthest_proposal_within_k_follows(episode):
    transitions = cut(episode((0, 1, 2, 3, 7, 9), k=8).ends(Outcome.TIMEOUT, 30).record())
    assert spans(transitions) == [7, 8, 7, 6, 2]
    np.testing.assert_array_equal(transitions[1].next_tokens, np.full((2, 4), 9.0))


def test_an_episode_of_a_single_step(episode):
    only = cut(episode((0,)).ends(Outcome.SUCCESS, 0.3).record())
    assert spans(only) == [1]
    assert only[0].done.tolist() == [True] + [False] * 7
    np.testing.assert_allclose(only[0].executed[:, 0], 5.06)


def test_a_reward_on_a_boundary_belongs_to_the_step_that_ends_there(episode, instant):
    scene = episode((0, 4)).ends(Outcome.TIMEOUT, 8)
    scene.rewards += [RewardEvent(instant(3), 'intervention', -0.1), RewardEvent(instant(3) + 5000, 'recovery', 0.05)]
    reward = cut(scene.record())[0].reward
    np.testing.assert_allclose(reward[2:4], [-0.1 - 1 / 90, 0.05 - 1 / 90], rtol=1e-5)


def test_rewards_at_one_step_add_up_and_none_is_lost_outside(episode, instant):
    scene = episode((0,)).ends(Outcome.TIMEOUT, 4)
    scene.rewards += [RewardEvent(instant(-1), 'a', 1.0), RewardEvent(instant(0.5), 'b', 2.0), RewardEvent(instant(9), 'c', 4.0)]
    np.testing.assert_allclose(cut(scene.record())[0].reward[:4], np.array([3, 0, 0, 4]) - 1 / 90, rtol=1e-5)


def test_a_late_mark_moves_the_terminal_to_when_it_happened(episode, instant):
    scene = episode((0, 4, 8)).ends(Outcome.TIMEOUT, 12)
    before = cut(scene.record())
    scene.outcome, scene.state = Outcome.SUCCESS, EpisodeState.AMENDED
    scene.rewards.append(RewardEvent(instant(9.5), 'success', 1.0))
    record = scene.record()
    after = cut(dataclasses.replace(record, end_ns=terminal_ns(record.episode, record.end_ns)))
    assert [t.truncated for t in before] == [False, True, True]
    assert [t.n for t in after] == [8, 6, 2]
    assert after[-1].done[1] and after[-1].success and after[-1].reward[1] == pytest.approx(1 - 1 / 90)


def test_a_mark_stamped_behind_the_end_counts_at_the_end(episode, instant):
    scene = episode().ends(Outcome.SUCCESS, 12)
    scene.rewards = [RewardEvent(instant(13), 'success', 1.0)]
    assert terminal_ns(scene.event(), instant(12)) == instant(12)


def test_no_proposal_or_no_tick_gives_nothing(episode):
    assert cut(episode(()).ends(Outcome.SUCCESS, 5).record()) == []
    assert cut(dataclasses.replace(episode().ends(Outcome.SUCCESS, 5).record(), executed=[])) == []


def test_a_proposal_behind_the_end_starts_nothing(episode):
    assert spans(cut(episode((0, 4, 9)).ends(Outcome.SUCCESS, 6).record())) == [6, 2]


def test_numbers_and_names(episode):
    transitions = cut(episode((0, 4)).ends(Outcome.TIMEOUT, 8).record(), first_seq=40)
    assert [t.seq for t in transitions] == [40, 41]
    t = transitions[1]
    assert (t.episode, t.task, t.robot, t.round, t.model_id) == ('e-0000', 'task', 'robot', 1, 'model')
    assert t.image_ref == f'ref{t.stamp_ns}' and t.token_names == ('camera_left', 'cognition')
    np.testing.assert_array_equal(t.vla, np.full((8, 3), 4.0))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.5, 30), max_size=8), st.floats(0.2, 35), st.sampled_from([o for o in Outcome if o != Outcome.NONE]),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.01, 5)), max_size=2), st.integers(1, 12),
)  # fmt: skip
def test_every_cut_is_consistent(starts_at, end, outcome, holds, k):
    scene = Episode((0, *sorted(starts_at)), k=k).ends(outcome, end)
    scene.helds += [(at(a), at(a + b)) for a, b in holds]
    record = scene.record()
    steps = steps_of(record)
    for t in cut(record):
        i = round((t.stamp_ns - at(0)) / (DT * 1e9))
        n = t.n
        assert 1 <= n <= k and t.mask[:n].all()
        assert not any(s.held for s in steps[i : i + n])
        assert t.done.sum() <= 1 and (not t.done.any() or t.done[n - 1])
        assert not (t.done.any() and t.truncated)
        assert t.done.any() <= outcome.terminal
        np.testing.assert_array_equal(t.executed[:n], [s.executed for s in steps[i : i + n]])
        np.testing.assert_array_equal(t.executed[n:], np.repeat(t.executed[n - 1 : n], k - n, axis=0))
        assert not t.reward[n:].any() and not t.human[n:].any()


def demo(frames, count=20, k=8, outcome=Outcome.SUCCESS, intended=None):
    executed = np.arange(count)[:, None] * np.ones((1, 3))
    m = len(frames)
    return record_from_demo(
        episode='demo', task='task', robot='robot', executed=executed, frames=frames, tokens=np.ones((m, 2, 4), np.float32),
        token_names=('a', 'b'), vla=np.zeros((m, k, 3)), proprio=np.zeros((m, 3)), outcome=outcome, episode_steps=90, intended=intended,
    )  # fmt: skip


def test_a_demonstration_gives_a_transition_at_every_frame():
    transitions = cut(demo(range(20)))
    assert spans(transitions) == [8] * 13 + [7, 6, 5, 4, 3, 2, 1]
    assert sum(t.done.any() for t in transitions) == 8 and not any(t.truncated for t in transitions)
    np.testing.assert_array_equal(transitions[3].executed[:, 0], np.arange(3, 11))
    assert transitions[-1].reward[0] == pytest.approx(1 - 1 / 90)
    assert {t.first for t in transitions} == {0}


def test_a_demonstration_that_just_stops_is_truncated_and_keeps_its_labels_in_the_steps():
    intended = np.full((20, 3), 7.0)
    record = demo([0, 10], outcome=Outcome.TIMEOUT, intended=intended)
    assert [s.intended[0] for s in steps_of(record)] == [7.0] * 20
    assert [s.executed[0] for s in steps_of(record)] == list(range(20))
    assert not any(t.done.any() for t in cut(record))


def test_demonstrated_and_live_data_are_cut_alike(episode):
    """The same motion as a demonstration and as a live episode gives the same arrays."""
    live = episode((0, 4, 8)).ends(Outcome.SUCCESS, 12).record()
    executed = np.stack([s.executed for s in steps_of(live)])
    record = record_from_demo(
        episode='e-0000', task='task', robot='robot', executed=executed, frames=[0, 4, 8],
        tokens=np.stack([p.tokens for p in live.proposals]), token_names=live.proposals[0].token_names,
        vla=np.stack([p.positions for p in live.proposals]), proprio=np.stack([p.proprio for p in live.proposals]),
        outcome=Outcome.SUCCESS, episode_steps=90, t0_ns=live.proposals[0].stamp_ns,
    )  # fmt: skip
    for a, b in zip(cut(live), cut(record), strict=True):
        for name in ('executed', 'reward', 'done', 'mask', 'human', 'first', 'truncated', 'next_tokens', 'next_proprio', 'stamp_ns'):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_proposals_of_one_instant_all_count_and_the_newest_follows(episode):
    scene = episode((0, 4, 4)).ends(Outcome.TIMEOUT, 30)
    scene.proposals[2] = dataclasses.replace(scene.proposals[2], tokens=np.full((2, 4), 99.0, np.float32), id=StreamId(7, 2))
    np.testing.assert_array_equal(cut(scene.record())[0].next_tokens, np.full((2, 4), 99.0))
