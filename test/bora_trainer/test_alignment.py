"""Re-timing of executed motion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_trainer.alignment import align

SCALE = np.array([0.01, 0.01])


def path(t):
    """A curve in two joints."""
    return np.stack([np.sin(t), 0.5 * t], axis=-1)


def test_equal_motion_is_its_own_target():
    base = path(np.linspace(0, 1, 12))
    target, matched = align(base, base, SCALE)
    assert matched.all()
    np.testing.assert_allclose(target, base)


def test_a_slower_person_on_the_same_path_asks_for_no_correction():
    base, slow = path(np.linspace(0, 1, 16)), path(np.linspace(0, 1, 32))
    target, matched = align(base, slow, SCALE)
    assert matched.all()
    assert np.abs(target - base).max() < 0.02
    assert np.abs(slow[:16] - base).max() > 0.3, 'step by step the difference would be large'


@pytest.mark.parametrize('pause', [1, 5])
def test_a_pause_leaves_the_offset_alone(pause):
    base, offset = path(np.linspace(0, 1, 16)), np.array([0.004, -0.003])
    waiting = np.repeat(base[:1], pause, axis=0)
    target, matched = align(base, np.concatenate([waiting, base]) + offset, SCALE)
    np.testing.assert_allclose((target - base)[matched], np.tile(offset, (matched.sum(), 1)), atol=0.035)
    assert abs(np.median(target - base, axis=0) - offset).max() < 0.003


def test_nothing_executed_matches_nothing():
    base = path(np.linspace(0, 1, 4))
    target, matched = align(base, np.empty((0, 2)), SCALE)
    assert not matched.any()
    np.testing.assert_array_equal(target, base)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000))
def test_targets_lie_among_what_was_executed(k, n, seed):
    rng = np.random.default_rng(seed)
    base, executed = rng.normal(size=(k, 2)), rng.normal(size=(n, 2))
    target, matched = align(base, executed, SCALE)
    assert matched[0] and matched[: round(0.25 * k)].all()
    assert (np.flatnonzero(matched) == np.arange(matched.sum())).all(), 'the match is a prefix'
    assert (target[matched] >= executed.min(0) - 1e-9).all() and (target[matched] <= executed.max(0) + 1e-9).all()
    np.testing.assert_array_equal(target[~matched], base[~matched])
