"""Separation, calibration and ranking on data whose answers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_critic.metrics import action_ranking, auc, calibration, elapsed_steps, neighbours, pair_accuracy, separation

DT = 1 / 15


def test_auc_by_hand():
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert auc(np.ones(4), np.array([False, True, False, True])) == 0.5
    assert auc(np.ones(2), np.array([True, True])) is None
    assert auc(np.zeros(0), np.zeros(0, bool)) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_ordered_pairs(rows):
    score, positive = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    if pairs:
        assert auc(score, positive) == pytest.approx(np.mean(pairs))
    else:
        assert auc(score, positive) is None


def test_steps_are_counted_within_an_episode():
    stamps = np.array([0, 1, 2, 0, 1]) * round(DT * 1e9) + np.array([5, 5, 5, 9, 9]) * 10**9
    assert elapsed_steps(stamps, np.array([0, 0, 0, 1, 1]), DT).tolist() == [0, 1, 2, 0, 1]
    assert len(elapsed_steps(np.zeros(0, np.int64), np.zeros(0, np.int64), DT)) == 0


def test_separation_counts_each_episode_once_and_only_while_it_runs():
    """Episode 0 succeeds at once; 1 succeeds and 2 fails later. Rows out of order."""
    episode = np.array([2, 2, 2, 1, 1, 0])
    step = np.array([20, 0, 8, 0, 16, 0])
    value = np.array([0.1, 0.5, 9.0, 0.6, 0.2, 0.4])
    success = np.array([False, False, False, True, True, True])
    result = separation(value, step, episode, success, at=(0, 16, 32))
    assert result['auc_step_0'] == 0.5  # 0.6, 0.4 against 0.5: step 8's 9.0 is a second row of its window
    assert result['auc_step_16'] == 1.0  # 0.2 against 0.1; episode 0 is over
    assert result['auc_step_32'] is None
    assert result['auc_last'] == 1.0  # 0.4, 0.2 against 0.1
    assert result['auc_mean'] == 0.0  # 0.4, 0.4 against 3.2
    assert result['auc'] == pytest.approx(4 / 9)


def test_separation_of_nothing():
    none = np.zeros(0)
    assert set(separation(none, none, none.astype(int), none.astype(bool)).values()) == {None}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_separation_ignores_the_order_of_rows_and_any_monotone_scale(seed):
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(8), 5)
    step, value, success = np.tile(np.arange(5) * 16, 8), rng.normal(size=40), np.repeat(rng.random(8) < 0.5, 5)
    order = rng.permutation(40)
    first = separation(value, step, episode, success)
    again = separation(value[order], step[order], episode[order], success[order])
    scaled = separation(np.exp(value), step, episode, success)
    for name, number in first.items():
        assert again[name] == (None if number is None else pytest.approx(number))
        if name != 'auc_mean':
            assert scaled[name] == number


def test_calibration_by_hand():
    value, returns = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    result = calibration(value, returns, bins=2)
    assert result.predicted.tolist() == [0.0, 1.0]
    assert result.observed.tolist() == [0.5, 1.0]
    assert result.count.tolist() == [2, 2]
    assert result.error == 0.25
    assert result.bias == -0.25
    assert result.mean_squared == 0.25
    assert result.explained == pytest.approx(1 - 0.25 / 0.1875)


def test_an_oracle_is_calibrated_and_a_constant_explains_nothing():
    returns = np.random.default_rng(0).normal(size=57)
    oracle, constant = calibration(returns, returns), calibration(np.full(57, returns.mean()), returns)
    assert oracle.error == pytest.approx(0.0, abs=1e-12)
    assert oracle.explained == pytest.approx(1.0)
    assert constant.explained == pytest.approx(0.0, abs=1e-9)
    assert constant.bias == pytest.approx(0.0, abs=1e-12)
    assert sum(oracle.count) == 57
    assert len(calibration(np.ones(1), np.ones(1)).count) == 1


def test_neighbours_are_near_of_another_episode_and_the_better_comes_first():
    state = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])
    episode, returns = np.array([0, 1, 2, 2, 3]), np.array([0.0, 1.0, 1.0, 1.0, 0.5])
    pairs = neighbours(state, episode, returns, nearest=1)
    assert sorted(map(tuple, pairs.tolist())) == [(1, 0), (2, 4), (3, 4)]
    assert neighbours(state, episode, returns, nearest=1, gap=0.6).tolist() == [[1, 0]]
    step = np.array([0, 30, 0, 30, 30])
    assert sorted(map(tuple, neighbours(state, episode, returns, nearest=1, step=step).tolist())) == [(2, 0), (3, 4)]
    assert neighbours(state[:1], episode[:1], returns[:1]).shape == (0, 2)
    assert neighbours(state[2:4], episode[2:4], np.array([0.0, 1.0])).shape == (0, 2)  # of one episode only


def test_pairs_are_counted_with_ties_half():
    assert pair_accuracy(np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 4.0, -1.0])) == 0.625
    assert pair_accuracy(np.zeros(0), np.zeros(0)) is None


def test_a_critic_that_ranks_states_only_is_at_one_half():
    """The better row lies in the better state, and Q there is high whatever the action."""
    rng = np.random.default_rng(0)
    good, bad = rng.normal(2.0, 1.0, 200), rng.normal(0.0, 1.0, 200)
    states_only = np.stack([np.stack([good, good], 1), np.stack([bad, bad], 1)], 1)
    nearer = np.stack([np.full(200, 0.1), np.full(200, 0.3)], 1)
    assert action_ranking(states_only, nearer) == {'pairs': 200.0, 'q': 0.5, 'nearer': 1.0}
    knows = states_only + np.array([0.01, 0.0])
    assert action_ranking(knows, nearer[:, ::-1]) == {'pairs': 200.0, 'q': 1.0, 'nearer': 0.0}
    assert action_ranking(np.zeros((0, 2, 2)), np.zeros((0, 2))) == {'pairs': 0.0, 'q': None, 'nearer': None}
