"""The offline critic: split, measurements, and a critic that tells success from failure and comes back from disk."""

import learner_toy as toy
import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_critic.critic import load_critic
from bora_trainer.batch import Source
from bora_trainer.offline import fit_critic, measure, split_by_episode


def test_whole_episodes_are_held_out():
    episode = np.repeat(np.arange(10), 7)
    split = split_by_episode(episode, np.random.default_rng(0), 0.3)
    assert set(episode[split.train]).isdisjoint(episode[split.held_out])
    assert len(set(episode[split.held_out])) == 3
    assert len(split.train) + len(split.held_out) == 70


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


def test_the_critic_ranks_actions_within_a_state(tmp_path):
    """The sign in the tokens says which of three offsets earns the reward; the one nearest to the policy's own chunk never does."""
    store, rng = toy.buffer(), np.random.default_rng(0)
    for i in range(200):
        store.insert(toy.bandit(i, rng, human=False))
    facts = fit_critic(store, toy.NORMALIZER, tmp_path, steps=120, seed=0, batch_size=64, hidden=32, learning_rate=3e-3)
    assert facts['held_out_ranking_pairs'] > 20
    assert facts['held_out_ranking_q'] > 0.9
    assert facts['held_out_ranking_nearer'] < 0.4


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
