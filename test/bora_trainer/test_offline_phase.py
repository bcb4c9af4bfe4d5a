"""The offline phase: who gets which gradient, the gate, both stages, and that training goes on from disk as if nothing had happened."""

import dataclasses

import numpy as np
import offline_toy as toy
import pytest
import torch

from bora_common.errors import ModelError
from bora_common.types import Normalizer
from bora_policy.likelihood import log_prob
from bora_trainer.offline_state import facts_of, load_phase, save_phase


def weights(module):
    return {n: p.detach().clone() for n, p in module.named_parameters()}


def moved(before, module):
    return {n for n, p in module.named_parameters() if not torch.equal(before[n], p)}


def run(phase, until):
    infos = []
    while phase.updates < until:
        infos.append(phase.step())
    return infos


def everything(phase):
    parts = {'model': phase.actor.model, 'old': phase.actor.old, 'critic': phase.critic.critic, 'target': phase.critic.target}
    state = {f'{k}.{n}': p for k, m in parts.items() if m is not None for n, p in m.named_parameters()}
    return state | {f'average.{i}': a for i, a in enumerate(phase.actor.average)}


def test_first_stage_trains_both_and_no_ppo_term_is_there():
    phase = toy.phase()
    actor, critic = weights(phase.actor.model), weights(phase.critic.critic)
    info = phase.step()
    assert {'bc_loss', 'critic_loss', 'value_loss', 'actor_gradient'} <= info.keys() and 'ppo_loss' not in info
    changed = moved(actor, phase.actor.model)
    assert any(n.startswith('vlm.') for n in changed) and any(n.startswith('expert.') for n in changed) and 'cognition' in changed
    changed = moved(critic, phase.critic.critic)
    assert any(n.startswith('v.') for n in changed) and any(n.startswith('advantage.') for n in changed)
    assert phase.actor.old is None


def test_the_critics_gradient_does_not_reach_the_vlm(monkeypatch):
    phase = toy.phase(toy.config(actor={'bc_weight': 0.0}))
    seen = []
    update = phase.actor.update
    monkeypatch.setattr(phase.actor, 'update', lambda loss, rate: (seen.append(collect(phase)), update(loss, rate))[1])
    phase.step()
    assert seen == [set()]  # after the critic's update, before the actor's backward pass


def collect(phase):
    return {n for n, p in phase.actor.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_the_actors_loss_reaches_the_vlm_through_ppo_alone():
    phase = toy.phase(toy.config(actor={'bc_weight': 0.0, 'weight_decay': 0.0}, ppo={'start': 0, 'weight': 1.0}))
    phase.step()
    reached = collect(phase)
    assert any(n.startswith('vlm.model.vision_tower') for n in reached) and any(n.startswith('expert.') for n in reached)


def test_warm_up_on_returns_then_bootstraps():
    phase = toy.phase()
    kinds = []
    for _ in range(5):
        kinds.append(phase.critic.kind)
        phase.step()
    assert kinds == ['returns'] * 3 + ['chunk'] * 2


@pytest.mark.parametrize('targets', ['returns', 'chunk', 'shifted'])
@pytest.mark.parametrize('kind', ['tokens', 'pixels'])
def test_both_critics_and_all_targets_go_through_both_stages(kind, targets):
    phase = toy.phase(toy.config(critic={'kind': kind, 'targets': targets}))
    infos = run(phase, 8)
    assert all(np.isfinite(list(info.values())).all() for info in infos)
    assert 'ppo_loss' in infos[-1] and infos[6]['ratio_mean'] == pytest.approx(1.0, abs=0.2)


def test_old_policy_is_the_new_one_where_it_is_refreshed():
    phase = toy.phase()
    infos = run(phase, 10)
    for update in (6, 9):  # start, and three updates later
        assert infos[update]['ratio_mean'] == pytest.approx(1.0, abs=1e-6) and infos[update]['clip_fraction'] == 0
    assert infos[7]['ratio_mean'] != pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize(('gate', 'actor_moves'), [('actor', False), ('ppo', True)])
def test_a_shut_gate(gate, actor_moves):
    phase = toy.phase(toy.config(ppo={'gate': gate, 'margin': 1e9}))
    run(phase, 6)
    actor, critic = weights(phase.actor.model), weights(phase.critic.critic)
    info = phase.step()
    assert info['gate_open'] == 0 and 'ppo_loss' not in info
    assert bool(moved(actor, phase.actor.model)) == actor_moves
    assert moved(critic, phase.critic.critic)
    assert phase.open_fraction == 0


def test_a_shut_ppo_gate_is_behaviour_cloning():
    shut = toy.phase(toy.config(ppo={'gate': 'ppo', 'margin': 1e9}))
    plain = toy.phase(toy.config(ppo={'enabled': False}))
    run(shut, 9), run(plain, 9)
    assert all(torch.equal(a, b) for a, b in zip(shut.actor.model.parameters(), plain.actor.model.parameters(), strict=True))


def test_an_open_gate():
    phase = toy.phase(toy.config(ppo={'gate': 'actor', 'margin': -1e9}))
    infos = run(phase, 9)
    assert [i['gate_open'] for i in infos[6:]] == [1.0] * 3 and phase.open_fraction == 1.0


def test_own_episodes_reach_the_critic_only():
    """Other own episodes change the critic and leave the actor as it is, until the critic's advantages lead it."""
    settings = toy.config(ppo={'enabled': False})
    one, other = toy.phase(settings), toy.phase(settings)
    other.own.data.frames.images[:] = 255 - other.own.data.frames.images
    run(one, 3), run(other, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.actor.model.parameters(), other.actor.model.parameters(), strict=True))
    assert moved(weights(one.critic.critic), other.critic.critic)


