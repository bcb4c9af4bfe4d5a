import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_toy import JOINTS, STEPS, inputs, perturb, proposal

from bora_common.errors import ConfigError, ModelError
from bora_common.types import StreamId, WeightsVersion
from bora_policy.residual import ResidualActor, ResidualChain, ResidualSpec


def test_a_fresh_chain_returns_the_base_bit_for_bit(make_chain):
    vla, tokens, proprio = inputs()
    for alpha in (0.0, 0.75):
        base, final = make_chain(alpha=alpha).apply(vla, tokens, proprio)
        assert np.array_equal(base, vla) and np.array_equal(final, vla)


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0.1, 100))
def test_the_correction_never_exceeds_its_bound(seed, alpha, scale):
    from bora_common.types import Normalizer

    spec = ResidualSpec(steps=STEPS, joints=5, tokens=3, width=16, knots=4, hidden=16)
    bound = np.array([0.1, 0.2, 0.3, 0.05, 0.4])
    chain = ResidualChain(spec, Normalizer(np.zeros(5), np.linspace(0.05, 1, 5)), bound, JOINTS)
    perturb(chain, scale, seed)
    chain.alpha = alpha
    base, final = chain.apply(*inputs(seed))
    assert np.all(np.abs(final - base) <= alpha * bound + 1e-6)


def test_a_large_network_output_reaches_the_bound_at_every_step(make_chain):
    chain = make_chain(alpha=1.0)
    with torch.no_grad():
        chain.current.net[-1].bias.fill_(50.0)
    base, final = chain.apply(*inputs())
    assert np.allclose(final - base, 0.2, atol=1e-6)


def test_freezing_leaves_the_mapping_unchanged(make_chain):
    chain = make_chain(scale=0.5, alpha=0.6)
    vla, tokens, proprio = inputs(3)
    _, before = chain.apply(vla, tokens, proprio)
    chain.freeze()
    base, final = chain.apply(vla, tokens, proprio)
    assert chain.alphas == [0.6] and chain.alpha == 0.0
    assert np.array_equal(final, base) and np.allclose(final, before, atol=1e-12)
    assert not any(p.requires_grad for p in chain.frozen.parameters())
    assert all(p.requires_grad for p in chain.current.parameters())


def test_a_second_round_reads_the_corrected_base(make_chain):
    chain = make_chain(scale=0.5, alpha=1.0)
    chain.freeze()
    perturb(chain, 0.5, seed=9)
    chain.alpha = 0.5
    vla, tokens, proprio = inputs(4)
    z, s = torch.tensor(tokens)[None], torch.tensor(chain.normalizer.normalize(proprio), dtype=torch.float32)[None]
    a = torch.tensor(chain.normalizer.normalize(vla), dtype=torch.float32)[None]
    middle = a + chain.frozen[0](z, s, a)
    expected = middle + 0.5 * chain.current(z, s, middle)
    _, final = chain.apply(vla, tokens, proprio)
    assert np.allclose(chain.normalizer.normalize(final), expected[0].detach().numpy(), atol=1e-5)


def test_tensor_and_array_paths_agree(make_chain):
    chain = make_chain(scale=0.5, alpha=0.4)
    chain.freeze()
    perturb(chain, 0.3, 5)
    chain.alpha = 0.7
    vla, tokens, proprio = inputs(1, batch=6)
    base, final, _ = chain(
        torch.tensor(chain.normalizer.normalize(vla), dtype=torch.float32), torch.tensor(tokens),
        torch.tensor(chain.normalizer.normalize(proprio), dtype=torch.float32),
    )  # fmt: skip
    base_rad, final_rad = chain.apply_batch(vla, tokens, proprio)
    assert np.allclose(chain.normalizer.denormalize(base.detach().numpy()), base_rad, atol=1e-6)
    assert np.allclose(chain.normalizer.denormalize(final.detach().numpy()), final_rad, atol=1e-6)


def test_gradients_reach_the_current_actor_only(make_chain):
    chain = make_chain(scale=0.5, alpha=0.4)
    chain.freeze()
    chain.alpha = 0.5
    vla, tokens, proprio = (torch.tensor(x, dtype=torch.float32) for x in inputs(1, batch=2))
    chain(vla, tokens, proprio)[1].sum().backward()
    assert all(p.grad is None for p in chain.frozen.parameters())
    assert chain.current.net[-1].weight.grad.abs().sum() > 0


def test_the_corrected_chunk_carries_what_the_proposal_said(make_chain):
    given_ = proposal(2)
    chain = make_chain(scale=0.5, alpha=0.3)
    chunk = chain.correct(given_, 5000, WeightsVersion('run', 1, 50), StreamId(9, 4))
    assert (chunk.stamp_ns, chunk.published_ns, chunk.epoch, chunk.episode) == (1000, 5000, 3, 'e')
    assert (chunk.base_id, chunk.observation_id, chunk.id) == (given_.id, given_.observation_id, StreamId(9, 4))
    assert chunk.alpha == 0.3 and chunk.version.update == 50 and chunk.model_id == given_.model_id
    assert np.array_equal(chunk.base, given_.positions) and not np.array_equal(chunk.positions, chunk.base)


@pytest.mark.parametrize(('index', 'word'), [(0, 'chunk'), (1, 'tokens'), (2, 'proprio')])
def test_wrong_shapes_are_named(make_chain, index, word):
    arrays = list(inputs())
    arrays[index] = arrays[index][..., :-1]
    with pytest.raises(ModelError, match=word):
        make_chain().apply(*arrays)


def test_impossible_specs_and_bounds_are_refused(normalizer):
    with pytest.raises(ConfigError, match='knots'):
        ResidualSpec(steps=4, joints=5, tokens=3, width=16, knots=6)
    spec = ResidualSpec(steps=STEPS, joints=5, tokens=3, width=16, knots=4)
    with pytest.raises(ConfigError, match='bound'):
        ResidualChain(spec, normalizer, np.array([0.1, 0.1, 0.0, 0.1, 0.1]), JOINTS)
    with pytest.raises(ConfigError, match='joints'):
        ResidualChain(spec, normalizer, np.full(4, 0.1), JOINTS)


def test_the_actor_is_zero_at_the_start():
    actor = ResidualActor(ResidualSpec(steps=STEPS, joints=5, tokens=3, width=16, knots=4), np.ones(5))
    assert torch.equal(actor(torch.randn(2, 3, 16), torch.randn(2, 5), torch.randn(2, STEPS, 5)), torch.zeros(2, STEPS, 5))
