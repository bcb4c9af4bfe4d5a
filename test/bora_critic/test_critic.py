"""The critic's directory, and scoring."""

import json

import numpy as np
import pytest
import torch

from bora_common.errors import CodecError, ModelError
from bora_common.types import ActionChunk, Proposal, StreamId, WeightsVersion
from bora_critic.critic import MANIFEST, WEIGHTS, Critic, CriticSpec, load_critic, save_critic
from bora_critic.scoring import Pairing, Scorer

K, D, T, W = 6, 3, 2, 5
SPEC = CriticSpec(
    'm' * 64, ('a', 'b', 'c'), ('front', 'cognition'), W, K, 1 / 15, (0.0,) * D, (0.1,) * D, hidden=16, return_range=(-1.0, 1.0)
)


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return Critic(SPEC).eval()


def test_round_trip(tmp_path, critic):
    save_critic(critic, tmp_path / 'critic', auc=0.9)
    again = load_critic(tmp_path / 'critic', model_id='m' * 64, joints=('a', 'b', 'c'), k=K)
    assert again.spec == SPEC
    for name, tensor in critic.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ('expected', 'named'),
    [
        ({'model_id': 'x'}, 'model_id'),
        ({'joints': ('a', 'c', 'b')}, 'joints'),
        ({'k': 32}, ' k '),
        ({'token_names': ('cognition',)}, 'token_names'),
    ],
)
def test_another_robots_critic_is_refused_by_name(tmp_path, critic, expected, named):
    save_critic(critic, tmp_path)
    with pytest.raises(ModelError, match=named):
        load_critic(tmp_path, **expected)


def test_damage_is_named(tmp_path, critic):
    with pytest.raises(ModelError, match='does not exist'):
        load_critic(tmp_path / 'nowhere')
    save_critic(critic, tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-3] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match='SHA-256'):
        load_critic(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=WEIGHTS):
        load_critic(tmp_path)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{"format": "bora-critic-2"}',
        '{"format": "other"}',
        json.dumps({'format': 'bora-critic-2', 'sha256': '', 'spec': {'x': 1}}),
    ],
)
def test_an_unreadable_manifest_is_named(tmp_path, critic, text):
    save_critic(critic, tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ModelError, match=MANIFEST):
        load_critic(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path, critic):
    with torch.no_grad():
        critic.v.position[0, 0] = float('nan')
    save_critic(critic, tmp_path)
    with pytest.raises(ModelError, match='v.position'):
        load_critic(tmp_path)


def proposal(seq, model='m' * 64):
    return Proposal(
        seq, np.full((K, D), 0.1), 1 / 15, np.ones((T, W), np.float32), SPEC.token_names, np.zeros(D), model, id=StreamId(1, seq)
    )


def chunk(seq):
    positions = np.full((K, D), 0.2)
    return ActionChunk(
        seq, seq, positions, positions, 1 / 15, 0.0, WeightsVersion(), 'm' * 64, base_id=StreamId(1, seq), id=StreamId(2, seq)
    )


def test_scores_equal_the_networks(critic):
    scored = Scorer(critic).score(proposal(7), chunk(7))
    z, s, a = torch.ones(1, T, W), torch.zeros(1, D), torch.full((1, K, D), 2.0)
    with torch.no_grad():
        q, v = critic.q(z, s, a), critic.v(z, s)
    assert np.allclose(scored.q, q.amin(0)[0])
    assert np.allclose(scored.v, v[0])
    assert scored.spread == pytest.approx(q[:, 0].mean(1).std(unbiased=False).item())
    assert scored.risk == pytest.approx(1 - (v[0, 0].item() + 1) / 2, abs=1e-6)
    assert scored.chunk_id == StreamId(2, 7)
    assert scored.stamp_ns == 7


def test_risk_is_clipped(critic):
    scorer = Scorer(critic)
    assert [scorer.risk(x) for x in (-5.0, -1.0, 0.0, 1.0, 5.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_a_proposal_of_another_model_is_dropped(critic):
    with pytest.raises(CodecError, match='model'):
        Scorer(critic).score(proposal(1, model='other'), chunk(1))


def test_pairs_form_in_either_order_and_memory_is_bounded():
    pairing = Pairing(memory=4)
    assert pairing.add_proposal(proposal(1)) is None
    assert pairing.add_chunk(chunk(1))[1].id == StreamId(2, 1)
    assert pairing.add_chunk(chunk(2)) is None
    assert pairing.add_proposal(proposal(2))[0].id == StreamId(1, 2)
    for seq in range(10, 20):
        assert pairing.add_chunk(chunk(seq)) is None
    assert pairing.unmatched == 6
    assert pairing.add_proposal(proposal(10)) is None
    assert pairing.add_proposal(proposal(19)) is not None
