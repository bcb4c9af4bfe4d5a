import dataclasses

import numpy as np
import pytest
from by_hand import Episode
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import ConfigError, LogError
from bora_common.types import Outcome
from bora_replay.buffer import TransitionBuffer
from bora_replay.cutter import cut

ONE = cut(Episode((0, 4), k=8).ends(Outcome.SUCCESS, 8).record())[0]


def transition(seq, **changes):
    return dataclasses.replace(ONE, seq=seq, episode=f'e{seq // 3}', proprio=np.full(3, float(seq)), **changes)


def buffer(capacity=8, **changes):
    facts = {'joint_names': ('a', 'b', 'c'), 'token_names': ONE.token_names, 'model_id': 'model', **changes}
    return TransitionBuffer(capacity, 8, 3, 2, 4, **facts)


def test_the_ring_reaches_its_capacity_and_then_overwrites_the_oldest():
    b = buffer(4)
    for seq in range(4):
        assert b.insert(transition(seq))
    assert len(b) == 4
    assert b.insert(transition(4))
    assert len(b) == 4 and sorted(b.column('seq')) == [1, 2, 3, 4] and b.distinct == 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 12))
def test_each_number_is_taken_once_whatever_the_order(numbers, capacity):
    b = buffer(capacity)
    taken = [n for n in numbers if b.insert(transition(n))]
    assert sorted(taken) == sorted(set(numbers))
    assert b.distinct == len(set(numbers)) and len(b) == min(len(taken), capacity)
    assert set(b.column('seq').tolist()) == set(taken[-capacity:])
    assert b.missing(31) == sorted(set(range(31)) - set(numbers))


def test_a_sample_keeps_rows_together():
    b = buffer()
    for seq in range(6):
        b.insert(transition(seq))
    batch = b.sample(np.random.default_rng(0), 64)
    assert batch['tokens'].shape == (64, 2, 4) and batch['executed'].shape == (64, 8, 3) and batch['done'].dtype == bool
    np.testing.assert_array_equal(batch['proprio'][:, 0], batch['seq'])
    assert set(batch['seq'].tolist()) == set(range(6))
    assert [b.episodes[i] for i in batch['episode'][:5]] == [f'e{s // 3}' for s in batch['seq'][:5]]


def test_values_survive_insertion():
    b = buffer(token_dtype='float32')
    b.insert(dataclasses.replace(ONE, seq=0))
    for name in ('tokens', 'proprio', 'vla', 'executed', 'reward', 'done', 'mask', 'beta', 'truncated', 'first', 'next_tokens', 'success'):
        np.testing.assert_allclose(b.column(name)[0], getattr(ONE, name), rtol=1e-6, atol=1e-6)


def test_an_empty_buffer_can_not_be_sampled():
    with pytest.raises(LogError, match='nothing to sample'):
        buffer().sample(np.random.default_rng(0), 1)


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'model_id': 'other'}, 'model digest is other, expected model'),
        ({'token_names': ('x', 'y')}, 'token names'),
        ({'tokens': np.zeros((3, 4))}, 'token shape'),
        ({'executed': np.zeros((16, 3))}, 'chunk steps and joints'),
        ({'dt': 0.1}, 'dt is 0.1 s'),
    ],
)
def test_transitions_of_another_robot_or_model_are_refused_by_name(changes, text):
    with pytest.raises(ConfigError, match=text):
        buffer().insert(transition(0, **changes))


def test_save_and_load_keep_order_names_and_numbers(tmp_path):
    b = buffer(4)
    for seq in range(6):
        b.insert(transition(seq))
    b.save(tmp_path / 'x.safetensors')
    c = TransitionBuffer.load(tmp_path / 'x.safetensors', k=8, joint_names=('a', 'b', 'c'), model_id='model', token_width=4, capacity=6)
    assert c.column('seq').tolist() == [2, 3, 4, 5] and c.episodes == b.episodes
    assert not c.insert(transition(5)) and c.insert(transition(6)) and len(c) == 5
    assert list(tmp_path.iterdir()) == [tmp_path / 'x.safetensors']


@pytest.mark.parametrize(
    ('wanted', 'text'),
    [
        ({'k': 16}, 'k is 8, expected 16'),
        ({'joint_names': ('a', 'b', 'd')}, 'joint_names'),
        ({'token_names': ('a',)}, 'token_names'),
        ({'token_width': 8}, 'token_width'),
        ({'model_id': 'other'}, 'model_id'),
        ({'dt': 0.1}, 'dt is'),
    ],
)
def test_load_refuses_another_horizon_robot_or_model_by_name(tmp_path, wanted, text):
    b = buffer()
    b.insert(transition(0))
    b.save(tmp_path / 'x.safetensors')
    with pytest.raises(ConfigError, match=text):
        TransitionBuffer.load(tmp_path / 'x.safetensors', **wanted)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / 'x.safetensors'
    with pytest.raises(LogError, match='does not exist'):
        TransitionBuffer.load(path)
    b = buffer()
    b.insert(transition(0))
    b.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(LogError, match='damaged'):
        TransitionBuffer.load(path)
    path.write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
    with pytest.raises(LogError, match='digest'):
        TransitionBuffer.load(path)
