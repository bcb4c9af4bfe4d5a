"""Chunks of the offline phase: by hand, and against what the cutter makes of the same episodes."""

import numpy as np
import offline_toy as toy
import pytest

from bora_common.errors import ConfigError
from bora_common.types import Outcome
from bora_critic.targets import monte_carlo
from bora_replay.cutter import cut, record_from_demo
from bora_trainer.offline_data import OfflineData


def test_rewards_and_returns_by_hand():
    data = OfflineData(toy.frames(lengths=(3, 2), success=(True, False), tasks=('pull',)), dict.fromkeys(toy.TASKS, 4), 0.5)
    assert data.reward.tolist() == [-0.25, -0.25, 0.75, -0.25, -0.25]
    assert data.done.tolist() == [False, False, True, False, False]
    assert data.returns.tolist() == [-0.1875, 0.125, 0.75, -0.375, -0.25]
    chunks = data.chunks(np.array([1, 3]), 4)
    assert chunks.mask.tolist() == [[True, True, False, False]] * 2
    assert chunks.reward.tolist() == [[-0.25, 0.75, 0, 0], [-0.25, -0.25, 0, 0]]
    assert chunks.done.tolist() == [[False, True, False, False], [False] * 4]
    assert chunks.returns.tolist() == [[0.125, 0.75, 0, 0], [-0.375, -0.25, 0, 0]]
    assert chunks.next.tolist() == [2, 4]
    assert np.array_equal(chunks.executed[0, 2], data.frames.executed[2])  # the last valid step, held


@pytest.mark.parametrize('k', [1, 4, 8, 32])
def test_chunks_are_what_the_cutter_makes_of_a_proposal_at_every_frame(k):
    data = toy.data()
    begin = 0
    for episode in data.frames.episodes:
        rows = np.arange(begin, begin + episode.steps)
        outcome = Outcome.SUCCESS if episode.success else Outcome.FAILURE if episode.failure else Outcome.TIMEOUT
        tokens = np.arange(episode.steps, dtype=np.float32)[:, None, None]
        transitions = cut(record_from_demo(
            episode=episode.name, task=episode.task, robot='toy', executed=data.frames.executed[rows], frames=range(episode.steps),
            tokens=tokens, token_names=('cognition',), vla=np.zeros((episode.steps, k, 2)), proprio=data.frames.proprio[rows],
            outcome=outcome, episode_steps=toy.LIMIT,
        ))  # fmt: skip
        chunks = data.chunks(rows, k)
        assert len(transitions) == episode.steps
        stacked = {n: np.stack([getattr(t, n) for t in transitions]) for n in ('mask', 'reward', 'done', 'executed', 'truncated')}
        for name in ('mask', 'done'):
            assert np.array_equal(getattr(chunks, name), stacked[name]), name
        for name in ('reward', 'executed'):
            assert np.allclose(getattr(chunks, name), stacked[name], atol=1e-6), name
        assert [t.next_tokens.item() for t in transitions] == (chunks.next - begin).tolist()
        returns = monte_carlo(
            np.array([t.stamp_ns for t in transitions]), stacked['reward'], stacked['done'], stacked['mask'], stacked['truncated'],
            1 / 15, toy.GAMMA,
        )  # fmt: skip
        assert returns.complete.all()
        assert np.allclose(np.where(stacked['mask'], returns.values, 0), chunks.returns, atol=1e-5)
        begin += episode.steps


def test_images_are_not_copied():
    frames = toy.frames()
    assert OfflineData(frames, toy.TASKS, 0.9).frames.images is frames.images


def test_episodes_that_can_not_be_are_named():
    with pytest.raises(ConfigError, match='push_0: unknown task "push".*pull'):
        OfflineData(toy.frames(), {'pull': toy.TASKS['pull']}, 0.9)
