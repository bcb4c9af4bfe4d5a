"""The online learner in a toy world: what it learns, what it leaves alone, and that nothing is lost."""

import copy
import dataclasses

import learner_toy as toy
import numpy as np
import pytest
import torch

from bora_common.errors import ConfigError, ModelError
from bora_common.types import WeightsVersion
from bora_policy.packing import unpack_chain
from bora_trainer.actor_update import RECIPES, recipe
from bora_trainer.batch import ReturnTable, Source, join
from bora_trainer.critic_update import CriticConfig
from bora_trainer.online import OnlineConfig, OnlineLearner, State
from bora_trainer.publish_gate import PublishGate

CONFIG = OnlineConfig(
    planned_updates=120, batch_size=48, start_episodes=1, updates_per_transition=5.0, episodes_per_round=0, actor_rate=2e-3,
    critic=CriticConfig(learning_rate=1e-3),
)  # fmt: skip


def learner(data=60, offline=False, seed=0, run='run', **changes):
    torch.manual_seed(seed)
    store = None
    if offline:
        store, rng = toy.buffer(), np.random.default_rng(77)
        for i in range(30):
            store.insert(toy.bandit(i, rng, human=False))
    made = OnlineLearner(toy.chain(), toy.critic(), store, dataclasses.replace(CONFIG, **changes), run)
    add(made, 0, data)
    return made


def add(made, start, end, round_number=0):
    rng = np.random.default_rng(start + 1)
    for i in range(start, end):
        assert made.add(toy.bandit(i, rng, human=i % 4 == 0, round_number=round_number))


def run(made, updates=None):
    count = 0
    while made.state is State.TRAINING and (updates is None or count < updates):
        made.update()
        count += 1


def mapping(made):
    t = toy.bandit(0, np.random.default_rng(3), True)
    return made.chain.apply(t.vla, t.tokens, t.proprio)[1]


def everything(made):
    facts, tensors = made.snapshot()
    return facts, tensors, vars(made.counters), made.rng.bit_generator.state


def same(a, b):
    (facts_a, tensors_a, *rest_a), (facts_b, tensors_b, *rest_b) = a, b
    return facts_a == facts_b and rest_a == rest_b and tensors_a.keys() == tensors_b.keys() and all(
        torch.equal(tensors_a[k], tensors_b[k]) for k in tensors_a
    )  # fmt: skip


# --- learning -----------------------------------------------------------------------------------------------------------------------


def test_the_residual_starts_as_the_base_exactly():
    made, t = learner(), toy.bandit(0, np.random.default_rng(3), True)
    base, final = made.chain.apply(t.vla, t.tokens, t.proprio)
    assert np.array_equal(base, t.vla)
    assert np.array_equal(final, t.vla)


@pytest.mark.parametrize('name', ['weighted', 'imitation'])
def test_it_learns_the_correction(name):
    made = learner(data=120, recipe=dataclasses.replace(recipe(name), input_noise=0.2))
    run(made)
    assert made.state is State.IDLE
    assert 0.4 < toy.gain(made.chain, np.random.default_rng(9)) < 1.2


def test_noise_on_what_the_actor_reads_leaves_what_is_common_to_all_scenes():
    made = learner(data=0)
    rng = np.random.default_rng(0)
    for i in range(120):
        t = toy.bandit(i, rng, human=True)
        made.add(dataclasses.replace(t, executed=t.vla + toy.OFFSET))
    run(made)
    t = toy.bandit(0, rng, human=True)
    final = made.chain.apply(t.vla, t.tokens, t.proprio)[1]
    np.testing.assert_allclose(final - t.vla, np.tile(toy.OFFSET, (toy.K, 1)), atol=0.02)


def test_a_person_who_is_slower_teaches_no_delay():
    """A chunk on the base's own path at half its pace asks for no correction."""
    made, human = learner(data=0), {'human': np.ones(toy.K, bool), 'beta': np.ones(toy.K, np.float32)}
    path = np.linspace(0, 0.3, 2 * toy.K)[:, None] * np.ones(toy.D)
    for i in range(20):
        made.add(toy.transition(i, vla=path[::2], executed=path[: toy.K], **human))
    run(made)
    base, final = made.chain.apply(path[::2], np.zeros((toy.T, toy.W), np.float32), np.zeros(toy.D))
    assert np.abs(final - base).max() < 0.03 < np.abs(path[: toy.K] - path[::2]).max()


