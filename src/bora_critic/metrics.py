"""What a critic is worth, measured on held-out episodes: separation, calibration, ranking of actions. numpy only.

Shapes: N transitions, E episodes. Three questions, from easy to hard: does V tell episodes that succeed from those that fail (AUC),
is it the return that follows (calibration), and does Q prefer, in one state, the action that turned out better (ranking)? A critic can
answer the first two and still be useless for improving a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AT = (0, 16, 32, 48, 64)  # elapsed steps at which V is looked at: the decisions of a horizon of 16


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
    """Steps since the first transition of the same episode [N]. `episode` [N] numbers the episodes."""
    if len(episode) == 0:
        return np.zeros(0, np.int64)
    start = np.full(int(episode.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(start, episode, stamp_ns)
    return np.rint((stamp_ns - start[episode]) / (dt * 1e9)).astype(np.int64)


def separation(
    value: np.ndarray, step: np.ndarray, episode: np.ndarray, success: np.ndarray, at: Sequence[int] = AT
) -> dict[str, float | None]:
    """AUC of V between successful and failed episodes, one score an episode. All arrays [N].

    `auc_step_<t>`: the first value from step t on, before the next of `at` (after the last of them: within the same distance); only
    episodes that are still running then count. `auc_mean`, `auc_last`: the episode's mean and last value. `auc`: every row a score.
    """
    result: dict[str, float | None] = {'auc': auc(value, success)}
    order = np.lexsort((step, episode))
    widths = np.diff([*at, 2 * at[-1] - at[-2]]) if len(at) > 1 else [np.iinfo(np.int64).max]
    for begin, width in zip(at, widths, strict=True):
        rows = order[(step[order] >= begin) & (step[order] - begin < width)]
        rows = rows[np.unique(episode[rows], return_index=True)[1]]
        result[f'auc_step_{begin}'] = auc(value[rows], success[rows])
    names, first, counts = np.unique(episode[order], return_index=True, return_counts=True)
    if len(names) == 0:
        return result | {'auc_mean': None, 'auc_last': None}
    outcome = success[order[first]]
    result['auc_mean'] = auc(np.add.reduceat(value[order], first) / counts, outcome)
    result['auc_last'] = auc(value[order[first + counts - 1]], outcome)
    return result


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed returns in bins of equal count, from the lowest prediction to the highest."""

    predicted: np.ndarray  # [bins] mean prediction
    observed: np.ndarray  # [bins] mean return
    count: np.ndarray  # [bins]
    error: float  # |predicted - observed|, mean over the rows of the bins: the expected calibration error
    bias: float  # mean of prediction - return: above 0 is over-estimation
    mean_squared: float  # mean (prediction - return)^2
    explained: float  # 1 - mean_squared / variance of the returns: 0 for a constant, 1 for an oracle


def calibration(value: np.ndarray, returns: np.ndarray, bins: int = 10) -> Calibration:
    """Calibration of `value` against Monte-Carlo `returns`, both [N], N >= 1."""
    groups = np.array_split(np.argsort(value, kind='stable'), min(bins, len(value)))
    predicted = np.array([value[g].mean() for g in groups])
    observed = np.array([returns[g].mean() for g in groups])
    count = np.array([len(g) for g in groups])
    mean_squared = float(np.square(value - returns).mean())
    return Calibration(
        predicted, observed, count,
        error=float((np.abs(predicted - observed) * count).sum() / count.sum()), bias=float((value - returns).mean()),
        mean_squared=mean_squared, explained=1.0 - mean_squared / max(float(returns.var()), 1e-12),
    )  # fmt: skip


def neighbours(
    state: np.ndarray, episode: np.ndarray, returns: np.ndarray, nearest: int = 5, gap: float = 0.2, step: np.ndarray | None = None,
    within: int = 8,
) -> np.ndarray:  # fmt: skip
    """Pairs of near states of different episodes whose returns differ by more than `gap`: rows [M,2], the better one first.

    `state` [N,F] is standardised here; each row is paired with its `nearest` of other episodes (those at most `within` elapsed steps
    apart where `step` [N] is given: returns fall with time in every episode). A pair found from both sides counts once.
    """
    count = len(state)
    if count < 2:
        return np.zeros((0, 2), np.int64)
    scaled = (state - state.mean(0)) / np.maximum(state.std(0), 1e-6)
    square = np.square(scaled).sum(1)
    distance = square[:, None] + square[None] - 2 * scaled @ scaled.T
    excluded = episode[:, None] == episode[None]
    if step is not None:
        excluded |= np.abs(step[:, None] - step[None]) > within
    distance = np.where(excluded, np.inf, distance)
    chosen = np.argsort(distance, axis=1, kind='stable')[:, : min(nearest, count - 1)]
    rows = np.repeat(np.arange(count), chosen.shape[1])
    pairs = np.stack([rows, chosen.reshape(-1)], 1)
    pairs = np.unique(np.sort(pairs[np.isfinite(distance[pairs[:, 0], pairs[:, 1]])], axis=1), axis=0)
    difference = returns[pairs[:, 0]] - returns[pairs[:, 1]]
    pairs = np.where((difference < 0)[:, None], pairs[:, ::-1], pairs)
    return pairs[np.abs(difference) > gap]


def pair_accuracy(better: np.ndarray, worse: np.ndarray) -> float | None:
    """Share of pairs [M] whose better one scores higher, ties half; None without pairs."""
    if len(better) == 0:
        return None
    return float(((better > worse) + 0.5 * (better == worse)).mean())


def action_ranking(q: np.ndarray, distance: np.ndarray) -> dict[str, float | None]:
    """How often Q prefers the action that turned out better, beside "nearer to the policy's own chunk is better".

    q [M,2,2]: in the state of the better row (0) or the worse (1), of the better row's action (0) or the worse's (1): each pair is
    judged within one state, so that a critic that only ranks states stays at one half. distance [M,2]: of each row's executed chunk
    to the chunk that the policy proposed there.
    """
    return {
        'pairs': float(len(q)),
        'q': pair_accuracy(q[:, :, 0].mean(1), q[:, :, 1].mean(1)),
        'nearer': pair_accuracy(-distance[:, 0], -distance[:, 1]),
    }
