import dataclasses
import json

import numpy as np
import pytest
import torch
from policy_toy import inputs, proposal

from bora_common.types import WeightsVersion
from bora_policy.gate import WeightsGate
from bora_policy.packing import package

MODEL = 'm' * 64


def version(update, round_=1, run='run'):
    return WeightsVersion(run, round_, update)


@pytest.fixture
def gate(make_chain, tmp_path):
    return WeightsGate(make_chain(), MODEL, max_jump=0.5, state_dir=tmp_path / 'state')


@pytest.fixture
def weights(make_chain):
    def make(update=50, alpha=0.2, scale=0.5, round_=1, run='run', seed=0):
        return package(make_chain(scale, alpha, seed), version(update, round_, run), MODEL)

    return make


def test_good_weights_are_taken_up(gate, weights):
    before = gate.chain
    decision = gate.consider(weights())
    assert decision.accepted and gate.version == version(50) and gate.chain is not before
    assert 'no observations' in decision.reason


@pytest.mark.parametrize(('update', 'round_'), [(50, 1), (49, 1), (1000, 0)])
def test_versions_that_are_not_newer_are_refused(gate, weights, update, round_):
    assert gate.consider(weights(50)).accepted
    decision = gate.consider(weights(update, round_=round_, seed=1))
    assert not decision.accepted and 'not newer' in decision.reason and gate.version == version(50)


def test_a_new_round_starts_its_updates_again(gate, weights):
    assert gate.consider(weights(500)).accepted
    assert gate.consider(weights(0, round_=2, alpha=0.1)).accepted


def test_the_same_package_again_is_answered_but_changes_nothing(gate, weights):
    assert gate.consider(weights()).accepted
    chain = gate.chain
    again = gate.consider(weights())
    assert again.accepted and 'already' in again.reason and gate.chain is chain


def test_a_run_that_was_left_does_not_come_back(gate, weights):
    assert gate.consider(weights(50, run='one')).accepted
    assert gate.consider(weights(1, run='two')).accepted
    decision = gate.consider(weights(900, run='one'))
    assert not decision.accepted and 'was left' in decision.reason


def test_damage_foreign_models_and_disagreeing_headers_are_refused(gate, weights):
    good = weights()
    cases = {
        'SHA-256': dataclasses.replace(good, data=good.data[:-1] + bytes([good.data[-1] ^ 1])),
        'base model': dataclasses.replace(good, model_id='x' * 64),
        'header says': dataclasses.replace(good, version=version(51)),
        'the message': dataclasses.replace(good, alpha=0.9),
        'without a run': weights(run=''),
    }
    for reason, case in cases.items():
        decision = gate.consider(case)
        assert not decision.accepted and reason in decision.reason, reason
    assert gate.version == WeightsVersion()


def saturated(make_chain, alpha):
    chain = make_chain(alpha=alpha)
    with torch.no_grad():
        chain.current.net[-1].bias.fill_(50.0)
    return chain


def test_a_jump_beyond_the_limit_is_refused_with_the_joint_and_the_size(gate, make_chain):
    gate.remember(proposal(1))
    decision = gate.consider(package(saturated(make_chain, 0.6), version(1), MODEL))  # 0.6 of the bound of 0.2 rad, limit 0.5 of it
    assert not decision.accepted and 'joint' in decision.reason and '0.1200 rad' in decision.reason and '0.1000 rad' in decision.reason
    assert np.array_equal(gate.chain.apply(*inputs())[1], inputs()[0])


def test_the_same_way_in_two_smaller_jumps_is_accepted(gate, make_chain):
    gate.remember(proposal(1))
    first = gate.consider(package(saturated(make_chain, 0.3), version(1), MODEL))
    assert first.accepted and first.jump == pytest.approx(0.06, abs=1e-6)
    assert gate.consider(package(saturated(make_chain, 0.6), version(2), MODEL)).accepted


def test_accepted_weights_outlive_a_restart(gate, weights, make_chain, tmp_path):
    assert gate.consider(weights(50)).accepted
    assert gate.consider(weights(100, seed=1)).accepted
    again = WeightsGate(make_chain(), MODEL, 0.5, tmp_path / 'state')
    decision = again.restore()
    assert decision.accepted and again.version == version(100)
    assert np.array_equal(again.chain.apply(*inputs())[1], gate.chain.apply(*inputs())[1])
    assert not again.consider(weights(50)).accepted
    assert len(list((tmp_path / 'state').glob('*.safetensors'))) == 1


def test_nothing_is_restored_where_nothing_was_kept(gate, make_chain):
    assert gate.restore() is None
    assert WeightsGate(make_chain(), MODEL, 0.5, None).restore() is None


@pytest.mark.parametrize('damage', ['weights', 'pointer', 'gone', 'model'])
def test_damaged_state_is_refused_and_the_base_plays_alone(gate, weights, make_chain, tmp_path, damage):
    assert gate.consider(weights()).accepted
    state = tmp_path / 'state'
    file = next(state.glob('*.safetensors'))
    if damage == 'weights':
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == 'pointer':
        (state / 'accepted.json').write_text(json.dumps({'file': 3}))
    elif damage == 'gone':
        file.unlink()
    again = WeightsGate(make_chain(), 'n' * 64 if damage == 'model' else MODEL, 0.5, state)
    decision = again.restore()
    assert not decision.accepted and decision.reason
    assert again.version == WeightsVersion() and np.array_equal(again.chain.apply(*inputs())[1], inputs()[0])
