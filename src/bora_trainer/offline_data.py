"""Demonstrations as the critic sees them: every frame starts a chunk, with rewards, terminals, returns and a next state.

The chunk that starts at frame t of an episode of N steps holds n = min(k, N - t) steps; the next state is the frame n steps later, or
the episode's last frame where the chunk reaches its end. That is what bora_replay.cutter cuts with a proposal at every frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bora_common.errors import ConfigError, nearest
from bora_trainer.dataset import Demonstrations


@dataclass(frozen=True)
class Chunks:
    """B chunks of k steps in SI units."""

    executed: np.ndarray  # float32 [B,k,D] rad; beyond the mask the last valid step again
    intended: np.ndarray  # float32 [B,k,D] rad, the label
    mask: np.ndarray  # bool [B,k]
    reward: np.ndarray  # float32 [B,k]
    done: np.ndarray  # bool [B,k]
    returns: np.ndarray  # float32 [B,k] discounted, from each step to the episode's end
    next: np.ndarray  # [B] frame of the next state


class OfflineData:
    """F frames of demonstrations, whose arrays are shared and never copied, with what the critic learns from."""

    def __init__(self, frames: Demonstrations, limits: Mapping[str, int], gamma: float):
        """`limits`: steps that a policy has, by task; each step costs 1 / limit. A demonstration may be longer.

        Raises ConfigError naming the episode whose task is not there.
        """
        self.frames, self.gamma = frames, gamma
        for episode in frames.episodes:
            if episode.task not in limits:
                raise ConfigError(f'{episode.name}: unknown task "{episode.task}", {nearest(episode.task, limits)}')
        self.reward, self.done, self.returns = self._rewards(limits)

    def _rewards(self, limits: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(reward, done, return) of each frame's step [F]: what follows an episode's last step earns nothing."""
        count = len(self)
        reward, done, returns, begin = np.empty(count), np.zeros(count, bool), np.empty(count), 0
        for episode in self.frames.episodes:
            end = begin + episode.steps
            reward[begin:end] = -1.0 / limits[episode.task]
            reward[end - 1] += float(episode.success)
            done[end - 1] = episode.success or episode.failure  # running out of time is no terminal
            tail = 0.0
            for i in range(end - 1, begin - 1, -1):
                returns[i] = tail = reward[i] + self.gamma * tail
            begin = end
        return reward.astype(np.float32), done, returns.astype(np.float32)

    def __len__(self) -> int:
        return len(self.frames)

    def chunks(self, rows: np.ndarray, k: int) -> Chunks:
        """The chunks that start at the frames `rows` [B]."""
        end = self.frames.end[rows][:, None]
        index = rows[:, None] + np.arange(k)
        mask = index < end
        index = np.minimum(index, end - 1)
        return Chunks(
            executed=self.frames.executed[index], intended=self.frames.intended[index], mask=mask,
            reward=np.where(mask, self.reward[index], np.float32(0)), done=mask & self.done[index],
            returns=np.where(mask, self.returns[index], np.float32(0)), next=self.following(rows, k),
        )  # fmt: skip

    def following(self, rows: np.ndarray, k: int) -> np.ndarray:
        """Frame [B] of the state after the chunks of at most k steps that start at the frames `rows`."""
        return np.minimum(rows + k, self.frames.end[rows] - 1)