def test_the_critic_ranks_the_right_action_first():
    made = learner(data=200, planned_updates=200)
    run(made)
    source = Source(made.online, toy.NORMALIZER, 0.99, False, 2)
    batch = source.draw(np.random.default_rng(0), 200)
    with torch.no_grad():
        q = made.critic.critic.q(batch.z, batch.s, batch.executed).amin(0)[:, -1]
    assert q[batch.success].mean() > q[~batch.success].mean() + 0.3


def test_the_papers_recipe_stays_finite():
    made = learner(recipe=recipe('literal'))
    run(made)
    assert all(np.isfinite(v) for v in made.info.values())
    assert np.isfinite(mapping(made)).all()
    assert np.abs(mapping(made) - toy.bandit(0, np.random.default_rng(3), True).vla).max() <= 0.75 * toy.BOUND.max() + 1e-6


@pytest.mark.parametrize('name', list(RECIPES))
def test_the_actors_update_leaves_the_critic_alone_and_the_other_way_round(name):
    made = learner(offline=True, recipe=recipe(name))
    batch = made.draw()
    before = copy.deepcopy(made.actor.chain.state_dict())
    _, scores = made.critic.update(batch, made.rng)
    assert all(torch.equal(before[k], v) for k, v in made.chain.state_dict().items())
    before = copy.deepcopy(made.critic.critic.state_dict())
    made.actor.update(batch, scores, 0.2, 0.75, 2.0, made.rng)
    assert all(torch.equal(before[k], v) for k, v in made.critic.critic.state_dict().items())
    assert all(p.grad is not None for p in made.chain.current.parameters())


def test_failed_demonstrations_and_undecided_steps_are_not_imitated():
    made = learner(data=0, recipe=recipe('imitation'))
    late = {'human': np.ones(toy.K, bool), 'beta': np.ones(toy.K, np.float32), 'executed': np.ones((toy.K, toy.D)), 'first': toy.K}
    for i in range(3):
        made.add(toy.transition(i, **late))
    run(made, 1)
    assert made.info['bc_steps'] == 0
    store = toy.buffer()
    store.insert(toy.transition(0, success=False))
    batch = join([Source(store, toy.NORMALIZER, 0.99, True, 2).draw(made.rng, 4)], torch.device('cpu'))
    _, scores = made.critic.update(batch, made.rng)
    assert made.actor.update(batch, scores, 0.2, 0.75, 2.0, made.rng)['bc_steps'] == 0


def test_what_lies_beyond_the_mask_changes_no_update():
    """Two learners whose data differ in the padding only stay equal, bit for bit."""
    made = []
    for padding in (0.0, 50.0):
        one = learner(data=0, recipe=recipe('literal'))
        rng = np.random.default_rng(0)
        for i in range(20):
            t = toy.bandit(i, rng, human=i % 2 == 0)
            mask, done, reward, executed = t.mask.copy(), np.zeros(toy.K, bool), t.reward.copy(), t.executed.copy()
            mask[5:], done[4] = False, True
            reward[5:], executed[5:] = padding, padding
            one.add(dataclasses.replace(t, mask=mask, done=done, reward=reward, executed=executed))
        run(one, 10)
        made.append(one)
    assert same(everything(made[0]), everything(made[1]))


@pytest.mark.parametrize('kind', ['returns', 'chunk', 'shifted'])
def test_all_targets_of_the_critic_train(kind):
    made = learner(offline=True, critic=CriticConfig(targets=kind))
    run(made, 5)
    assert np.isfinite(made.info['critic_loss'])
    assert made.info['inheritance_loss'] >= 0


def test_the_inherited_view_is_the_critics_own_at_the_start():
    made = learner(offline=True)
    batch = made._offline.rows(np.arange(5))
    with torch.no_grad():
        assert torch.allclose(made.critic.critic.q(batch.z, batch.s, batch.executed), batch.q_offline, atol=1e-6)


def test_the_target_network_follows_slowly():
    made = learner(critic=CriticConfig(learning_rate=1e-3, target_rate=0.1))
    start = [p.clone() for p in made.critic.target.parameters()]
    made.update()
    for before, target, own in zip(start, made.critic.target.parameters(), made.critic.critic.parameters(), strict=True):
        torch.testing.assert_close(target, before + 0.1 * (own - before))


def test_half_of_a_batch_is_offline():
    batch = learner(offline=True).draw()
    assert batch.offline.sum() == len(batch) // 2
    assert not learner().draw().offline.any()


