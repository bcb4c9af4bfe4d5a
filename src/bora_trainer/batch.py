"""Transitions as tensors for the learner: normalised positions, float32 tokens, the returns beside them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from bora_common.types import Normalizer
from bora_critic.targets import monte_carlo
from bora_replay.buffer import TransitionBuffer
from bora_trainer.alignment import align


@dataclass(frozen=True)
class Batch:
    """B transitions. Positions are normalised; masks are bool."""

    z: Tensor  # [B,T,W]
    s: Tensor  # [B,D]
    vla: Tensor  # [B,k,D]
    executed: Tensor  # [B,k,D]
    aligned: Tensor  # [B,k,D] what was executed in the proposal's own time, where `matched`; offline rows: as executed
    matched: Tensor  # [B,k]
    reward: Tensor  # [B,k]
    done: Tensor  # [B,k]
    mask: Tensor  # [B,k]
    human: Tensor  # [B,k]
    beta: Tensor  # [B,k]
    first: Tensor  # [B]
    z_next: Tensor  # [B,T,W]
    s_next: Tensor  # [B,D]
    success: Tensor  # [B] of the episode
    returns: Tensor  # [B,k] Monte-Carlo, where `complete`
    complete: Tensor  # [B]
    offline: Tensor  # [B]
    q_offline: Tensor  # [E,B,k] the inherited critic's own view of offline rows; zeros elsewhere

    def __len__(self) -> int:
        return len(self.first)

    @property
    def decided(self) -> Tensor:
        """[B,k] valid steps that this proposal could have decided: what came earlier was executed from an older chunk."""
        return self.mask & (torch.arange(self.mask.shape[1], device=self.mask.device) >= self.first.unsqueeze(1))


class ReturnTable:
    """Monte-Carlo returns beside a buffer's rows, renewed for the episodes that changed."""

    def __init__(self, buffer: TransitionBuffer, gamma: float):
        self._buffer, self._gamma = buffer, gamma
        self.values = np.zeros((buffer.capacity, buffer.k), np.float32)
        self.complete = np.zeros(buffer.capacity, bool)
        self._seq = np.full(buffer.capacity, -1, np.int64)
        self._distinct = -1

    def refresh(self) -> None:
        """Recompute the returns of every episode with rows that are new since the last call."""
        buffer = self._buffer
        if buffer.distinct == self._distinct:
            return
        self._distinct = buffer.distinct
        seq, episode = buffer.column('seq'), buffer.column('episode')
        changed = np.unique(episode[seq != self._seq[: len(seq)]])
        for number in changed:
            rows = np.flatnonzero(episode == number)
            columns = [buffer.column(c)[rows] for c in ('stamp_ns', 'reward', 'done', 'mask', 'truncated')]
            result = monte_carlo(*columns, dt=buffer.dt, gamma=self._gamma, human=buffer.column('human')[rows])
            self.values[rows], self.complete[rows] = result.values, result.complete
        self._seq[: len(seq)] = seq


class AlignedTable:
    """What was executed in the proposals' own time, beside a buffer's rows; computed once for each row."""

    def __init__(self, buffer: TransitionBuffer, scale: np.ndarray):
        """`scale` [D] rad weighs the joints against each other."""
        self._buffer, self._scale = buffer, scale
        self.targets = np.zeros((buffer.capacity, buffer.k, len(buffer.joint_names)), np.float32)
        self.matched = np.zeros((buffer.capacity, buffer.k), bool)
        self._seq = np.full(buffer.capacity, -1, np.int64)

    def refresh(self) -> None:
        """Align the rows that are new since the last call."""
        seq = self._buffer.column('seq')
        for row in np.flatnonzero(seq != self._seq[: len(seq)]):
            n = int(self._buffer.column('mask')[row].sum())
            base, executed = self._buffer.column('vla')[row], self._buffer.column('executed')[row, :n]
            self.targets[row], self.matched[row] = align(base, executed, self._scale)
        self._seq[: len(seq)] = seq


class Source:
    """A buffer as a source of batches."""

    def __init__(
        self, buffer: TransitionBuffer, normalizer: Normalizer, gamma: float, offline: bool, ensemble: int, scale: np.ndarray | None = None
    ):  # fmt: skip
        """`scale` [D] rad: align what was executed with the proposals; None: take it as it is."""
        self.buffer, self.offline = buffer, offline
        self.returns = ReturnTable(buffer, gamma)
        self._aligned = None if scale is None else AlignedTable(buffer, scale)
        self.q_offline: np.ndarray | None = None  # [E,N,k]
        self._mean = torch.as_tensor(normalizer.mean, dtype=torch.float32)
        self._std = torch.as_tensor(normalizer.std, dtype=torch.float32)
        self._ensemble = ensemble

    def __len__(self) -> int:
        return len(self.buffer)

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` rows, uniformly with replacement."""
        self.refresh()
        return self.rows(rng.integers(0, len(self.buffer), count))

    def refresh(self) -> None:
        """Renew what is computed beside the rows."""
        self.returns.refresh()
        if self._aligned is not None:
            self._aligned.refresh()

    def rows(self, indices: np.ndarray) -> Batch:
        """The given rows. Call `refresh` after the buffer changed."""
        raw = self.buffer.take(indices)
        table = self._aligned
        raw['aligned'], raw['matched'] = (
            (raw['executed'], raw['mask']) if table is None else (table.targets[indices], table.matched[indices])
        )

        def positions(name: str) -> Tensor:
            return (torch.as_tensor(raw[name]) - self._mean) / self._std

        def tensor(name: str, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(raw[name]).to(dtype)

        count, k = raw['mask'].shape
        inherited = np.zeros((self._ensemble, count, k), np.float32) if self.q_offline is None else self.q_offline[:, indices]
        return Batch(
            z=tensor('tokens', torch.float32), s=positions('proprio'), vla=positions('vla'), executed=positions('executed'),
            aligned=positions('aligned'), matched=tensor('matched', torch.bool),
            reward=tensor('reward', torch.float32), done=tensor('done', torch.bool), mask=tensor('mask', torch.bool),
            human=tensor('human', torch.bool), beta=tensor('beta', torch.float32), first=tensor('first', torch.int64),
            z_next=tensor('next_tokens', torch.float32), s_next=positions('next_proprio'), success=tensor('success', torch.bool),
            returns=torch.as_tensor(self.returns.values[indices]), complete=torch.as_tensor(self.returns.complete[indices]),
            offline=torch.full((count,), self.offline), q_offline=torch.as_tensor(inherited),
        )  # fmt: skip


def join(parts: list[Batch], device: torch.device) -> Batch:
    """Batches one after the other, on `device`."""
    values = {}
    for field in fields(Batch):
        tensors = [getattr(part, field.name) for part in parts]
        values[field.name] = torch.cat(tensors, 1 if field.name == 'q_offline' else 0).to(device)
    return Batch(**values)