@pytest.mark.parametrize('weight', [0.0, 1.0])
def test_own_actions_are_judged_where_ppo_says_so_and_never_cloned(weight):
    alone, both = (toy.phase(toy.config(ppo={'start': 0, 'weight': weight, 'own': own})) for own in (False, True))
    run(alone, 4), run(both, 4)
    near = [torch.allclose(a, b, atol=1e-5) for a, b in zip(alone.actor.model.parameters(), both.actor.model.parameters(), strict=True)]
    assert all(near) == (weight == 0.0)


@pytest.mark.parametrize('kind', ['tokens', 'pixels'])
def test_a_head_start_trains_the_critic_alone(kind):
    phase = toy.phase(toy.config(critic={'kind': kind, 'head_start': 5}))
    actor, critic, done = weights(phase.actor.model), weights(phase.critic.critic), []
    phase.head_start(done.append)
    assert done == [1, 2, 3, 4, 5] and phase.critic.updates == 5  # beyond the warm-up of 3: bootstrapped ones too
    assert moved(critic, phase.critic.critic) and not moved(actor, phase.actor.model)
    assert np.isfinite(run(phase, 8)[-1]['ppo_loss'])


def test_without_a_critic_it_is_behaviour_cloning_that_learns():
    fast = {'vlm_rate': 3e-3, 'expert_rate': 3e-3}
    phase = toy.phase(toy.config(updates=30, critic={'kind': 'none'}, ppo={'enabled': False}, actor=fast))
    losses = [info['bc_loss'] for info in run(phase, 30)]
    assert phase.critic is None and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_ppo_raises_the_likelihood_of_what_the_critic_prefers():
    """A critic that is told by hand prefers the actions of some episodes: they become likelier, and those of the others less likely."""
    settings = toy.config(
        updates=40, ppo={'start': 0, 'weight': 1.0, 'refresh': 10},
        actor={'bc_weight': 0.0, 'weight_decay': 0.0, 'vlm_rate': 3e-4, 'expert_rate': 3e-4},
    )  # fmt: skip
    phase = toy.phase(settings)
    frames = phase.demonstrations.data.frames
    frames.intended = frames.executed  # in which the episodes differ
    rows = phase.demonstrations.rows(np.arange(len(frames)))

    def preferred(rows):
        return rows.returns[:, :1] > 0

    def judge(rows, observation):
        good = preferred(rows).float().expand_as(rows.returns)
        return good - 0.5, torch.zeros_like(good)

    @torch.no_grad()
    def likelihood():
        model = phase.actor.model
        tokens = phase.actor.tokens(model.pixels(rows.images), rows.ids, rows.words)
        xi = torch.randn(len(rows.s), model.config.knots, len(model.layout), generator=torch.Generator().manual_seed(0))
        value = log_prob(model.expert.mean(tokens, rows.s, xi), rows.intended)
        return value[preferred(rows) & rows.mask].mean(), value[~preferred(rows) & rows.mask].mean()

    phase.critic.judge = judge
    before = likelihood()
    run(phase, 40)
    after = likelihood()
    assert after[0] > before[0] + 0.02 and after[1] < before[1] - 0.1