# --- data pay for updates -----------------------------------------------------------------------------------------------------------


def test_updates_wait_for_data_and_end_at_the_plan():
    made = learner(data=0, planned_updates=30, updates_per_transition=2.0, start_episodes=3)
    assert made.state is State.WAITING
    add(made, 0, 2)
    assert made.state is State.WAITING
    add(made, 2, 4)
    run(made)
    assert made.counters.round_update == 8
    assert made.state is State.WAITING
    made.finish_round()
    run(made)
    assert made.counters.round_update == 30
    assert made.state is State.IDLE


def test_the_rounds_last_episode_frees_the_rest():
    made = learner(data=4, planned_updates=30, updates_per_transition=1.0, episodes_per_round=5)
    run(made)
    assert made.counters.round_update == 4
    add(made, 4, 5)
    run(made)
    assert made.state is State.IDLE


def test_duplicates_do_not_count():
    made, t = learner(data=0), toy.bandit(0, np.random.default_rng(0), True)
    assert made.add(t)
    assert not made.add(t)
    assert made.online.distinct == 1
    assert made.allowed() == 5


@pytest.mark.parametrize(
    ('change', 'named'), [({'model_id': 'b' * 64}, 'model'), ({'executed': np.zeros((4, toy.D))}, 'steps'), ({'dt': 0.1}, 'dt')]
)
def test_a_foreign_transition_is_refused_by_name(change, named):
    with pytest.raises(ConfigError, match=named):
        learner().add(toy.transition(999, **change))


def test_a_foreign_offline_store_or_critic_is_refused_by_name():
    store = toy.buffer()
    store.model_id = 'b' * 64
    with pytest.raises(ConfigError, match='model digest'):
        OnlineLearner(toy.chain(), toy.critic(), store, CONFIG, 'run')
    with pytest.raises(ConfigError, match='joints'):
        OnlineLearner(toy.chain(), toy.critic(joints=('x', 'y', 'z')), None, CONFIG, 'run')
    with pytest.raises(ConfigError, match='normaliser'):
        OnlineLearner(toy.chain(), toy.critic(std=(0.5, 0.5, 0.5)), None, CONFIG, 'run')


def test_returns_follow_late_transitions_and_a_ring_that_turns():
    store = toy.buffer(capacity=4)
    table = ReturnTable(store, 1.0)
    step = round(toy.K * toy.DT * 1e9)
    ones = np.ones(toy.K, np.float32)
    first = toy.transition(0, episode='e', stamp_ns=10**9, done=np.zeros(toy.K, bool), reward=ones)
    store.insert(first)
    table.refresh()
    assert not table.complete[0]
    store.insert(toy.transition(1, episode='e', stamp_ns=10**9 + step, reward=ones))
    table.refresh()
    assert table.complete[:2].all()
    assert table.values[0, 0] == 2 * toy.K
    for seq in range(2, 7):
        store.insert(toy.transition(seq, episode=f'f{seq}', reward=seq * ones))
    table.refresh()
    assert sorted(table.values[:, 0]) == [toy.K * seq for seq in (3, 4, 5, 6)]


# --- rounds -------------------------------------------------------------------------------------------------------------------------


def test_a_new_round_freezes_the_residual_and_changes_nothing_executed():
    made = learner()
    run(made)
    before, alpha = mapping(made), made.chain.alpha
    assert alpha == pytest.approx(0.75)
    assert made.new_round(1)
    assert np.allclose(mapping(made), before, atol=1e-9)
    assert made.chain.alphas == [alpha]
    assert made.alpha == 0.2
    assert made.counters.round_update == 0
    assert not made.new_round(1)
    add(made, 60, 80, round_number=1)
    frozen = copy.deepcopy(made.chain.frozen.state_dict())
    run(made)
    assert all(torch.equal(frozen[k], v) for k, v in made.chain.frozen.state_dict().items())
    assert not np.allclose(mapping(made), before, atol=1e-4)


def test_a_round_without_updates_freezes_nothing():
    made = learner(data=0)
    assert not made.new_round(1)
    assert made.counters.round == 1
    assert len(made.chain.frozen) == 0


# --- publication --------------------------------------------------------------------------------------------------------------------


