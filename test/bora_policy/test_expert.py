import pytest
import torch

from bora_policy.expert import SIGMA_MAX, SIGMA_MIN, ConsistencyExpert, karras, sample_sigma, scalings


@pytest.fixture
def expert():
    torch.manual_seed(0)
    return ConsistencyExpert(steps=8, joints=5, tokens=3, width=16, knots=4, hidden=32, blocks=1)


def test_noise_levels_go_from_the_largest_to_the_smallest():
    levels = karras(10)
    assert levels[0] == pytest.approx(SIGMA_MAX) and levels[-1] == pytest.approx(SIGMA_MIN)
    assert torch.all(levels.diff() < 0)


def test_half_of_the_training_samples_start_where_inference_does():
    sigma = sample_sigma(101, torch.Generator().manual_seed(0))
    assert (sigma[:51] == pytest.approx(SIGMA_MAX)) and sigma.shape == (101,)
    assert sigma[51:].min() < 1 < sigma[51:].max()


def test_scalings_match_their_formulas_at_unit_noise():
    skip, out, scale, noise = (float(c) for c in scalings(torch.tensor(1.0)))
    assert skip == pytest.approx(0.04 / ((1 - 0.002) ** 2 + 0.04))
    assert out == pytest.approx((1 - 0.002) / 2**0.5)
    assert scale == pytest.approx(1 / 2**0.5) and noise == pytest.approx(0.0)


def test_at_the_smallest_noise_the_input_is_returned(expert):
    x = torch.randn(3, 4, 5)
    clean = expert.denoise(x, torch.full((3,), SIGMA_MIN), torch.randn(3, 3, 16), torch.randn(3, 5))
    assert torch.allclose(clean, x, atol=1e-6)


def test_masked_steps_do_not_enter_the_loss(expert):
    z, s, noise = torch.randn(2, 3, 16), torch.randn(2, 5), torch.randn(2, 4, 5)
    sigma = torch.full((2,), SIGMA_MAX)
    mask = torch.ones(2, 8)
    mask[:, 5:] = 0
    chunk = torch.randn(2, 8, 5)
    with torch.no_grad():  # at σ_max nothing of the chunk itself comes through the noise
        clean = torch.einsum('ks,bsd->bkd', expert.projection, chunk)
        rebuilt = expert.chunk(expert.denoise(clean + SIGMA_MAX * noise, sigma, z, s))
        by_hand = torch.nn.functional.smooth_l1_loss(rebuilt, chunk, reduction='none', beta=0.1)[:, :5].mean()
        loss, info = expert.loss(z, s, chunk, mask, sigma, noise)
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-5)
    assert info['bc'] == pytest.approx(float(loss))


@pytest.mark.parametrize('count', [1, 2, 3])
def test_sampling_is_repeatable_and_depends_on_the_noise(expert, count):
    z, s, noise = torch.randn(2, 3, 16), torch.randn(2, 5), torch.randn(count, 2, 4, 5)
    first = expert.sample(z, s, noise)
    assert first.shape == (2, 8, 5) and torch.isfinite(first).all()
    assert torch.equal(first, expert.sample(z, s, noise))
    assert not torch.equal(first, expert.sample(z, s, noise.flip(1)))


def test_it_learns_to_tell_two_chunks_apart(expert):
    torch.manual_seed(1)
    z, s = torch.stack([torch.ones(3, 16), -torch.ones(3, 16)]), torch.zeros(2, 5)
    chunk = torch.stack([torch.full((8, 5), 0.7), torch.full((8, 5), -0.7)])
    optimiser = torch.optim.Adam(expert.parameters(), 3e-3)
    for _ in range(300):
        rows = torch.arange(2).repeat(16)
        loss, _ = expert.loss(z[rows], s[rows], chunk[rows], torch.ones(32, 8), sample_sigma(32), torch.randn(32, 4, 5))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for count in (1, 2):
        assert torch.allclose(expert.sample(z, s, torch.randn(count, 2, 4, 5)), chunk, atol=0.2)