@pytest.mark.parametrize('expert', ['consistency', 'diffusion'])
def test_train_save_resume_equals_training_through(expert, tmp_path):
    through = toy.phase(expert=expert)
    run(through, 10)
    first = toy.phase(expert=expert)
    run(first, 7)  # within the second stage, between two refreshes
    save_phase(first, tmp_path / 'c', facts_of(first))
    second = toy.phase(expert=expert, seed=5)  # other weights: all of them must come from the file
    load_phase(second, tmp_path / 'c', facts_of(second))
    run(second, 10)
    assert second.updates == 10 and second.opened == through.opened
    a, b = everything(through), everything(second)
    assert a.keys() == b.keys()
    assert [n for n in a if not torch.equal(a[n], b[n])] == []


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'joint_names': ('a', 'c')}, r"joints \['a', 'b'\], expected \['a', 'c'\]"),
        ({'camera_names': ('left', 'top')}, 'cameras'),
        ({'horizon': 2}, 'horizon 4, expected 2'),
        ({'steps': 4}, 'steps 8, expected 4'),
    ],
)
def test_a_checkpoint_of_another_robot_or_horizon_is_refused_by_name(change, named, tmp_path):
    phase = toy.phase()
    save_phase(phase, tmp_path / 'c', facts_of(phase))
    phase.actor.model.facts = dataclasses.replace(phase.actor.model.facts, **change)
    with pytest.raises(ModelError, match=named):
        load_phase(phase, tmp_path / 'c', facts_of(phase))


@pytest.mark.parametrize('what', ['normaliser', 'data', 'own', 'setting', 'damage'])
def test_a_checkpoint_of_something_else_is_refused_by_name(what, tmp_path):
    phase, path = toy.phase(), tmp_path / 'c'
    save_phase(phase, path, facts_of(phase))
    other = toy.phase(toy.config(ppo={'refresh': 50})) if what == 'setting' else toy.phase()
    if what == 'normaliser':
        other.actor.model.normalizer = Normalizer(np.zeros(2), np.array([0.5, 0.6]))
    elif what == 'data':
        other.demonstrations.data.frames.digest = 'another'
    elif what == 'own':
        other.own.data.frames.digest = 'another'
    elif what == 'damage':
        path.write_bytes(path.read_bytes()[:-7])
    named = {
        'normaliser': 'normalizer std', 'data': 'data digest', 'own': 'own rollouts digest', 'damage': 'damaged',
        'setting': 'setting ppo.refresh 3, expected 50',
    }  # fmt: skip
    with pytest.raises(ModelError, match=named[what]):
        load_phase(other, path, facts_of(other))


def test_how_it_is_run_may_change(tmp_path):
    phase = toy.phase()
    run(phase, 1)
    save_phase(phase, tmp_path / 'c', facts_of(phase))
    other = toy.phase(toy.config(run={'checkpoint_every': 99, 'threads': 2, 'out': 'elsewhere'}))
    load_phase(other, tmp_path / 'c', facts_of(other))
    assert other.updates == 1


def test_bfloat16_stays_near_float32():
    exact, rough = toy.phase(), toy.phase(toy.config(bf16=True))
    a, b = run(exact, 8), run(rough, 8)
    assert b[0]['bc_loss'] == pytest.approx(a[0]['bc_loss'], rel=0.02) and b[0]['bc_loss'] != a[0]['bc_loss']
    assert np.isfinite(b[-1]['ppo_loss'])
    assert all(p.dtype == torch.float32 for p in rough.actor.model.parameters())


@pytest.mark.parametrize('share, expected', [(0.0, (4, 0)), (0.75, (1, 3)), (1.0, (0, 4))])
def test_the_critic_settles_on_a_share_of_own_episodes(share, expected, monkeypatch):
    phase = toy.phase(toy.config(critic={'settle_own': share}))
    drawn = []
    monkeypatch.setattr(phase, 'train_critic', lambda updates, count, own, report: drawn.append((updates, count, own)))
    phase.settle(toy.critic())
    assert drawn == [(3, *expected)]


def test_without_own_episodes_the_critic_settles_on_demonstrations(monkeypatch):
    phase = toy.phase(toy.config(data={'own_rollouts': ()}), own=False)
    drawn = []
    monkeypatch.setattr(phase, 'train_critic', lambda updates, count, own, report: drawn.append((count, own)))
    phase.settle(toy.critic())
    assert drawn == [(4, 0)]


@pytest.mark.parametrize('kind', ['tokens', 'pixels'])
def test_settling_trains_a_new_critic_on_the_final_model_and_leaves_the_model_alone(kind):
    phase = toy.phase(toy.config(critic={'kind': kind, 'settle': 5}))
    run(phase, 4)
    model, new = phase.actor.averaged(), toy.critic(kind, seed=5)
    before, at_first, old, beside = weights(model), weights(new), weights(phase.critic.critic), phase.critic.critic
    phase.settle(new)
    assert phase.critic.critic is new and moved(at_first, new)
    assert phase.critic.updates == 5  # beyond its own warm-up of 3
    assert not moved(before, model) and not moved(old, beside)


def test_tokens_are_encoded_frame_by_frame():
    phase = toy.phase()
    z = phase.encode(phase.demonstrations)
    assert z.shape == (len(phase.demonstrations.data), 3, 16) and torch.equal(phase.encode(phase.demonstrations), z)
