"""Offline critic on demonstrations' transitions: Monte-Carlo returns first, then, if asked for, bootstrapped targets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bora_common.errors import ConfigError
from bora_common.types import Normalizer
from bora_critic.critic import Critic, CriticSpec, save_critic
from bora_replay.buffer import TransitionBuffer
from bora_trainer.batch import Batch, Source, join
from bora_trainer.critic_update import CriticConfig, CriticLearner

Progress = Callable[[int, int, dict[str, float]], None]


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


def auc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative (ties count half); None where one class is missing."""
    count = int(positive.sum())
    if count == 0 or count == len(positive):
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    rank = ((upper - counts + 1 + upper) / 2)[inverse]  # ties share their mean rank
    return float((rank[positive].sum() - count * (count + 1) / 2) / (count * (len(score) - count)))


def elapsed_steps(stamp_ns: np.ndarray, episode: np.ndarray, dt: float) -> np.ndarray:
    """Steps since the first transition of the same episode [N]."""
    start = np.full(int(episode.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(start, episode, stamp_ns)
    return np.rint((stamp_ns - start[episode]) / (dt * 1e9)).astype(np.int64)


@torch.no_grad()
def state_values(critic: Critic, source: Source, rows: np.ndarray, batch: int = 512) -> np.ndarray:
    """v(z,s,0) of the rows [N]."""
    first = torch.zeros(1, dtype=torch.long)
    parts = [source.rows(rows[i : i + batch]) for i in range(0, len(rows), batch)]
    return np.concatenate([critic.v(p.z, p.s, first)[:, 0].numpy() for p in parts]) if parts else np.zeros(0, np.float32)


def measure(critic: Critic, source: Source, rows: np.ndarray) -> dict[str, float | None]:
    """How well V separates successful from failed episodes on `rows`: over all steps, and in windows of elapsed steps."""
    value = state_values(critic, source, rows)
    success = source.buffer.column('success')[rows]
    returns, complete = source.returns.values[rows, 0], source.returns.complete[rows]
    step = elapsed_steps(source.buffer.column('stamp_ns'), source.buffer.column('episode'), source.buffer.dt)[rows]
    result: dict[str, float | None] = {'auc': auc(value, success)}
    for low, high in ((0, 16), (16, 32), (32, 48), (48, 64), (64, 1 << 30)):
        window = (step >= low) & (step < high)
        result[f'auc_step_{low}'] = auc(value[window], success[window])
    result['v_success'] = float(value[success].mean()) if success.any() else None
    result['v_failure'] = float(value[~success].mean()) if (~success).any() else None
    result['v_error'] = float(np.abs(value - returns)[complete].mean()) if complete.any() else None
    return result


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
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float | None]:
    """Train a critic on offline transitions and write its directory `out`; the measured facts, also in the manifest.

    `data`: a buffer or its file. `normalizer`: the VLA's. The first `steps` updates regress Monte-Carlo returns; `bootstrap_steps`
    more use `bootstrap` targets ("shifted" or "chunk"). A fraction `held_out` of the episodes is kept for the AUC.
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
    config = CriticConfig(targets='returns', learning_rate=learning_rate, inheritance=0.0)
    learner = CriticLearner(critic, config)
    started = time.monotonic()
    info: dict[str, float] = {}
    for update in range(steps + bootstrap_steps):
        targets = 'returns' if update < steps else bootstrap
        learner.set_learning_rate(learning_rate * _cosine(update, steps + bootstrap_steps))
        info, _ = learner.update(_draw(source, split.train, rng, batch_size), rng, targets)
        if progress is not None:
            progress(update + 1, steps + bootstrap_steps, info)
    critic.eval()
    facts = {f'held_out_{k}': v for k, v in measure(critic, source, split.held_out).items()} if len(split.held_out) else {}
    facts |= {f'train_{k}': v for k, v in measure(critic, source, split.train).items()}
    facts |= {k: info.get(k) for k in ('critic_loss', 'value_loss')}
    facts |= {'seconds': time.monotonic() - started, 'transitions': len(buffer), 'seed': seed, 'steps': steps + bootstrap_steps}
    save_critic(critic, out, **facts)
    return facts


def _cosine(update: int, total: int, floor: float = 0.05) -> float:
    return floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * update / max(total, 1))))


def _draw(source: Source, rows: np.ndarray, rng: np.random.Generator, count: int) -> Batch:
    return join([source.rows(rows[rng.integers(0, len(rows), count)])], torch.device('cpu'))
