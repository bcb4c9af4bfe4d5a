"""Executed motion in the proposal's own time, for the residual to imitate where a person went and not when (ours; method, section 6).

A person who takes over lifts, waits or hurries: at equal step numbers the difference to the proposal is mostly one of timing, several
times larger than the correction itself, and a residual that imitates it moves early or late. Dynamic time warping removes the timing.
"""

from __future__ import annotations

import numpy as np

SHORTEST = 0.25  # share of the proposal that a match covers at least


def align(base: np.ndarray, executed: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(target [k,D] rad, matched bool [k]): for each step of `base` [k,D] the mean of the executed steps [n,D] that match it.

    Dynamic time warping from the first steps of both; either may go on after the other has ended, whichever end fits best. `scale` [D]
    rad weighs the joints. Steps that nothing matches keep the base's position.
    """
    k, n = len(base), len(executed)
    target, matched = np.array(base, dtype=np.float64), np.zeros(k, dtype=bool)
    if n == 0:
        return target, matched
    cost = _accumulate(np.square((base[:, None] - executed[None]) / scale).sum(-1))
    i, j = _end(cost, max(round(SHORTEST * k), 1))
    sums, counts = np.zeros_like(target), np.zeros(k)
    while True:
        sums[i] += executed[j]
        counts[i] += 1
        if i == 0 and j == 0:
            break
        i, j = _before(cost, i, j)
    matched = counts > 0
    target[matched] = sums[matched] / counts[matched, None]
    return target, matched


def _accumulate(distance: np.ndarray) -> np.ndarray:
    """Cost [k,n] of the best path from (0, 0) to each pair."""
    k, n = distance.shape
    rows = distance.tolist()  # element access on arrays would take most of the time
    cost = [[0.0] * n for _ in range(k)]
    for i, row in enumerate(rows):
        above, own = cost[i - 1], cost[i]
        for j, d in enumerate(row):
            if i and j:
                own[j] = d + min(above[j - 1], above[j], own[j - 1])
            else:
                own[j] = d + (above[j] if i else own[j - 1] if j else 0.0)
    return np.array(cost)


def _end(cost: np.ndarray, shortest: int) -> tuple[int, int]:
    """Last pair of the match: the cheapest per step among those that use up either side and cover `shortest` steps of the base."""
    k, n = cost.shape
    ends = [(k - 1, j) for j in range(n)] + [(i, n - 1) for i in range(shortest - 1, k - 1)]
    return min(ends, key=lambda e: cost[e] / (e[0] + e[1] + 2))


def _before(cost: np.ndarray, i: int, j: int) -> tuple[int, int]:
    steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
    return min((s for s in steps if s[0] >= 0 and s[1] >= 0), key=lambda s: cost[s])
