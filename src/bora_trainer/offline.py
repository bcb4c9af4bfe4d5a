"""Offline critic on demonstrations' transitions: Monte-Carlo returns first, then, if asked for, bootstrapped targets."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bora_common.errors import ConfigError, ModelError
from bora_common.types import Normalizer
from bora_critic.critic import Critic, CriticSpec, save_critic
from bora_critic.losses import masked_error
from bora_critic.metrics import action_ranking, calibration, elapsed_steps, neighbours, separation
from bora_replay.buffer import TransitionBuffer
from bora_trainer.batch import Batch, Source, join
from bora_trainer.critic_update import CriticConfig, CriticLearner
from bora_trainer.losses import chunk_value

Progress = Callable[[int, int, dict[str, float]], None]
CHECK_EVERY = 50  # updates between looks at the held-out error


@dataclass(frozen=True)
class Split:
    """Rows of training and held-out episodes."""

    train: np.ndarray
    held_out: np.ndarray


def split_by_episode(episode: np.ndarray, rng: np.random.Generator, fraction: float) -> Split:
    """Whole episodes [N] are held out: rows of one episode overlap, so a split by rows would leak."""
    names = rng.permutation(np.unique(episode))
    held = np.isin(episode, names[: round(fraction * len(names))])
    return Split(np.flatnonzero(~held), np.flatnonzero(held))


@torch.no_grad()
def state_values(critic: Critic, source: Source, rows: np.ndarray, batch: int = 512) -> np.ndarray:
    """v(z,s,0) of the rows [N]."""
    first = torch.zeros(1, dtype=torch.long)
    parts = [source.rows(rows[i : i + batch]) for i in range(0, len(rows), batch)]
    return np.concatenate([critic.v(p.z, p.s, first)[:, 0].numpy() for p in parts]) if parts else np.zeros(0, np.float32)


@torch.no_grad()
def cross_values(critic: Critic, source: Source, pairs: np.ndarray, batch: int = 256) -> np.ndarray:
    """Q of both executed chunks of each pair [M,2] of rows in both of its states: [M,2,2], state before action.

    Mean over members and steps. Only the steps that both rows executed count: what one of them did later is no difference between the two.
    """
    parts = [np.zeros((0, 2, 2), np.float32)]
    for i in range(0, len(pairs), batch):
        rows = [source.rows(pairs[i : i + batch, side]) for side in (0, 1)]
        mask = rows[0].mask & rows[1].mask
        judged = [[chunk_value(critic.q(at.z, at.s, by.executed).mean(0), mask) for by in rows] for at in rows]
        parts.append(torch.stack([torch.stack(values, -1) for values in judged], 1).numpy())
    return np.concatenate(parts)


def measure(critic: Critic, source: Source, rows: np.ndarray) -> dict[str, float | None]:
    """What the critic is worth on `rows`: separation and calibration of V, ranking of executed chunks by Q (`bora_critic.metrics`)."""
    buffer = source.buffer
    value, success, episode = state_values(critic, source, rows), buffer.column('success')[rows], buffer.column('episode')[rows]
    returns, complete = source.returns.values[rows, 0], source.returns.complete[rows]
    step = elapsed_steps(buffer.column('stamp_ns'), buffer.column('episode'), buffer.dt)[rows]
    result = separation(value, step, episode, success)
    result['v_success'] = float(value[success].mean()) if success.any() else None
    result['v_failure'] = float(value[~success].mean()) if (~success).any() else None
    if not complete.any():
        return result
    judged = calibration(value[complete], returns[complete])
    result |= {'v_error': judged.error, 'v_bias': judged.bias, 'v_explained': judged.explained}
    ended = rows[complete]
    batch = source.rows(ended)
    state = torch.cat([batch.z.flatten(1), batch.s], 1).numpy()
    pairs = neighbours(state, episode[complete], returns[complete], step=step[complete])
    valid = batch.mask.unsqueeze(-1)
    distance = (masked_error(batch.executed, batch.vla, valid).square().mean(-1).sum(1) / batch.mask.sum(1)).numpy()
    ranking = action_ranking(cross_values(critic, source, ended[pairs]), distance[pairs])
    return result | {f'ranking_{name}': number for name, number in ranking.items()}


def _spec(buffer: TransitionBuffer, normalizer: Normalizer, source: Source, hidden: int, ensemble: int, gamma: float) -> CriticSpec:
    returns = source.returns.values[source.returns.complete, 0]
    if len(returns) == 0:
        raise ConfigError('offline critic: no transition has a return; the data holds no finished episode')
    low, high = np.quantile(returns, [0.02, 0.98])
    return CriticSpec(
        model_id=buffer.model_id, joints=tuple(buffer.joint_names), token_names=tuple(buffer.token_names), token_width=buffer.W,
        k=buffer.k, dt=buffer.dt, mean=tuple(normalizer.mean.tolist()), std=tuple(normalizer.std.tolist()), hidden=hidden,
        ensemble=ensemble, gamma=gamma, return_range=(float(low), max(float(high), float(low) + 1e-3)),
    )  # fmt: skip


def fit_critic(
    data: TransitionBuffer | str | Path,
    normalizer: Normalizer,
    out: str | Path,
    *,
    steps: int = 1500,
    seed: int = 0,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    gamma: float = 0.99,
    hidden: int = 128,
    ensemble: int = 2,
    bootstrap: str = 'none',
    bootstrap_steps: int = 0,
    held_out: float = 0.2,
    token_noise: float = 0.5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float | None]:
    """Train a critic on offline transitions and write its directory `out`; the measured facts, also in the manifest.

    `data`: a buffer or its file. `normalizer`: the VLA's. The first `steps` updates regress Monte-Carlo returns; of these, the weights
    that err least on the held-out episodes are kept. `bootstrap_steps` more use `bootstrap` targets ("shifted" or "chunk"). A fraction
    `held_out` of the episodes is never trained on; they choose the moment to stop, so that what is measured on them is a little too good.
    `token_noise`: standard deviation of the noise on tokens while training, as a share of each token's own.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    buffer = data if isinstance(data, TransitionBuffer) else TransitionBuffer.load(data)
    if len(buffer) == 0:
        raise ConfigError('offline critic: the data holds no transitions')
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    source = Source(buffer, normalizer, gamma, True, ensemble)
    source.returns.refresh()
    split = split_by_episode(buffer.column('episode'), rng, held_out)
    critic = Critic(_spec(buffer, normalizer, source, hidden, ensemble, gamma))
    learner = CriticLearner(critic, CriticConfig(targets='returns', learning_rate=learning_rate, inheritance=0.0))
    started, total = time.monotonic(), steps + bootstrap_steps
    info: dict[str, float] = {}
    best = Best(source, split.held_out)
    for update in range(total):
        learner.set_learning_rate(learning_rate * _cosine(update, total))
        batch = _draw(source, split.train, rng, batch_size)
        batch = replace(batch, z=noisy(batch.z, token_noise))
        info, _ = learner.update(batch, rng, 'returns' if update < steps else bootstrap)
        if update < steps and ((update + 1) % CHECK_EVERY == 0 or update + 1 == steps):
            best.look(learner, update + 1, last=update + 1 == steps)
        if progress is not None:
            progress(update + 1, total, info)
    critic.eval()
    facts = {f'held_out_{k}': v for k, v in measure(critic, source, split.held_out).items()} if len(split.held_out) else {}
    facts |= {f'train_{k}': v for k, v in measure(critic, source, split.train).items()}
    facts |= {k: info.get(k) for k in ('critic_loss', 'value_loss')}
    facts |= {'seconds': time.monotonic() - started, 'transitions': len(buffer), 'seed': seed, 'steps': total, 'kept_step': best.update}
    save_critic(critic, out, **facts)
    return facts