def test_a_package_carries_the_chain_and_its_version():
    made = learner()
    run(made, 7)
    weights = made.package(stamp_ns=5)
    chain, version = unpack_chain(weights.data, digest=weights.sha256, model_id=toy.MODEL, like=toy.chain())
    assert version == weights.version == WeightsVersion('run', 0, 7)
    t = toy.bandit(0, np.random.default_rng(3), True)
    assert np.array_equal(chain.apply(t.vla, t.tokens, t.proprio)[1], mapping(made))


def test_a_refusal_goes_back_to_the_last_accepted_weights():
    made = learner()
    run(made, 5)
    made.package()
    assert made.accepted(WeightsVersion('run', 0, 5))
    good = made.snapshot()
    run(made, 5)
    made.package()
    assert not made.refused(WeightsVersion('run', 0, 99))
    assert made.refused(WeightsVersion('run', 0, 10))
    back = made.snapshot()
    assert all(torch.equal(good[1][k], back[1][k]) for k in good[1])
    assert (made.counters.update, made.counters.accepted, made.counters.refused) == (10, 1, 1)
    run(made)
    assert made.state is State.IDLE


@pytest.mark.parametrize('order', [(4, 8), (8, 4)])
def test_answers_may_lag_behind_publications(order):
    """Answered in turn both count; a newer acceptance settles the older publication, which was overwritten unseen."""
    made = learner()
    for _ in range(2):
        run(made, 4)
        made.package()
    assert [made.accepted(WeightsVersion('run', 0, update)) for update in order] == [True, order == (4, 8)]
    good = mapping(made)
    run(made, 3)
    made.roll_back()
    assert np.array_equal(mapping(made), good)


def test_a_refusal_after_a_new_round_keeps_the_frozen_chain():
    made = learner()
    run(made)
    made.new_round(1)
    before = mapping(made)
    add(made, 60, 80, round_number=1)
    run(made, 5)
    version = made.package().version
    assert made.refused(version)
    assert np.array_equal(mapping(made), before)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_the_gate_refuses_what_is_not_finite(value):
    made = learner()
    run(made, 3)
    assert made.check() == ''
    with torch.no_grad():
        made.chain.current.net[0].weight[0, 0] = value
    assert 'not finite' in made.check()
    made.withhold()
    assert made.check() == ''
    assert made.counters.withheld == 1


@pytest.mark.parametrize('name', ['actor_gradient', 'critic_gradient', 'q_mean', 'saturation'])
@pytest.mark.parametrize('value', [1e9, float('nan')])
def test_the_gate_refuses_huge_numbers_by_name(name, value):
    made = learner()
    run(made, 1)
    assert name in PublishGate().reason(made.chain, made.info | {name: value}, (0.0, 1.0))


# --- checkpoints --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('rounds', [1, 2])
def test_a_resumed_learner_goes_on_bit_for_bit(tmp_path, rounds):
    made = learner(offline=True)
    run(made, 10)
    if rounds == 2:
        made.new_round(1)
        run_round = 1
        add(made, 60, 70, round_number=run_round)
        made.finish_round()
        run(made, 7)
    made.checkpoint(tmp_path)
    again = learner(offline=True, seed=0, run='other')
    again.resume(tmp_path)
    if rounds == 2:
        add(again, 60, 70, round_number=1)
    assert same(everything(made), everything(again))
    for one in (made, again):
        run(one, 10)
        one.new_round(5)
        add(one, 70, 80, round_number=5)
        run(one, 5)
    assert again.run == 'run'
    assert same(everything(made), everything(again))
    assert np.array_equal(mapping(made), mapping(again))


@pytest.mark.parametrize('damage', ['truncate', 'flip', 'empty'])
def test_a_damaged_checkpoint_never_starts_over_silently(tmp_path, damage):
    made = learner()
    path = made.checkpoint(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes({'truncate': data[:-9], 'flip': data, 'empty': b''}[damage])
    with pytest.raises(ModelError, match=str(path)):
        learner().resume(tmp_path)


def test_a_foreign_checkpoint_is_refused_by_name(tmp_path):
    made = learner()
    made.checkpoint(tmp_path)
    with pytest.raises(ModelError, match='recipe'):
        learner(recipe=recipe('literal')).resume(tmp_path)
    with pytest.raises(ModelError, match='inherited_critic'):
        learner(seed=5).resume(tmp_path)


def test_a_checkpoint_is_replaced_whole(tmp_path):
    made = learner()
    path = made.checkpoint(tmp_path)
    run(made, 2)
    made.checkpoint(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
