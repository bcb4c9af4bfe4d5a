"""Targets of the critic (method, section 4). Steps beyond the mask never influence a target of a valid step.

Shapes: B batch, k chunk steps, M evaluated steps. Rewards and values in units of return.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def last_valid(mask: Tensor) -> Tensor:
    """Boolean [B,k], true at step n-1 of each row: the mask is a prefix of n ones."""
    mask = mask.bool()
    return mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)


def shifted(reward: Tensor, done: Tensor, last: Tensor, v_after: Tensor, v_next: Tensor, gamma: float) -> Tensor:
    """y_i = r_i + gamma (1-d_i) v(z,s,i+1), and v(z',s',0) in the place of the successor at the last valid step.

    reward, done, last, v_after: [B,M], `v_after` at step i+1 of the same state; v_next [B].
    """
    successor = torch.where(last.bool(), v_next.unsqueeze(1), v_after)
    return reward + gamma * (1 - done.to(reward.dtype)) * successor


def discounts(k: int, gamma: float, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Upper triangular [k,k] with gamma^(j-i) for j >= i."""
    steps = torch.arange(k, device=device)
    distance = steps.unsqueeze(0) - steps.unsqueeze(1)
    return torch.where(distance >= 0, torch.pow(torch.tensor(gamma, dtype=dtype, device=device), distance.clamp(min=0)), 0.0)


def chunk(reward: Tensor, done: Tensor, mask: Tensor, v_next: Tensor, gamma: float) -> Tensor:
    """y_i = sum_{j=i}^{n-1} gamma^(j-i) r_j + gamma^(n-i) (1-d_{n-1}) v(z',s',0); 0 beyond the mask. All [B,k] but v_next [B]."""
    valid, k = mask.bool(), reward.shape[1]
    zero = torch.zeros((), dtype=reward.dtype, device=reward.device)
    mask = valid.to(reward.dtype)
    sums = torch.where(valid, reward, zero) @ discounts(k, gamma, reward.dtype, reward.device).T  # a NaN times 0 would still be a NaN
    remaining = (mask.sum(1, keepdim=True) - torch.arange(k, device=reward.device)).clamp(min=0)
    terminal = torch.where(valid, done.to(reward.dtype), zero).amax(1, keepdim=True)
    tail = torch.pow(torch.tensor(gamma, dtype=reward.dtype, device=reward.device), remaining)
    return mask * (sums + tail * (1 - terminal) * v_next.unsqueeze(1))


@dataclass(frozen=True)
class Returns:
    """Monte-Carlo returns of transitions in the order given."""

    values: np.ndarray  # float32 [N,k], discounted sum of rewards from step i to the end of the episode; 0 beyond the mask
    complete: np.ndarray  # bool [N], whether the chain of transitions reached the end of the episode


def monte_carlo(
    stamp_ns: np.ndarray,
    reward: np.ndarray,
    done: np.ndarray,
    mask: np.ndarray,
    truncated: np.ndarray,
    dt: float,
    gamma: float,
    human: np.ndarray | None = None,
) -> Returns:
    """Returns of ONE episode's overlapping transitions [N], chained: what follows transition t of n steps is the one n steps later.

    The end of an episode is a terminal, or a truncation that no later transition follows: running out of time counts as earning
    nothing more, which keeps the value of a failing state low. A hold in mid-episode leaves its chain incomplete: those rows have no
    return and must be bootstrapped. With `human` [N,k] a takeover ends the policy's return: what the person earns after the policy's last
    step is not the policy's, or its failing moves would be paid with the rescue.
    """
    count, k = reward.shape
    values, complete = np.zeros((count, k), np.float32), np.zeros(count, bool)
    if count == 0:
        return Returns(values, complete)
    grid = np.rint((stamp_ns - stamp_ns.min()) / (dt * 1e9)).astype(np.int64)
    row_at = {int(g): i for i, g in enumerate(grid)}
    ends = grid + mask.sum(1).astype(np.int64)
    human = np.zeros((count, k), bool) if human is None else human
    for row in np.argsort(-grid, kind='stable'):
        n = int(mask[row].sum())
        if n == 0:
            continue
        following = row_at.get(int(ends[row]))
        person = human[row, :n]
        if done[row, :n].any() or (truncated[row] and ends[row] > grid.max()):
            tail, next_human, complete[row] = 0.0, False, True
        elif truncated[row] or following is None or not complete[following]:
            continue
        else:
            tail, next_human, complete[row] = float(values[following, 0]), bool(human[following, 0]), True
        for i in range(n - 1, -1, -1):
            taken_over = (person[i + 1] if i + 1 < n else next_human) and not person[i]
            tail = float(reward[row, i]) + (0.0 if taken_over else gamma * tail)
            values[row, i] = tail
    return Returns(values, complete)
