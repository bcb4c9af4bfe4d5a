"""Steps are due at fixed times; between them the motion is smooth; nothing jumps at adoption."""

import numpy as np
import pytest
from hil_bench import DT, K, chunk_of
from hypothesis import given
from hypothesis import strategies as st

from bora_hil.chunk_player import ChunkPlayer, smoothstep

S = 1_000_000_000


def sine(k=K, rate=1.0):
    t = np.arange(1, k + 1) * DT
    return np.stack([0.3 * np.sin(rate * t), 0.2 * np.cos(rate * t)], axis=1)


def test_a_step_is_reached_exactly_when_it_is_due():
    chunk = chunk_of(sine(), stamp_ns=S)
    player = ChunkPlayer(chunk, S, np.zeros(2), fade_steps=0)
    for i in range(K):
        np.testing.assert_allclose(player.position(chunk.due_ns(i)), chunk.positions[i], atol=1e-6)
        assert player.step(chunk.due_ns(i)) == i
        assert player.played(chunk.due_ns(i)) == i + 1
        assert player.step(chunk.due_ns(i) + 5_000_000) == min(i + 1, K - 1)


def test_before_the_first_due_step_it_starts_from_the_last_sent_command():
    chunk = chunk_of(sine(), stamp_ns=S)
    start = np.array([0.05, 0.25])
    for fade_steps in (0, 2):
        np.testing.assert_allclose(ChunkPlayer(chunk, S, start, fade_steps=fade_steps).position(S), start)
    player = ChunkPlayer(chunk, S, start, fade_steps=0)
    between = player.position(S + 33_000_000)
    assert np.all(between > np.minimum(start, chunk.positions[0])) and np.all(between < np.maximum(start, chunk.positions[0]))


def test_late_adoption_skips_steps_instead_of_shifting_the_motion():
    chunk = chunk_of(sine(), stamp_ns=S)
    early = ChunkPlayer(chunk, S, chunk.positions[0])
    late = ChunkPlayer(chunk, chunk.due_ns(5), chunk.positions[0])
    t = chunk.due_ns(8)
    np.testing.assert_allclose(early.position(t), late.position(t))
    assert late.step(chunk.due_ns(5) + 1_000_000) == 6


def test_exhausted_only_when_the_last_step_is_due_and_then_keeps_it():
    chunk = chunk_of(sine(), stamp_ns=S)
    player = ChunkPlayer(chunk, S, np.zeros(2))
    assert not player.exhausted(chunk.due_ns(K - 1) - 1_000_000)
    assert player.exhausted(chunk.due_ns(K - 1))
    np.testing.assert_allclose(player.position(chunk.due_ns(K - 1) + 10 * S), chunk.positions[-1])
    assert player.played(chunk.due_ns(K - 1) + 10 * S) == K


def test_cross_fade_lasts_two_steps_and_has_no_jump_at_either_end():
    old = chunk_of(sine(), stamp_ns=S)
    new = chunk_of(sine(K + 16)[16:] + 0.1, stamp_ns=old.due_ns(15))
    adopted = old.due_ns(15) + 3_000_000
    before = ChunkPlayer(old, S, old.positions[0])
    player = ChunkPlayer(new, adopted, before.position(adopted), before)
    np.testing.assert_allclose(player.position(adopted), before.position(adopted))
    end = adopted + round(2 * DT * 1e9)
    np.testing.assert_allclose(player.position(end), ChunkPlayer(new, adopted, np.zeros(2), fade_steps=0).position(end))
    ticks = [player.position(t) for t in range(adopted, end + 30_000_000, 1_000_000)]
    assert np.abs(np.diff(ticks, axis=0)).max() < 0.0017


def test_a_smooth_motion_stays_below_the_acceleration_limit():
    """Linear interpolation of the same steps would need 25 rad/s² at 100 Hz; the arm is allowed 10."""
    t = np.arange(1, K + 1) * DT
    chunk = chunk_of(0.3 * np.sin(4.0 * t)[:, None], stamp_ns=0)
    player = ChunkPlayer(chunk, 0, np.zeros(1), fade_steps=0)
    times = np.arange(chunk.due_ns(3), chunk.due_ns(K - 3), 10_000_000)
    track = np.array([player.position(int(x))[0] for x in times])
    linear = np.interp(times * 1e-9, t, chunk.positions[:, 0])
    acceleration = np.abs(np.diff(track, 2)).max() / 0.01**2
    assert acceleration < 9.0 < np.abs(np.diff(linear, 2)).max() / 0.01**2


def test_old_chunks_are_let_go():
    player = None
    for i in range(20):
        chunk = chunk_of(sine(), stamp_ns=i * S)
        player = ChunkPlayer(chunk, i * S, np.zeros(2), player)
    depth = 0
    while player is not None:
        player, depth = player._previous, depth + 1
    assert depth <= 2


@given(st.integers(-S, 5 * S), st.integers(0, 2 * S), st.integers(1, 40), st.floats(-1, 1))
def test_positions_stay_within_start_and_chunk_by_a_small_overshoot(t, adopted, k, start):
    chunk = chunk_of(np.linspace(-0.5, 0.5, k)[:, None], stamp_ns=0)
    player = ChunkPlayer(chunk, adopted, np.array([start]))
    span = max(0.5, abs(start))
    assert np.abs(player.position(t)).max() <= span * 1.5
    assert 0 <= player.step(t) < k and 0 <= player.played(t) <= k


@pytest.mark.parametrize('x,y', [(-1, 0), (0, 0), (0.5, 0.5), (1, 1), (2, 1)])
def test_smoothstep(x, y):
    assert smoothstep(x) == y