def noisy(tokens: Tensor, share: float) -> Tensor:
    """Tokens [B,T,W] with Gaussian noise of `share` times each token's standard deviation: few episodes are learnt by heart otherwise."""
    return tokens + share * tokens.std(-1, keepdim=True) * torch.randn_like(tokens) if share > 0 else tokens


class Best:
    """Remembers the weights that err least on held-out episodes: with few episodes the error there rises again long before the end."""

    def __init__(self, source: Source, rows: np.ndarray):
        self._source, self._rows = source, rows[source.returns.complete[rows]]
        self.update, self._error, self._weights = 0, float('inf'), None

    def look(self, learner: CriticLearner, update: int, last: bool) -> None:
        """Compare the weights after `update` with the best so far; on the `last` look, put the best back, in the target network too."""
        if len(self._rows) == 0:
            self.update = update
            return
        error = self._measure(learner.critic)
        if error < self._error:
            self.update, self._error, self._weights = update, error, copy.deepcopy(learner.critic.state_dict())
        if last and self._weights is None:
            raise ModelError(f'offline critic: its error on held-out episodes is {error} after {update} updates, expected a finite one')
        if last and self.update != update:
            learner.critic.load_state_dict(self._weights)
            learner.target.load_state_dict(self._weights)

    @torch.no_grad()
    def _measure(self, critic: Critic, batch: int = 512) -> float:
        """Mean squared error of q and v against returns, over valid steps."""
        total, count = 0.0, 0.0
        for begin in range(0, len(self._rows), batch):
            part = self._source.rows(self._rows[begin : begin + batch])
            q, v = critic.q(part.z, part.s, part.executed).mean(0), critic.v(part.z, part.s)
            error = masked_error(torch.stack([q, v]), part.returns, part.mask).square().sum()
            total, count = total + float(error), count + 2 * float(part.mask.sum())
        return total / max(count, 1.0)


def _cosine(update: int, total: int, floor: float = 0.05) -> float:
    return floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * update / max(total, 1))))


def _draw(source: Source, rows: np.ndarray, rng: np.random.Generator, count: int) -> Batch:
    return join([source.rows(rows[rng.integers(0, len(rows), count)])], torch.device('cpu'))
