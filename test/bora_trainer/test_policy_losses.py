"""Advantages, gate and losses of the offline actor: cases by hand and properties."""

import math

import numpy as np
import offline_toy as toy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_trainer.policy_losses import bc_loss, gae, hold_last, mean_advantage, ppo_loss, weigh_advantages

seeds = st.integers(0, 10_000)


def prefix(rng, batch, k):
    """Masks [B,k] of 1 to k valid steps."""
    return torch.as_tensor(np.arange(k) < rng.integers(1, k + 1, (batch, 1)))


def random_case(seed, batch=5, k=6):
    rng = np.random.default_rng(seed)
    mask = prefix(rng, batch, k)
    q, v, log_ratio = (torch.as_tensor(rng.normal(0, 0.3, (batch, k))) for _ in range(3))
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros(batch, 1, dtype=torch.bool)], 1)
    return q, v, last & torch.as_tensor(rng.random((batch, 1)) < 0.5), mask, log_ratio


# --- advantages -----------------------------------------------------------------------------------------------------------------------


def test_gae_by_hand():
    q = torch.tensor([[1.0, 2.0, 4.0, 9.0]])
    v = torch.tensor([[0.5, 1.0, 1.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    done = torch.tensor([[False, False, False, False]])
    # delta = 0.5, 1, 3; gamma lambda = 0.5: A_2 = 3, A_1 = 1 + 1.5 = 2.5, A_0 = 0.5 + 1.25 = 1.75
    assert gae(q, v, done, mask, 1.0, 0.5)[0].tolist() == [1.75, 2.5, 3.0, 0.0]
    done[0, 1] = True  # nothing is carried over a terminal step
    assert gae(q, v, done, mask, 1.0, 0.5)[0].tolist() == [1.0, 1.0, 3.0, 0.0]
    assert gae(q, v, done, mask, 0.99, 0.0)[0].tolist() == [0.5, 1.0, 3.0, 0.0]  # chunk targets: the step's own


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_gae_is_the_discounted_sum_of_later_deltas(seed):
    q, v, done, mask, _ = random_case(seed)
    found, rate = gae(q, v, done, mask, 0.9, 0.8), 0.9 * 0.8
    for b, n in enumerate(mask.sum(1).tolist()):
        for i in range(n):
            direct = sum(rate ** (j - i) * (q - v)[b, j].item() for j in range(i, n))
            assert found[b, i].item() == pytest.approx(direct, abs=1e-9)
        assert not found[b, n:].any()


def test_scaling_divides_by_the_deviation_and_keeps_the_mean():
    raw = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    deviation = math.sqrt((1 + 9 + 25) / 3 - 9)
    expected = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]]) / deviation
    assert torch.allclose(weigh_advantages(raw, mask, 100.0), expected)
    assert torch.allclose(weigh_advantages(raw, mask, 2.0), expected.clamp(max=2.0))
    assert not weigh_advantages(torch.zeros(2, 3), mask, 2.0).any()


def test_a_share_of_what_is_below_nought_is_kept():
    raw, mask = torch.tensor([[1.0, -3.0], [2.0, -1.0]]), torch.ones(2, 2)
    whole = weigh_advantages(raw, mask, 100.0)
    assert torch.allclose(weigh_advantages(raw, mask, 100.0, 0.25), torch.where(whole < 0, 0.25 * whole, whole))
    assert (weigh_advantages(raw, mask, 100.0, 0.0) == whole.clamp(min=0)).all()


def test_the_gate_sees_the_masked_mean():
    raw = torch.tensor([[1.0, -2.0, 0.0], [4.0, 0.0, float('nan')]])
    assert mean_advantage(raw, torch.tensor([[1, 1, 0], [1, 0, 0]])) == pytest.approx(1.0)
    assert mean_advantage(raw, torch.zeros(2, 3)) == 0.0


# --- ppo_loss -------------------------------------------------------------------------------------------------------------------------


