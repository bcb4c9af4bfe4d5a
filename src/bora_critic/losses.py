"""Losses of the critic: each returns (scalar, info). Means are over valid entries only."""

from __future__ import annotations

import torch
from torch import Tensor

Info = dict[str, float]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (broadcast to its shape) is non-zero, weighted by it; 0 where nothing is valid."""
    weight = mask.to(values.dtype).expand_as(values)
    return torch.where(weight > 0, values * weight, torch.zeros_like(values)).sum() / weight.sum().clamp(min=1e-8)


def masked_error(values: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """values - target, 0 where `mask` (broadcast) is 0.

    The target is replaced there before the difference is taken: a NaN in the padding multiplied by 0 would still be a NaN in the gradient.
    """
    target = target.detach().expand_as(values)
    return values - torch.where(mask.expand_as(values) > 0, target, values.detach())


def valid_actions(a: Tensor, mask: Tensor) -> Tensor:
    """Chunk a [B,k,D] with 0 beyond the mask [B,k]: no valid q_i reads what stands there, but a NaN would reach its weights' gradient."""
    return torch.where(mask.bool().unsqueeze(-1), a, torch.zeros_like(a))


def critic_loss(q: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Info]:
    """Masked mean (q_i - y_i)^2 over the ensemble. q [E,B,M]; target, mask [B,M]."""
    error = masked_error(q, target, mask)
    loss = masked_mean(error.square(), mask)
    return loss, {
        'critic_loss': loss.item(),
        'q_mean': masked_mean(q.detach(), mask).item(),
        'target_mean': masked_mean(target.detach(), mask).item(),
        'td_error': masked_mean(error.detach().abs(), mask).item(),
    }


def value_loss(v: Tensor, target: Tensor, mask: Tensor, expectile: float) -> tuple[Tensor, Info]:
    """Masked mean |tau - 1[y-v<0]| (y-v)^2; tau = 0.5 is half the mean squared error. All [B,M]."""
    error = -masked_error(v, target, mask)
    weight = torch.where(error < 0, 1 - expectile, expectile)
    loss = masked_mean(weight * error.square(), mask)
    return loss, {'value_loss': loss.item(), 'v_mean': masked_mean(v.detach(), mask).item()}


def inheritance_loss(q: Tensor, q_offline: Tensor, mask: Tensor) -> tuple[Tensor, Info]:
    """Masked mean (q_phi - q_offline)^2 on offline data: keeps the inherited critic near what it knew. q [E,B,M], mask [B,M]."""
    loss = masked_mean(masked_error(q, q_offline, mask).square(), mask)
    return loss, {'inheritance_loss': loss.item()}
