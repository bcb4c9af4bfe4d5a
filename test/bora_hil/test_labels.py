"""Rewards lie on the right step, at every boundary, whatever the origin of the step grid."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bora_common.types import ArbiterState as S
from bora_common.types import InterventionEvent, Outcome
from bora_hil.labels import RewardScheme, place_rewards

DT = 1.0 / 15.0
DT_NS = round(DT * 1e9)
T0 = 10_000_000_000
END = T0 + 90 * DT_NS
NAMES = {'A': S.AUTONOMOUS, 'I': S.BLEND_IN, 'H': S.HUMAN, 'O': S.BLEND_OUT, 'h': S.HOLD, 'F': S.FAULT}


def story(*steps):
    """Events from (offset in steps, letter): ('A' at 0 is the start)."""
    events, previous = [], S.HOLD
    for offset, letter in steps:
        events.append(InterventionEvent(T0 + round(offset * DT_NS), NAMES[letter], previous, 0.0, 0, ''))
        previous = NAMES[letter]
    return events


def step_of(reward, t0=T0):
    """Index of the step (t0 + j dt, t0 + (j + 1) dt] that covers the reward."""
    return math.ceil((reward.stamp_ns - t0) / DT_NS) - 1


def placed(events, outcome=Outcome.TIMEOUT, end=END):
    return [(step_of(r), r.name, r.value) for r in place_rewards(T0, end, outcome, events, DT)]


def test_a_takeover_is_charged_to_the_step_before_and_a_release_pays_the_last_human_step():
    events = story((0, 'A'), (10.5, 'I'), (13.5, 'H'), (20.5, 'O'), (24, 'A'))
    assert placed(events) == [(9, 'intervention', -0.1), (20, 'recovery', 0.05)]


@pytest.mark.parametrize('offset,step', [(10.001, 9), (10.5, 9), (11.0, 9), (11.001, 10)])
def test_the_charge_follows_the_step_that_covers_the_takeover(offset, step):
    assert placed(story((0, 'A'), (offset, 'I')))[0] == (step, 'intervention', -0.1)


def test_success_lies_on_the_step_that_covers_it():
    assert placed(story((0, 'A')), Outcome.SUCCESS, T0 + 40 * DT_NS) == [(39, 'success', 1.0)]
    assert placed(story((0, 'A')), Outcome.SUCCESS, T0 + 40 * DT_NS + 1) == [(40, 'success', 1.0)]


def test_success_in_the_humans_hand_pays_the_recovery_on_the_terminal_step():
    events = story((0, 'A'), (10.5, 'I'), (13.5, 'H'))
    assert placed(events, Outcome.SUCCESS, T0 + 30 * DT_NS) == [(9, 'intervention', -0.1), (29, 'recovery', 0.05), (29, 'success', 1.0)]


@pytest.mark.parametrize('outcome', [Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ABORTED])
def test_no_recovery_where_the_episode_does_not_succeed_in_the_humans_hand(outcome):
    names = [name for _, name, _ in placed(story((0, 'A'), (10.5, 'I'), (13.5, 'H')), outcome)]
    assert 'recovery' not in names and names[0] == 'intervention'


def test_silence_is_no_deliberate_release():
    assert placed(story((0, 'A'), (10.5, 'I'), (13.5, 'H'), (20, 'h'))) == [(9, 'intervention', -0.1)]


def test_taken_again_after_silence_the_same_intervention_goes_on():
    events = story((0, 'A'), (10.5, 'I'), (13.5, 'H'), (20, 'h'), (30, 'I'), (33, 'H'), (40.5, 'O'))
    assert placed(events) == [(9, 'intervention', -0.1), (40, 'recovery', 0.05)]


def test_resumed_after_silence_nothing_is_recovered():
    events = story((0, 'A'), (10.5, 'I'), (20, 'h'), (30, 'A'), (50.5, 'I'), (60.5, 'O'))
    assert placed(events) == [(9, 'intervention', -0.1), (49, 'intervention', -0.1), (60, 'recovery', 0.05)]


def test_taken_back_before_the_policy_had_a_step_is_one_intervention():
    events = story((0, 'A'), (10.5, 'I'), (13.5, 'H'), (20.5, 'O'), (21.5, 'I'), (25.5, 'O'), (28, 'A'), (28.5, 'I'), (40.5, 'O'))
    assert placed(events) == [(9, 'intervention', -0.1), (40, 'recovery', 0.05)]


@pytest.mark.parametrize('offset,charged', [(0.5, False), (1.0, False), (1.01, True)])
def test_a_policy_without_a_step_of_its_own_is_not_charged(offset, charged):
    assert bool(placed(story((0, 'A'), (offset, 'I'), (offset + 5, 'O')))) == charged


def test_a_takeover_from_a_hold_is_not_charged_and_earns_nothing():
    assert placed(story((0, 'A'), (10, 'h'), (12, 'I'), (20, 'O'))) == []


def test_what_happens_after_the_end_or_before_the_start_does_not_count():
    events = story((-5, 'A'), (-3, 'I'), (0, 'A'), (50, 'I'))
    assert placed(events, Outcome.SUCCESS, T0 + 40 * DT_NS) == [(39, 'success', 1.0)]


def test_order_of_arrival_does_not_matter():
    events = story((0, 'A'), (10.5, 'I'), (13.5, 'H'), (20.5, 'O'), (24, 'A'))
    assert placed(events[::-1]) == placed(events)


@given(
    gaps=st.lists(st.floats(0.01, 8), min_size=1, max_size=30), letters=st.lists(st.sampled_from('AIHOh'), min_size=30, max_size=30),
    outcome=st.sampled_from(list(Outcome)[1:]), shift=st.floats(0, 1),
)  # fmt: skip
def test_a_policy_never_earns_by_being_taken_over(gaps, letters, outcome, shift):
    """Over any story and any origin of the grid."""
    t, steps = 0.0, [(0, 'A')]
    for gap, letter in zip(gaps, letters, strict=False):
        t += gap
        steps.append((t, letter))
    end = T0 + round((t + 1) * DT_NS)
    rewards = place_rewards(T0, end, outcome, story(*steps), DT)
    assert all(T0 < r.stamp_ns <= end for r in rewards)
    balance = 0.0
    for r in rewards:
        if r.name in ('intervention', 'recovery'):
            balance += r.value
            assert balance < 0.0
    names = [r.name for r in rewards]
    assert names.count('recovery') <= names.count('intervention')
    assert names.count('success') == (outcome == Outcome.SUCCESS)
    takeovers = [e.stamp_ns for e in story(*steps) if e.state == S.BLEND_IN]
    for r in rewards:
        if r.name == 'intervention':
            origin = T0 - round(shift * DT_NS)
            assert any(step_of(r, origin) == math.ceil((s - origin) / DT_NS) - 2 for s in takeovers)


def test_the_scheme_is_a_parameter():
    rewards = place_rewards(T0, END, Outcome.SUCCESS, story((0, 'A'), (10.5, 'I')), DT, RewardScheme(2.0, -0.3, 0.2))
    assert [r.value for r in rewards] == [-0.3, 0.2, 2.0]
