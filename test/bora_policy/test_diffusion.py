"""The diffusion expert: schedule, loss and DDIM against hand-computed cases."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from policy_toy import CAMERAS, JOINTS, STEPS

from bora_common.errors import ModelError
from bora_common.types import JointLayout, Observation
from bora_policy.diffusion import LEVELS, DiffusionExpert, schedule
from bora_policy.expert import ConsistencyExpert
from bora_policy.manifest import file_digest
from bora_policy.policy import Policy
from bora_policy.vla import BoraVLA, VLAConfig, build, small_vlm


@pytest.fixture
def expert():
    torch.manual_seed(0)
    return DiffusionExpert(steps=8, joints=5, tokens=3, width=16, knots=4, hidden=32, blocks=1)


def conditions(batch=2):
    return torch.randn(batch, 3, 16), torch.randn(batch, 5)


class Oracle(DiffusionExpert):
    """Knows the clean spline values, hence the true velocity."""

    def velocity(self, x, time, tokens, proprio):
        alpha, sigma = (c[:, None, None] for c in schedule(time))
        noise = (x - alpha * self.clean) / sigma
        return alpha * noise - sigma * self.clean


def test_the_schedule_goes_from_signal_to_nothing_but_noise():
    alpha, sigma = schedule(torch.linspace(0, 1, 51))
    assert torch.allclose(alpha.square() + sigma.square(), torch.ones(51), atol=1e-6)
    assert torch.all(alpha.diff() < 0) and (alpha[0], sigma[0], alpha[-1], sigma[-1]) == (1, 0, 0, 1)
    assert float(alpha[25]) == pytest.approx(np.cos((0.508 / 1.008) * np.pi / 2) / np.cos((0.008 / 1.008) * np.pi / 2), rel=1e-5)


def test_training_levels_cover_all_of_the_schedule_but_its_noiseless_end(expert):
    levels = expert.draw_levels(4000, torch.Generator().manual_seed(0))
    assert levels.min() == pytest.approx(1 / LEVELS) and levels.max() == 1
    assert levels.mean() == pytest.approx(0.505, abs=0.02)


@pytest.mark.parametrize('count', [1, 2, 10])
def test_with_the_true_velocity_any_number_of_steps_arrives_at_the_clean_chunk(count):
    oracle = Oracle(steps=8, joints=5, tokens=3, width=16, knots=4, hidden=32, blocks=1)
    oracle.clean = torch.randn(2, 4, 5)
    found = oracle.sample(*conditions(), torch.randn(count, 2, 4, 5))
    assert torch.allclose(found, oracle.chunk(oracle.clean), atol=1e-4)
    assert torch.allclose(oracle.mean(*conditions(), torch.randn(2, 4, 5)), found, atol=1e-4)


def test_the_loss_is_the_squared_velocity_error_on_valid_steps(expert):
    (z, s), chunk, noise = conditions(), torch.randn(2, 8, 5), torch.randn(2, 4, 5)
    mask, time = torch.ones(2, 8), torch.tensor([0.3, 1.0])
    mask[0, 5:] = 0
    with torch.no_grad():
        total = 0.0
        for row in range(2):
            alpha, sigma = (float(c) for c in schedule(time[row]))
            clean = torch.linalg.lstsq(expert.basis, chunk[row]).solution
            x = alpha * clean + sigma * noise[row]
            found = expert.velocity(x[None], time[row : row + 1], z[row : row + 1], s[row : row + 1])[0]
            error = expert.basis @ (found - alpha * noise[row] + sigma * clean)
            total += float((error.square().mean(-1) * mask[row]).sum())
        loss, info = expert.loss(z, s, chunk, mask, time, noise)
    assert float(loss) == pytest.approx(total / 13, rel=1e-4) and info['bc'] == pytest.approx(float(loss))


def test_sampling_is_repeatable_and_only_the_first_draw_counts(expert):
    z, s = conditions()
    noise = torch.randn(10, 2, 4, 5)
    first = expert.sample(z, s, noise)
    assert first.shape == (2, 8, 5) and torch.isfinite(first).all()
    assert torch.equal(first, expert.sample(z, s, torch.cat([noise[:1], torch.randn(9, 2, 4, 5)])))
    assert not torch.equal(first, expert.sample(z, s, torch.randn(10, 2, 4, 5)))
    assert not torch.allclose(first, expert.sample(z, s, noise[:3]), atol=1e-4)  # the number of steps does


def test_it_learns_both_of_two_chunks_for_one_state(expert):
    torch.manual_seed(1)
    z, s = torch.zeros(64, 3, 16), torch.zeros(64, 5)
    optimiser = torch.optim.Adam(expert.parameters(), 3e-3)
    for _ in range(250):
        chunk = (2.0 * torch.randint(2, (64, 1, 1)) - 1).expand(64, 8, 5)
        loss, _ = expert.loss(z, s, chunk, torch.ones(64, 8), expert.draw_levels(64), torch.randn(64, 4, 5))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = expert.sample(z, s, torch.randn(10, 64, 4, 5)).mean((1, 2))
    assert (found.abs() - 1).abs().median() < 0.25  # at one of the two, not in between
    assert 10 < int((found > 0).sum()) < 54


@pytest.mark.parametrize('kind', [ConsistencyExpert, DiffusionExpert])
def test_the_mean_is_one_step_and_its_gradient_reaches_tokens_and_weights(kind):
    torch.manual_seed(0)
    expert = kind(steps=8, joints=5, tokens=3, width=16, knots=4, hidden=32, blocks=1)
    (z, s), noise = conditions(), torch.randn(2, 4, 5)
    z.requires_grad_()
    mean = expert.mean(z, s, noise)
    assert torch.allclose(mean, expert.sample(z, s, noise[None]), atol=1e-5)
    mean.sum().backward()
    assert z.grad.abs().amax((1, 2)).min() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in expert.parameters())


# --- in a model -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def model(normalizer):
    torch.manual_seed(0)
    built = build(
        JointLayout(JOINTS), CAMERAS, normalizer, instructions=['press'], image_size=32, steps=STEPS, horizon=4,
        vlm=small_vlm(32, 80, width=16, layers=1), knots=4, hidden=32, blocks=1, expert='diffusion',
    )  # fmt: skip
    return built.requires_grad_(False).eval()


def observation(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return Observation(10**9, images, CAMERAS, rng.normal(0, 0.3, 5), 'press', 'e-0001')


def test_a_model_with_it_is_saved_loaded_and_asked_like_any_other(model, tmp_path):
    model.save_pretrained(tmp_path / 'model')
    loaded = Policy.load(tmp_path / 'model')
    assert isinstance(loaded.model.expert, DiffusionExpert) and loaded.denoise_steps == 10
    ours, theirs = Policy(model).propose(observation()), loaded.propose(observation())
    assert np.array_equal(ours.positions, theirs.positions) and ours.positions.shape == (STEPS, 5)
    batch = loaded.propose_batch([observation(i) for i in range(3)])
    assert np.allclose(batch[0].positions, ours.positions, atol=1e-5)
    assert not np.array_equal(Policy(model, denoise_steps=4).propose(observation()).positions, ours.positions)


def test_files_that_name_no_expert_hold_a_consistency_policy(small_vla, tmp_path):
    small_vla.save_pretrained(tmp_path / 'old')
    manifest, config = tmp_path / 'old' / 'manifest.json', tmp_path / 'old' / 'config.json'
    content = json.loads(config.read_text())
    assert content.pop('expert') == 'consistency'
    config.write_text(json.dumps(content))
    signed = json.loads(manifest.read_text())
    signed['files']['config.json'] = file_digest(config)
    manifest.write_text(json.dumps(signed))
    loaded = BoraVLA.from_pretrained(tmp_path / 'old')
    assert isinstance(loaded.expert, ConsistencyExpert) and loaded.config == small_vla.config


def test_experts_have_their_own_number_of_steps(small_vla):
    vlm = small_vla.config.vlm
    assert (VLAConfig(vlm).denoise_steps, VLAConfig(vlm, expert='diffusion').denoise_steps) == (1, 10)
    assert VLAConfig(vlm, expert='diffusion', denoise_steps=LEVELS).denoise_steps == LEVELS
    for wrong, message in (
        ({'expert': 'flow'}, "'flow', expected 'consistency' or 'diffusion'"),
        ({'denoise_steps': 9}, '9, expected 1 to 8 with the consistency'),
        ({'denoise_steps': -1}, '-1, expected 1'),
        ({'expert': 'diffusion', 'denoise_steps': LEVELS + 1}, 'expected 1 to 100 with the diffusion'),
    ):
        with pytest.raises(ModelError, match=message):
            dataclasses.replace(VLAConfig(vlm), **{'denoise_steps': 0, **wrong})
