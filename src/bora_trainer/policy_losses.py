"""Terms of the offline actor's loss (method, section 5). Each loss returns (scalar, info); advantages and gate beside them.

Shapes: B batch, k chunk steps, D joints. Actions are normalised. `mask` [B,k] is 1 on valid steps, a prefix of each row; what stands
beyond it never reaches a loss or a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bora_critic.losses import Info, masked_mean

Sum = Callable[[Tensor], Tensor]  # adds a tensor over all processes; the identity in one process


def clean(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [B,k] with 0 beyond the mask: a NaN there times 0 would still be a NaN."""
    return torch.where(mask.bool(), values, torch.zeros_like(values))


def hold_last(chunk: Tensor, mask: Tensor) -> Tensor:
    """Chunk [B,k,D] whose steps beyond the mask [B,k] repeat the last valid one."""
    steps = torch.arange(chunk.shape[1], device=chunk.device)
    last = (mask.bool().sum(1, keepdim=True) - 1).clamp(min=0)
    index = torch.minimum(steps.expand(len(chunk), -1), last)
    return chunk.gather(1, index.unsqueeze(-1).expand_as(chunk))


def gae(q: Tensor, v: Tensor, done: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Raw advantages [B,k]: delta_i = q_i - v_i, A_i = delta_i + gamma lam (1-d_i) m_{i+1} A_{i+1}; 0 beyond the mask."""
    delta = clean(q - v, mask).detach()
    carried = gamma * lam * (1 - done.to(delta.dtype)) * mask.to(delta.dtype)
    advantage = torch.zeros_like(delta)
    following = torch.zeros_like(delta[:, 0])
    for i in range(delta.shape[1] - 1, -1, -1):
        following = delta[:, i] + carried[:, i] * following  # beyond the mask both factors are 0, hence m_{i+1}
        advantage[:, i] = following
    return advantage


def identity(values: Tensor) -> Tensor:
    """The sum over all processes where there is one."""
    return values


def weigh_advantages(raw: Tensor, mask: Tensor, limit: float, negative: float = 1.0, total: Sum = identity) -> Tensor:
    """Advantages divided by their standard deviation, not centred, then clipped to ±limit. The deviation is that of all processes.

    Of those below 0 the share `negative` is kept. On a fixed data set nothing but cloning draws a policy back that is pushed away from an
    action: it ends where there are no data. A small share makes worse actions count less; with 0 the better ones only count more.
    """
    count, first, second = total(torch.stack([mask.sum().to(raw.dtype), raw.sum(), raw.square().sum()]))
    count = count.clamp(min=1)
    deviation = (second / count - (first / count).square()).clamp(min=0).sqrt()
    scaled = (raw / deviation.clamp(min=1e-6)).clamp(-limit, limit)
    return torch.where(scaled < 0, negative * scaled, scaled)


def mean_advantage(raw: Tensor, mask: Tensor, total: Sum = identity) -> float:
    """Raw masked mean over the joint batch of all processes: what the gate looks at."""
    value, count = total(torch.stack([clean(raw, mask).sum(), mask.sum().to(raw.dtype)]))
    return float(value / count.clamp(min=1))


def ppo_loss(log_ratio: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Info]:
    """Masked mean of -min(ratio A, clip(ratio, 1±clip) A) on the data's own actions.

    log_ratio [B,k] is log pi_new - log pi_old of the action at the same noise; advantage [B,k] is a constant.
    """
    ratio = clean(log_ratio, mask).exp()
    advantage = clean(advantage, mask).detach()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    loss = -masked_mean(surrogate, mask)
    with torch.no_grad():
        outside = ((ratio - 1).abs() > clip).to(ratio.dtype)
        info = {
            'ppo_loss': loss.item(),
            'clip_fraction': masked_mean(outside, mask).item(),
            'ratio_mean': masked_mean(ratio, mask).item(),
        }
    return loss, info


def bc_loss(
    expert: nn.Module, tokens: Tensor, proprio: Tensor, chunk: Tensor, mask: Tensor, sigma: Tensor, noise: Tensor
) -> tuple[Tensor, Info]:
    """Behaviour cloning of the intended chunk [B,k,D] by the action expert, consistency or diffusion: its own rule, masked.

    The expert reads the chunk through a few spline values, so that the steps beyond the mask would enter: they repeat the last valid one.
    """
    loss, _ = expert.loss(tokens, proprio, hold_last(chunk, mask), mask.to(chunk.dtype), sigma, noise)
    return loss, {'bc_loss': loss.item()}