def test_ppo_loss_by_hand():
    ratio = torch.tensor([[1.5, 0.5, 1.1, 7.0], [1.5, 0.5, 1.0, 7.0]])
    advantage = torch.tensor([[2.0, 2.0, 1.0, 5.0], [-1.0, -1.0, 0.0, 5.0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    # min(r A, clip(r) A): 2.4, 1.0, 1.1 | -1.5, -0.8, 0
    loss, info = ppo_loss(ratio.log(), advantage, mask, 0.2)
    assert loss.item() == pytest.approx(-(2.4 + 1.0 + 1.1 - 1.5 - 0.8) / 6)
    assert info['clip_fraction'] == pytest.approx(4 / 6)
    assert info['ratio_mean'] == pytest.approx((1.5 + 0.5 + 1.1 + 1.5 + 0.5 + 1.0) / 6)


def test_the_gradient_is_that_of_the_unclipped_ratio_where_it_may_still_move():
    log_ratio = torch.zeros(1, 3, requires_grad=True)
    advantage = torch.tensor([[1.0, -2.0, 3.0]])
    ppo_loss(log_ratio, advantage, torch.ones(1, 3), 0.2)[0].backward()
    assert torch.allclose(log_ratio.grad, -advantage / 3)
    beyond = torch.tensor([[math.log(1.5), math.log(0.5)]], requires_grad=True)
    ppo_loss(beyond, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), 0.2)[0].backward()
    assert not beyond.grad.any()  # out of the trust region, in the direction of the advantage


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_what_stands_in_the_padding_does_not_matter(seed):
    q, v, done, mask, log_ratio = random_case(seed)
    wild = [torch.where(mask, x, torch.full_like(x, float('nan'))).requires_grad_() for x in (q, v, log_ratio)]
    loss, info = pipeline(q, v, done, mask, log_ratio)
    same, same_info = pipeline(wild[0], wild[1], done, mask, wild[2])
    assert same.item() == pytest.approx(loss.item(), abs=1e-12) and same_info == pytest.approx(info)
    same.backward()
    assert torch.isfinite(wild[2].grad).all() and not wild[2].grad[~mask].any()
    assert wild[0].grad is None and wild[1].grad is None  # the critic gets no gradient from the actor's loss


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_the_order_of_the_batch_does_not_matter(seed):
    case = random_case(seed)
    order = torch.as_tensor(np.random.default_rng(seed).permutation(len(case[0])))
    assert pipeline(*[x[order] for x in case])[0].item() == pytest.approx(pipeline(*case)[0].item(), abs=1e-12)


def test_no_advantage_no_gradient():
    _, v, done, mask, log_ratio = random_case(3)
    log_ratio.requires_grad_()
    loss, _ = pipeline(v, v, done, mask, log_ratio)
    loss.backward()
    assert loss.item() == 0 and not log_ratio.grad.any()


def pipeline(q, v, done, mask, log_ratio):
    advantage = weigh_advantages(gae(q, v, done, mask, 0.9, 0.8), mask, 2.0)
    return ppo_loss(log_ratio, advantage, mask, 0.2)


# --- bc_loss --------------------------------------------------------------------------------------------------------------------------


def bc_case(expert, batch=4):
    model, generator = toy.model(expert=expert), torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    mask = prefix(np.random.default_rng(5), batch, toy.K)
    level = model.expert.draw_levels(batch, generator)
    return model.expert, [normal(batch, 3, 16), normal(batch, 2), normal(batch, toy.K, 2), mask, level, normal(batch, 4, 2)]


@pytest.mark.parametrize('expert', ['consistency', 'diffusion'])
def test_bc_loss_does_not_see_the_padding(expert):
    module, case = bc_case(expert)
    loss, info = bc_loss(module, *case)
    wild = list(case)
    wild[2] = torch.where(case[3].unsqueeze(-1), case[2], torch.full_like(case[2], float('nan')))
    same, _ = bc_loss(module, *wild)
    assert same.item() == loss.item() == info['bc_loss'] > 0
    same.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize('expert', ['consistency', 'diffusion'])
def test_bc_loss_is_the_same_for_any_order(expert):
    module, case = bc_case(expert)
    order = torch.tensor([2, 0, 3, 1])
    assert bc_loss(module, *[x[order] for x in case])[0].item() == pytest.approx(bc_loss(module, *case)[0].item(), rel=1e-5)


def test_the_last_valid_step_is_held():
    chunk = torch.arange(6.0).view(1, 3, 2)
    assert hold_last(chunk, torch.tensor([[1, 1, 0]]))[0].tolist() == [[0.0, 1.0], [2.0, 3.0], [2.0, 3.0]]
    assert torch.equal(hold_last(chunk, torch.ones(1, 3)), chunk)
