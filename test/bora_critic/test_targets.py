"""Targets against hand-computed cases, and their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_critic import targets

NAN = float('nan')


def test_last_valid_marks_the_end_of_each_prefix():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    expected = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    assert torch.equal(targets.last_valid(mask), expected)


def test_shifted_by_hand():
    reward, done = torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3)
    last = torch.tensor([[False, False, True]])
    y = targets.shifted(reward, done, last, torch.tensor([[10.0, 20.0, NAN]]), torch.tensor([40.0]), 0.5)
    assert y.tolist() == [[6.0, 12.0, 23.0]]


def test_shifted_does_not_bootstrap_a_terminal():
    y = targets.shifted(torch.tensor([[1.0]]), torch.tensor([[1.0]]), torch.tensor([[True]]), torch.zeros(1, 1), torch.tensor([9.0]), 0.5)
    assert y.item() == 1.0


def test_chunk_by_hand():
    reward, mask = torch.tensor([[1.0, 2.0, 4.0, 99.0]]), torch.tensor([[1, 1, 1, 0]])
    done = torch.zeros(1, 4)
    y = targets.chunk(reward, done, mask, torch.tensor([8.0]), 0.5)
    assert y.tolist() == [[1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4, 0]]
    done[0, 2] = 1
    assert targets.chunk(reward, done, mask, torch.tensor([8.0]), 0.5).tolist() == [[3, 4, 4, 0]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.05, 1.0))
def test_padding_never_leaks_into_chunk_targets(seed, n, gamma):
    rng = torch.Generator().manual_seed(seed)
    reward = torch.randn(3, 6, generator=rng)
    mask = (torch.arange(6) < n).expand(3, 6)
    done = torch.zeros(3, 6)
    v = torch.randn(3, generator=rng)
    other_reward, other_done = reward.clone(), done.clone()
    other_reward[:, n:], other_done[:, n:] = 1e3, 1
    assert torch.equal(targets.chunk(reward, done, mask, v, gamma), targets.chunk(other_reward, other_done, mask, v, gamma))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 1.0), st.booleans())
def test_one_step_chunks_are_plain_td_in_both_targets(seed, gamma, terminal):
    rng = torch.Generator().manual_seed(seed)
    reward, v = torch.randn(4, 1, generator=rng), torch.randn(4, generator=rng)
    done, mask = torch.full((4, 1), float(terminal)), torch.ones(4, 1).bool()
    expected = reward[:, 0] + gamma * (1 - done[:, 0]) * v
    assert torch.allclose(targets.chunk(reward, done, mask, v, gamma)[:, 0], expected, atol=1e-6)
    assert torch.allclose(targets.shifted(reward, done, targets.last_valid(mask), reward, v, gamma)[:, 0], expected, atol=1e-6)


def test_chunk_and_shifted_agree_where_the_value_is_exact():
    """With v(z,s,i) equal to what remains, the paper's shifted target is the exact in-chunk sum."""
    reward, mask, v_next, gamma = torch.tensor([[0.1, -0.2, 0.3]]), torch.ones(1, 3).bool(), torch.tensor([0.7]), 0.9
    done = torch.zeros(1, 3)
    exact = targets.chunk(reward, done, mask, v_next, gamma)
    after = torch.cat([exact[:, 1:], torch.zeros(1, 1)], 1)
    assert torch.allclose(targets.shifted(reward, done, targets.last_valid(mask), after, v_next, gamma), exact)


# --- Monte-Carlo returns ------------------------------------------------------------------------------------------------------------

DT = 1 / 15


def episode(starts, lengths, k, rewards, done_at=None, truncated=()):
    """Transitions of one episode whose step rewards are `rewards` [steps]."""
    count = len(starts)
    reward, mask, done = np.zeros((count, k), np.float32), np.zeros((count, k), bool), np.zeros((count, k), bool)
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        reward[row, :n], mask[row, :n] = rewards[start : start + n], True
        if done_at is not None and start <= done_at < start + n:
            done[row, done_at - start] = True
    stamps = np.array([round(s * DT * 1e9) for s in starts]) + 123
    flags = np.array([row in truncated for row in range(count)])
    return stamps, reward, done, mask, flags


def sums(rewards, gamma):
    tail, out = 0.0, np.zeros(len(rewards))
    for i in range(len(rewards) - 1, -1, -1):
        tail = rewards[i] + gamma * tail
        out[i] = tail
    return out


def test_returns_chain_to_the_terminal():
    rewards = [-0.1, -0.1, -0.1, -0.1, -0.1, 1.0]
    data = episode([0, 2, 4], [2, 2, 2], 3, rewards, done_at=5)
    result = targets.monte_carlo(*data, dt=DT, gamma=0.5)
    expected = sums(rewards, 0.5)
    assert result.complete.all()
    for row, start in enumerate((0, 2, 4)):
        assert np.allclose(result.values[row], [expected[start], expected[start + 1], 0.0])


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 20), st.integers(1, 5), st.floats(0.3, 1.0), st.integers(0, 1000))
def test_every_overlapping_transition_has_the_return_of_its_step(steps, k, gamma, seed):
    """One transition at every step, in shuffled order: the return depends on the step alone."""
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=steps).astype(np.float32)
    starts = rng.permutation(steps)
    stamps, reward, done, mask, flags = episode(starts, [min(k, steps - s) for s in starts], k, rewards, done_at=steps - 1)
    result = targets.monte_carlo(stamps, reward, done, mask, flags, dt=DT, gamma=gamma)
    assert result.complete.all()
    assert np.allclose(result.values[:, 0], sums(rewards, gamma)[starts], atol=1e-4)


def test_running_out_of_time_earns_nothing_more():
    data = episode([0, 2], [2, 2], 2, [-0.1] * 4, truncated={1})
    result = targets.monte_carlo(*data, dt=DT, gamma=1.0)
    assert result.complete.all()
    assert np.allclose(result.values, [[-0.4, -0.3], [-0.2, -0.1]])


def test_a_hold_in_mid_episode_leaves_its_chain_without_a_return():
    data = episode([0, 2, 6], [2, 2, 2], 2, [0.0] * 8, done_at=7, truncated={1})
    result = targets.monte_carlo(*data, dt=DT, gamma=1.0)
    assert result.complete.tolist() == [False, False, True]


def test_a_missing_successor_leaves_no_return():
    data = episode([0, 4], [2, 2], 2, [0.0] * 6, done_at=5)
    assert targets.monte_carlo(*data, dt=DT, gamma=1.0).complete.tolist() == [False, True]


@pytest.mark.parametrize('boundary', [2, 3])
def test_a_takeover_ends_the_policys_return(boundary):
    """In the chunk and between chunks: the rescue pays the person's steps only."""
    stamps, reward, done, mask, flags = episode([0, 3], [3, 3], 3, [0, 0, 0, 0, 0, 1.0], done_at=5)
    human = np.zeros((2, 3), bool)
    human.reshape(-1)[boundary:] = True
    result = targets.monte_carlo(stamps, reward, done, mask, flags, dt=DT, gamma=1.0, human=human)
    assert result.values.reshape(-1).tolist() == [0.0] * boundary + [1.0] * (6 - boundary)
