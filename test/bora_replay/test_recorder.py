import dataclasses

import numpy as np
import pytest
from by_hand import Episode, at
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.types import EpisodeState, ExecutedCommand, Outcome, RewardEvent, Source, StreamId
from bora_replay.recorder import NS, Recorder, RecorderSettings

SETTINGS = RecorderSettings(dt=1 / 15, episode_steps=90)


def scene(outcome=Outcome.SUCCESS, end=12):
    return Episode((0, 4, 8)).ends(outcome, end)


def fed(messages, recorder=None):
    recorder = recorder or Recorder(SETTINGS)
    for topic, value, now in messages:
        recorder.add(topic, value, now)
    return recorder


def test_an_episode_is_due_when_late_marks_are_over():
    recorder = fed(scene().messages('a', 0))
    heard = at(12) + 2_000_000
    assert recorder.due(heard + 2 * NS - 1) == []
    assert recorder.due(heard + 2 * NS) == ['a']
    closed = recorder.close('a', 10)
    assert [t.seq for t in closed.transitions] == [10, 11, 12]
    assert closed.ended and recorder.due(heard + 10 * NS) == []


def test_the_next_episode_makes_it_due_at_once():
    recorder = fed(scene().messages('a', 0))
    fed(scene().messages('b', 10 * NS)[:1], recorder)
    assert recorder.due(at(12) + NS) == ['a']


def test_it_waits_for_ticks_up_to_its_end_but_not_for_ever():
    messages = [m for m in scene().messages('a', 0) if m[0] != 'executed' or m[1].stamp_ns < at(10)]
    recorder = fed(messages)
    heard = at(12) + 2_000_000
    assert recorder.due(heard + 2 * NS) == []
    assert recorder.due(heard + 4 * NS) == ['a']
    late = [m for m in scene().messages('a', 0) if m[0] == 'executed' and m[1].stamp_ns >= at(10)]
    assert fed(late, recorder).due(heard + 2 * NS) == ['a']


def test_a_late_mark_changes_the_outcome_and_one_after_the_cut_does_not():
    messages = scene(Outcome.TIMEOUT).messages('a', 0)
    recorder = fed(messages)
    ended = messages[-1][1] if messages[-1][0] == 'episode' else next(m[1] for m in reversed(messages) if m[0] == 'episode')
    mark = dataclasses.replace(
        ended, state=EpisodeState.AMENDED, outcome=Outcome.SUCCESS, stamp_ns=at(9.5), rewards=(RewardEvent(at(9.5), 'success', 1.0),),
        id=StreamId(ended.id.source, ended.id.seq + 1),
    )  # fmt: skip
    assert recorder.add('episode', mark, at(13))
    closed = recorder.close('a', 0)
    assert closed.transitions[-1].done[1] and closed.transitions[-1].success
    assert not recorder.add('episode', dataclasses.replace(mark, id=StreamId(ended.id.source, ended.id.seq + 2)), at(14))


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_between_topics_does_not_matter(random):
    messages = scene().messages('a', 0)
    by_topic = {t: [m for m in messages if m[0] == t] for t in ('executed', 'episode', 'base_chunk', 'chunk', 'intervention')}
    shuffled = []
    while any(by_topic.values()):
        topic = random.choice([t for t, m in by_topic.items() if m])
        shuffled.append(by_topic[topic].pop(0))
    expected, found = fed(messages).close('a', 0), fed(shuffled).close('a', 0)
    for x, y in zip(expected.transitions, found.transitions, strict=True):
        for name, value in x.__dict__.items():
            np.testing.assert_array_equal(value, getattr(y, name))


def test_history_that_is_delivered_again_is_not_taken_twice():
    messages = scene().messages('a', 0)
    recorder = fed(messages)
    assert not any(recorder.add(*m) for m in messages)
    assert len(recorder.close('a', 0).transitions) == 3


def test_evaluation_episodes_have_no_transitions():
    evaluation = scene()
    evaluation.evaluation = True
    closed = fed(evaluation.messages('a', 0)).close('a', 0)
    assert closed.transitions == [] and closed.record.episode.evaluation and len(closed.record.executed) > 50


def test_an_interrupted_episode_is_cut_as_far_as_it_was_seen():
    messages = [m for m in scene().messages('a', 0) if m[2] <= at(6)]
    recorder = fed(messages)
    assert recorder.due(at(8)) == [] and recorder.ended() == [] and recorder.running == 'a'
    fed(scene().messages('b', 60 * NS)[:1], recorder)
    closed = recorder.close(recorder.due(at(8))[0], 0)
    assert not closed.ended
    assert [t.n for t in closed.transitions] == [6, 2] and all(t.truncated for t in closed.transitions)


def test_an_episode_whose_end_never_comes_is_due_some_time():
    recorder = fed([m for m in scene().messages('a', 0) if m[2] <= at(6)])
    assert recorder.due(at(90) + 29 * NS) == []
    assert recorder.due(at(90) + 31 * NS) == ['a']


def test_an_episode_aborted_before_its_start_gives_nothing():
    aborted = dataclasses.replace(scene(Outcome.ABORTED).event(), started_ns=0)
    recorder = Recorder(SETTINGS)
    recorder.add('episode', aborted, at(0))
    assert recorder.close('e-0000', 0).transitions == []


def test_memory_stays_bounded_without_episodes():
    recorder = Recorder(SETTINGS)
    position = np.zeros(3)
    for n in range(5000):
        tick = ExecutedCommand(T := n * 10_000_000, position, position, (), Source.HOLD, 0.0, 0, StreamId(), -1, id=StreamId(3, n))
        recorder.add('executed', tick, T)
    assert len(recorder._ticks) < 1000
    for n in range(100):
        recorder.add('base_chunk', dataclasses.replace(Episode((0,)).proposals[0], episode=f'x{n}', id=StreamId(2, n)), 0)
    assert len(recorder._drafts) <= 8 and recorder.open_episodes == []


def test_a_clock_that_starts_again_keeps_nothing_of_the_future():
    recorder = fed(scene().messages('old', 100 * NS))
    fed(scene().messages('new', 0), recorder)
    assert len(recorder.close('new', 0).transitions) == 3


@pytest.mark.parametrize('topic', ['base_chunk', 'chunk'])
def test_proposals_outside_episodes_are_left_out(topic):
    value = Episode((0,)).proposals[0] if topic == 'base_chunk' else Episode((0,)).chunks[0]
    assert not Recorder(SETTINGS).add(topic, dataclasses.replace(value, episode=''), 0)
