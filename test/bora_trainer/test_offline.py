"""The offline critic: split, AUC, and a critic that tells success from failure and comes back from disk."""

import learner_toy as toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import ConfigError
from bora_critic.critic import load_critic
from bora_trainer.batch import Source
from bora_trainer.offline import auc, elapsed_steps, fit_critic, measure, split_by_episode


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


def test_whole_episodes_are_held_out():
    episode = np.repeat(np.arange(10), 7)
    split = split_by_episode(episode, np.random.default_rng(0), 0.3)
    assert set(episode[split.train]).isdisjoint(episode[split.held_out])
    assert len(set(episode[split.held_out])) == 3
    assert len(split.train) + len(split.held_out) == 70


def test_steps_are_counted_within_an_episode():
    stamps = np.array([0, 1, 2, 0, 1]) * round(toy.DT * 1e9) + np.array([5, 5, 5, 9, 9]) * 10**9
    assert elapsed_steps(stamps, np.array([0, 0, 0, 1, 1]), toy.DT).tolist() == [0, 1, 2, 0, 1]


def labelled(count=80, success=True):
    """One-decision episodes whose tokens tell how they end."""
    store, rng = toy.buffer(), np.random.default_rng(0)
    for i in range(count):
        right = bool(i % 2) and success
        tokens = rng.normal(0, 0.1, (toy.T, toy.W)).astype(np.float32)
        tokens[1, 0] += 2.0 * right
        reward = np.full(toy.K, -0.01, np.float32)
        reward[-1] += float(right)
        store.insert(toy.transition(i, episode=f'e{i}', tokens=tokens, reward=reward, success=right))
    return store


def test_the_critic_tells_success_from_failure(tmp_path):
    facts = fit_critic(labelled(), toy.NORMALIZER, tmp_path / 'critic', steps=120, seed=1, batch_size=64, hidden=32)
    assert facts['held_out_auc'] == 1.0
    assert facts['held_out_v_success'] > 0.6 > 0.3 > facts['held_out_v_failure']
    critic = load_critic(tmp_path / 'critic', model_id=toy.MODEL, joints=toy.JOINTS.names, k=toy.K)
    low, high = critic.spec.return_range
    assert low < 0 < 0.8 < high
    source = Source(labelled(), toy.NORMALIZER, 0.99, True, 2)
    source.returns.refresh()
    assert measure(critic, source, np.arange(80))['auc'] == 1.0


@pytest.mark.parametrize('kind', ['chunk', 'shifted'])
def test_bootstrapped_updates_may_follow(tmp_path, kind):
    facts = fit_critic(labelled(20), toy.NORMALIZER, tmp_path, steps=5, bootstrap=kind, bootstrap_steps=5, hidden=16)
    assert np.isfinite(facts['critic_loss'])


def test_the_same_seed_gives_the_same_critic(tmp_path):
    weights = []
    for name in ('a', 'b'):
        fit_critic(labelled(20), toy.NORMALIZER, tmp_path / name, steps=5, seed=3, hidden=16)
        weights.append((tmp_path / name / 'critic.safetensors').read_bytes())
    assert weights[0] == weights[1]


def test_data_from_a_file_and_data_without_an_end(tmp_path):
    store = labelled(20)
    store.save(tmp_path / 'offline.safetensors')
    fit_critic(tmp_path / 'offline.safetensors', toy.NORMALIZER, tmp_path / 'critic', steps=2, hidden=16)
    with pytest.raises(ConfigError, match='no transitions'):
        fit_critic(toy.buffer(), toy.NORMALIZER, tmp_path / 'critic')
    open_ended = toy.buffer()
    open_ended.insert(toy.transition(0, done=np.zeros(toy.K, bool)))
    with pytest.raises(ConfigError, match='finished episode'):
        fit_critic(open_ended, toy.NORMALIZER, tmp_path / 'critic', steps=1)
