"""Shapes, causality and gradient flow of the critic's networks; its losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_critic.losses import critic_loss, inheritance_loss, masked_mean, value_loss
from bora_critic.networks import ValueHeads

B, K, D, T, W = 3, 6, 4, 2, 5


@pytest.fixture(scope='module')
def nets():
    torch.manual_seed(0)
    heads = ValueHeads(2, T, W, D, K, hidden=16)
    return heads.q, heads.v


@pytest.fixture
def inputs():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(B, T, W, generator=rng), torch.randn(B, D, generator=rng), torch.randn(B, K, D, generator=rng)


def test_shapes(nets, inputs):
    q, v = nets
    z, s, a = inputs
    assert q(z, s, a).shape == (2, B, K)
    assert v(z, s).shape == (B, K)


def test_sub_steps_equal_the_whole_at_those_steps(nets, inputs):
    q, v = nets
    z, s, a = inputs
    steps = torch.tensor([1, 4])
    assert torch.allclose(q(z, s, a, steps), q(z, s, a)[..., steps], atol=1e-6)
    assert torch.allclose(v(z, s, steps), v(z, s)[:, steps], atol=1e-6)


@pytest.mark.parametrize('step', range(K))
def test_q_is_causal_over_the_chunk(nets, inputs, step):
    q, _ = nets
    z, s, a = inputs
    changed = a.clone()
    changed[:, step] += 1.0
    difference = (q(z, s, changed) - q(z, s, a)).abs()
    assert not difference[..., :step].any()
    assert difference[..., step:].min() > 0


def test_every_input_matters_but_tokens_take_no_gradient(nets, inputs):
    q, v = nets
    z, s, a = (x.clone().requires_grad_() for x in inputs)
    (q(z, s, a).sum() + v(z, s).sum()).backward()
    assert z.grad is None
    assert s.grad.abs().min() > 0
    assert a.grad.abs().min() > 0
    assert (q(z + torch.randn(B, T, W), s, a) != q(z, s, a)).any()


def test_rows_of_a_batch_are_independent(nets, inputs):
    q, v = nets
    z, s, a = inputs
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(q(z[order], s[order], a[order]), q(z, s, a)[:, order], atol=1e-6)
    assert torch.allclose(v(z[order], s[order]), v(z, s)[order], atol=1e-6)


def test_members_of_the_ensemble_differ(nets, inputs):
    values = nets[0](*inputs)
    assert not torch.allclose(values[0], values[1])


def test_q_is_the_value_and_an_advantage_whose_loss_leaves_the_value_alone(inputs):
    z, s, a = inputs
    heads = ValueHeads(2, T, W, D, K, hidden=16)
    q = heads.q(z, s, a)
    assert torch.equal(q[1], heads.v(z, s) + heads.advantage[1](z, s, a))
    loss, _ = critic_loss(q, torch.zeros(B, K), torch.ones(B, K))
    loss.backward()
    assert all(p.grad is None for p in heads.v.parameters())
    assert all(member.out[-1].weight.grad.abs().sum() > 0 for member in heads.advantage)


def test_losses_by_hand():
    q = torch.tensor([[[1.0, 9.0]], [[3.0, 9.0]]])
    target, mask = torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]])
    loss, info = critic_loss(q, target, mask)
    assert loss.item() == 1.0
    assert info['q_mean'] == 2.0
    v = torch.tensor([[1.0, 3.0]])
    loss, _ = value_loss(v, torch.tensor([[2.0, 2.0]]), torch.ones(1, 2), 0.7)
    assert loss.item() == pytest.approx((0.7 + 0.3) / 2)
    loss, _ = inheritance_loss(q, q + 2, mask)
    assert loss.item() == 4.0


def test_the_expectile_pulls_the_value_up():
    data, v = torch.tensor([[0.0, 1.0] * 50]), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([v], lr=0.5)
    for _ in range(200):
        loss, _ = value_loss(v.expand(1, 100), data, torch.ones(1, 100), 0.7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert v.item() == pytest.approx(0.7, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([float('nan'), float('inf'), 1e30]))
def test_what_is_masked_reaches_neither_loss_nor_gradient(seed, poison):
    rng = torch.Generator().manual_seed(seed)
    q, y = torch.randn(2, 3, 4, generator=rng), torch.randn(3, 4, generator=rng)
    mask = torch.rand(3, 4, generator=rng) < 0.6
    dirty = torch.where(mask, y, torch.full_like(y, poison))
    losses, gradients = [], []
    for target in (y, dirty):
        own = q.clone().requires_grad_()
        loss, _ = critic_loss(own, target, mask)
        loss.backward()
        losses.append(loss.item())
        gradients.append(own.grad)
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)
    assert gradients[1][:, ~mask].abs().sum() == 0


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2)).item() == 0.0
