import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_policy.diffusion import DiffusionExpert
from bora_policy.expert import SIGMA_MAX, ConsistencyExpert
from bora_policy.likelihood import NORMALISER, ROUNDING, SCALE, log_prob, log_ratio


def draws(seed, batch=3, steps=4, joints=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, steps, joints, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_log_prob_is_the_average_of_the_joints_rounded_laplace_densities():
    mean, action = torch.zeros(1, 1, 2), torch.tensor([[[0.05, -1.0]]])
    near, far = 0.5 * 0.05**2 / ROUNDING, 1.0 - 0.5 * ROUNDING  # within the rounded peak, and on the slope
    assert log_prob(mean, action).item() == pytest.approx(-(near + far) / 2 / SCALE - math.log(NORMALISER))


def test_the_density_integrates_to_one():
    error = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    density = log_prob(torch.zeros(len(error), 1, 1, dtype=torch.float64), error[:, None, None]).exp()[:, 0]
    assert torch.trapezoid(density, error).item() == pytest.approx(1, abs=1e-8)


def test_log_ratio_by_hand():
    new, old, action = torch.tensor([[[0.5, 0.0]]]), torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]])
    assert log_ratio(new, old, action).item() == pytest.approx(0.5 / 2 / SCALE)  # one joint of two is nearer by 0.5


def test_the_gradient_at_equal_policies_is_that_of_cloning():
    """So that an advantage is a weight of the row in behaviour cloning at the noise that inference starts with."""
    torch.manual_seed(1)
    expert = ConsistencyExpert(steps=6, joints=2, tokens=2, width=4, knots=3, hidden=8, blocks=1).double()
    z, s, xi, a = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 2, 4), (3, 2), (3, 3, 2), (3, 6, 2)))
    weights = list(expert.parameters())
    mean = expert.mean(z, s, xi)
    policy = torch.autograd.grad(-log_ratio(mean, mean, a).exp().mean(), weights, allow_unused=True)
    # the noise of training is added to the chunk: what makes the same input of it
    levels, clean = torch.full((3,), SIGMA_MAX, dtype=torch.float64), expert.values(a)
    noise = xi - clean / SIGMA_MAX
    cloning, _ = expert.loss(z, s, a, torch.ones(3, 6, dtype=torch.float64), levels, noise)
    expected = torch.autograd.grad(cloning / SCALE, weights, allow_unused=True)
    assert all(torch.allclose(g, e, atol=1e-9) for g, e in zip(policy, expected, strict=True) if e is not None)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_log_ratio_is_the_difference_of_log_probs(seed):
    new, old, action = draws(seed)
    assert torch.allclose(log_ratio(new, old, action), log_prob(new, action) - log_prob(old, action), atol=1e-9)
    assert torch.allclose(log_ratio(new, old, action), -log_ratio(old, new, action), atol=1e-9)
    assert torch.equal(log_ratio(new, new, action), torch.zeros(3, 4, dtype=torch.float64))  # the ratio is exactly 1


@given(seed=st.integers(0, 2**31), order=st.permutations(range(5)))
@settings(max_examples=25, deadline=None)
def test_rows_steps_and_joints_keep_to_themselves(seed, order):
    new, old, action = draws(seed)
    ratio = log_ratio(new, old, action)
    assert torch.equal(log_ratio(new.flip(0), old.flip(0), action.flip(0)), ratio.flip(0))
    assert torch.allclose(log_ratio(*(x[..., list(order)] for x in (new, old, action))), ratio)
    for padding in (7.0, float('nan')):  # beyond a mask anything may stand
        spoilt = action.clone()
        spoilt[0, 2:] = padding
        assert torch.equal(log_ratio(new, old, spoilt)[0, :2], ratio[0, :2]) and torch.equal(log_ratio(new, old, spoilt)[1:], ratio[1:])


def test_repeating_the_joints_changes_nothing():
    wide = [x.repeat(1, 1, 4) for x in draws(0)]
    assert torch.allclose(log_ratio(*wide), log_ratio(*draws(0)))
    assert torch.allclose(log_prob(*wide[:2]), log_prob(*draws(0)[:2]))


def test_the_old_policy_gets_no_gradient():
    new, old, action = draws(0)
    new.requires_grad_()
    old.requires_grad_()
    log_ratio(new, old, action).sum().backward()
    assert old.grad is None
    assert torch.allclose(new.grad, ((action - new.detach()) / ROUNDING).clamp(-1, 1) / (5 * SCALE))


@pytest.mark.parametrize('kind', [ConsistencyExpert, DiffusionExpert])
def test_the_gradient_through_an_expert_equals_finite_differences(kind):
    torch.manual_seed(0)
    expert = kind(steps=6, joints=2, tokens=2, width=4, knots=3, hidden=8, blocks=1).double()
    z, s = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, dtype=torch.float64)
    noise, action = torch.randn(3, 3, 2, dtype=torch.float64), torch.randn(3, 6, 2, dtype=torch.float64)
    with torch.no_grad():
        old = expert.mean(z, s, noise) + 0.1
    weight = expert.blocks[0].net[0].weight

    def ratio() -> torch.Tensor:
        return log_ratio(expert.mean(z, s, noise), old, action).exp().sum()

    ratio().backward()
    for tensor, index in ((z, (1, 1, 2)), (weight, (3, 5))):
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                tensor[index] += sign * 1e-5
                values.append(float(ratio()))
                tensor[index] -= sign * 1e-5
        assert float(tensor.grad[index]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-7)
