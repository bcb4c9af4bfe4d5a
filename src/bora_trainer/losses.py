"""Terms of the residual actor's loss (method, section 6). Each returns (scalar, info); the learner adds them with their weights.

Shapes: B batch, k chunk steps, D joints, M evaluated steps. Actions are normalised. `mask` and weights [B,k] count valid steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bora_critic.losses import Info, masked_error, masked_mean


def chunk_value(q: Tensor, mask: Tensor) -> Tensor:
    """Q(z,s,a) [B] = masked mean of q_i [B,M] over the valid steps; 0 where a row has none."""
    weight = mask.to(q.dtype)
    return torch.where(weight > 0, q * weight, torch.zeros_like(q)).sum(1) / weight.sum(1).clamp(min=1e-8)


def q_loss(value: Tensor, rows: Tensor) -> tuple[Tensor, Info]:
    """-Q(z,s,a_final), mean over `rows` [B]. value [B]."""
    loss = -masked_mean(value, rows)
    return loss, {'q_final': -loss.item()}


def improve_loss(value_base: Tensor, value_final: Tensor, margin: float, rows: Tensor) -> tuple[Tensor, Info]:
    """Mean over `rows` of max(0, Q(z,a_base) + margin - Q(z,a_final)): the correction must not lose value. The base is a constant."""
    loss = masked_mean(torch.relu(value_base.detach() + margin - value_final), rows)
    return loss, {'improve_loss': loss.item()}


def bc_loss(a_final: Tensor, a_target: Tensor, weight: Tensor) -> tuple[Tensor, Info]:
    """Weighted mean squared distance to the target over steps [B,k] and joints."""
    loss = masked_mean(masked_error(a_final, a_target, weight.unsqueeze(-1)).square().mean(-1), weight)
    return loss, {'bc_loss': loss.item(), 'bc_steps': float((weight > 0).sum())}


def anchor_loss(a_final: Tensor, a_vla: Tensor, mask: Tensor) -> tuple[Tensor, Info]:
    """Mean squared distance to the VLA's own chunk."""
    loss = masked_mean(masked_error(a_final, a_vla, mask.unsqueeze(-1)).square().mean(-1), mask)
    return loss, {'anchor_loss': loss.item()}


def l2_loss(a_res: Tensor, mask: Tensor) -> tuple[Tensor, Info]:
    """Mean square of the residual."""
    loss = masked_mean(a_res.square().mean(-1), mask)
    return loss, {'l2_loss': loss.item()}


def within_reach(a_target: Tensor, a_base: Tensor, reach: Tensor, beyond: float) -> tuple[Tensor, Tensor]:
    """Targets clipped to what the residual can do, and which steps to keep.

    `reach` [D] is alpha times the residual's bound. A step is dropped where a joint lies more than `beyond` reaches from the base: a
    target far out of reach only saturates the actor. Returns (a_target clipped [B,k,D], keep bool [B,k]).
    """
    offset = a_target - a_base
    keep = (offset.abs() <= beyond * reach).all(-1)
    return a_base + torch.maximum(torch.minimum(offset, reach), -reach), keep


def own_weight(advantage: Tensor, value: Tensor, temperature: float, ceiling: float, gate: float, gate_width: float) -> Tensor:
    """Weight [B] of the policy's own executed steps: g + (1-g) min(exp(advantage/temperature), ceiling).

    g = sigmoid((value - gate)/gate_width): where the state's value is high, what was executed is kept as it is (weight 1); where it is
    low, only what turned out better than expected is. Advantage and value [B] in units of return.
    """
    held = torch.sigmoid((value - gate) / gate_width)
    return held + (1 - held) * torch.exp((advantage / temperature).clamp(max=20.0)).clamp(max=ceiling)


def literal_weight(decided: Tensor, human: Tensor, beta: Tensor, offline: Tensor, success: Tensor) -> Tensor:
    """Imitation weight [B,k] of the paper: online human steps weighted by beta, all steps of successful offline episodes."""
    demonstrated = (offline & success).unsqueeze(1).to(beta.dtype).expand_as(beta)
    return decided * torch.where(offline.unsqueeze(1), demonstrated, human * beta)


def supported_weight(
    decided: Tensor, human: Tensor, beta: Tensor, offline: Tensor, success: Tensor, own: Tensor, demonstrations: float = 1.0
) -> Tensor:
    """Imitation weight [B,k] of executed steps: as `literal_weight`, demonstrations by their share, online own steps by `own` [B].

    Own steps that a takeover follows within the chunk are what the person stopped: they weigh nothing.
    """
    stopped = human.flip(1).cummax(1).values.flip(1) & ~human
    online = torch.where(human, beta, own.unsqueeze(1) * ~stopped)
    demonstrated = demonstrations * (offline & success).unsqueeze(1).to(beta.dtype).expand_as(beta)
    return decided * torch.where(offline.unsqueeze(1), demonstrated, online)


def aligned_weight(matched: Tensor, human: Tensor, offline: Tensor, own: Tensor) -> Tensor:
    """Imitation weight [B,k] of targets in the proposal's own time: 1 for a person's chunks, `own` [B] for the policy's, 0 offline.

    Chunks in which a takeover begins hold what the person stopped and what they did instead, at steps that no longer tell which: 0.
    """
    person = human[:, 0]
    row = torch.where(person, torch.ones_like(own), own * ~human.any(1))
    return matched * (row * ~offline).unsqueeze(1)
