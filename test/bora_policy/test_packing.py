import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_toy import inputs, perturb
from safetensors.torch import load, save

from bora_common.errors import ModelError
from bora_common.types import WeightsVersion
from bora_policy.packing import header, pack_chain, package, sha256, unpack_chain

VERSION = WeightsVersion('run', 2, 150)
MODEL = 'a' * 64


@pytest.fixture
def chain(make_chain):
    chain = make_chain(scale=0.5, alpha=0.4)
    chain.freeze()
    perturb(chain, 0.3, 5)
    chain.alpha = 0.7
    return chain


def repack(data, change_tensors=lambda tensors: None, change_facts=lambda facts: None):
    tensors, facts = load(data), header(data)
    change_tensors(tensors)
    change_facts(facts)
    return save(tensors, metadata={'bora': json.dumps(facts)})


def test_a_chain_survives_the_trip(chain, make_chain):
    sent = package(chain, VERSION, MODEL, 7)
    got, version = unpack_chain(sent.data, digest=sent.sha256, model_id=MODEL, like=make_chain())
    assert version == VERSION and got.alphas == [0.4] and got.alpha == 0.7
    for before, after in zip(chain.apply(*inputs(3)), got.apply(*inputs(3)), strict=True):
        assert np.array_equal(before, after)


def test_equal_chains_give_equal_bytes(chain):
    assert pack_chain(chain, VERSION, MODEL) == pack_chain(chain, VERSION, MODEL)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_gets_past_the_digest(data):
    payload = _PAYLOAD
    position = data.draw(st.integers(0, len(payload) - 1))
    damaged = bytearray(payload)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ModelError, match='SHA-256'):
        unpack_chain(bytes(damaged), digest=sha256(payload))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_bytes_without_a_digest_either_load_or_raise_model_error(data):
    damaged = bytearray(_PAYLOAD[: data.draw(st.integers(0, len(_PAYLOAD)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack_chain(bytes(damaged))
    except ModelError:
        pass


def _payload():
    from bora_common.types import Normalizer
    from bora_policy.residual import ResidualChain, ResidualSpec

    spec = ResidualSpec(steps=4, joints=2, tokens=1, width=2, knots=2, hidden=4)
    return pack_chain(ResidualChain(spec, Normalizer(np.zeros(2), np.ones(2)), np.ones(2), ('a', 'b')), VERSION, MODEL)


_PAYLOAD = _payload()


def test_foreign_base_models_are_refused(chain):
    with pytest.raises(ModelError, match='base model'):
        unpack_chain(pack_chain(chain, VERSION, MODEL), model_id='b' * 64)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_values_that_are_not_finite_are_named(chain, value):
    def poison(tensors):
        tensors['current.net.0.weight'][0, 0] = value

    with pytest.raises(ModelError, match='current.net.0.weight.*not finite'):
        unpack_chain(repack(pack_chain(chain, VERSION, MODEL), poison))


def test_missing_extra_and_misshapen_tensors_are_named(chain):
    data = pack_chain(chain, VERSION, MODEL)
    with pytest.raises(ModelError, match='current.net.2.bias'):
        unpack_chain(repack(data, lambda t: t.pop('current.net.2.bias')))
    with pytest.raises(ModelError, match='extra'):
        unpack_chain(repack(data, lambda t: t.update(extra=torch.zeros(1))))
    with pytest.raises(ModelError, match='current.net.0.bias'):
        unpack_chain(repack(data, lambda t: t.update({'current.net.0.bias': torch.zeros(3)})))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'alpha': 1.5}, 'α'),
        ({'alpha': None}, 'α'),
        ({'alphas': [float('nan')]}, 'α'),
        ({'format': 'other'}, 'format'),
        ({'round': '2'}, 'version'),
        ({'spec': {'steps': 8}}, 'header'),
        ({'joint_names': ['x']}, 'joints'),
    ],
)
def test_unusable_headers_are_refused(chain, change, message):
    with pytest.raises(ModelError, match=message):
        unpack_chain(repack(pack_chain(chain, VERSION, MODEL), change_facts=lambda facts: facts.update(change)))


def test_other_robots_are_refused(chain, make_chain):
    data = pack_chain(chain, VERSION, MODEL)
    other = make_chain()
    other.joint_names = ('a', 'b', 'c', 'd', 'e')
    with pytest.raises(ModelError, match='joints'):
        unpack_chain(data, like=other)
    other = make_chain()
    other.bound = other.bound * 2
    with pytest.raises(ModelError, match='bound'):
        unpack_chain(data, like=other)
    with pytest.raises(ModelError, match='steps'):
        unpack_chain(data, like=make_chain(steps=9))
