"""The trainer's own gate: weights that look wrong are never published."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bora_critic.losses import Info


@dataclass(frozen=True)
class PublishGate:
    """Limits on what the learner saw since the last publication."""

    largest_gradient: float = 1e3  # before clipping
    value_factor: float = 5.0  # |q| against the width of the range of returns
    largest_saturation: float = 0.6  # share of the residual at its bound

    def reason(self, module: nn.Module, info: Info, return_range: tuple[float, float]) -> str:
        """Why `module` must not be published, empty when it may. `info`: metrics of the newest update."""
        for name, tensor in module.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                return f'tensor "{name}" is not finite'
        width = max(return_range[1] - return_range[0], 1e-3)
        limits = {
            'actor_gradient': self.largest_gradient,
            'critic_gradient': self.largest_gradient,
            'q_mean': self.value_factor * width,
            'saturation': self.largest_saturation,
        }
        for name, limit in limits.items():
            value = info.get(name, 0.0)
            if not abs(value) <= limit:  # also true for NaN
                return f'{name} is {value:.4g}, limit {limit:.4g}'
        return ''
