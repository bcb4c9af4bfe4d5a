"""The diffusion expert: the imitation baseline's action head (method, section 3), over the same spline values as the consistency policy.

Variance-preserving diffusion with the cosine schedule of Nichol and Dhariwal (2021), velocity prediction of Salimans and Ho (2022),
deterministic DDIM sampling of Song et al. (2021). The last level is pure noise, as at inference (Lin et al., 2024).
"""

from __future__ import annotations

import math

import torch

from bora_policy.expert import SplineExpert

OFFSET = 0.008  # keeps the first levels from having next to no noise
LEVELS = 100  # training draws from so many, evenly spaced in time


def schedule(time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(α, σ) of the noised values x = α x_0 + σ ε at `time` in 0..1; α² + σ² = 1, at 1 nothing but noise is left."""
    angle = (time + OFFSET) / (1 + OFFSET) * (math.pi / 2)
    alpha = (torch.cos(angle) / math.cos(OFFSET / (1 + OFFSET) * math.pi / 2)).clamp(0.0, 1.0)
    alpha = torch.where(time >= 1, torch.zeros_like(alpha), alpha)  # not the rounding error of cos(π/2)
    return alpha, (1 - alpha.square()).sqrt()


class DiffusionExpert(SplineExpert):
    """Chunk from (z, s): the network predicts the velocity v = α ε - σ x_0 of noised spline values x [B,K,D] at a time in 0..1."""

    STEPS = (10, LEVELS)  # denoising steps: the usual number, and the most that make sense

    def draw_levels(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Times [batch] in 1/LEVELS..1 to train at."""
        return (1 + torch.randint(LEVELS, (batch,), generator=generator)).float() / LEVELS

    def velocity(self, x: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        """v [B,K,D] of noised spline values x [B,K,D] at `time` [B]; tokens [B,T,W], proprio [B,D] normalised."""
        return self.network(x.flatten(1), time[:, None], tokens, proprio).view_as(x)

    def loss(
        self, tokens: torch.Tensor, proprio: torch.Tensor, chunk: torch.Tensor, mask: torch.Tensor, time: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Behaviour cloning of a chunk [B,k,D] noised at `time` [B]: squared velocity error over the chunk's valid steps, `mask` [B,k]."""
        alpha, sigma = (c[:, None, None] for c in schedule(time))
        clean = self.values(chunk)
        target = alpha * noise - sigma * clean
        error = self.chunk(self.velocity(alpha * clean + sigma * noise, time, tokens, proprio) - target).square().mean(-1)
        loss = (error * mask).sum() / mask.sum().clamp(min=1)
        return loss, {'bc': float(loss.detach())}

    def mean(self, tokens: torch.Tensor, proprio: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """f(s, ξ), normalised [B,k,D]: the chunk predicted at the noisiest level, where x is `noise` ξ [B,K,D] itself; differentiable."""
        time = torch.ones(len(noise), device=noise.device, dtype=noise.dtype)
        return self.chunk(-self.velocity(noise, time, tokens, proprio))

    @torch.no_grad()
    def sample(self, tokens: torch.Tensor, proprio: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised chunk [B,k,D] in `noise.shape[0]` DDIM steps; of noise [n,B,K,D] the first draw is the start, the rest is unused."""
        x = noise[0]
        times = torch.linspace(1.0, 0.0, len(noise) + 1, device=x.device)
        for now, then in zip(times[:-1], times[1:], strict=True):
            alpha, sigma = schedule(now)
            velocity = self.velocity(x, now.expand(len(x)), tokens, proprio)
            clean, error = alpha * x - sigma * velocity, sigma * x + alpha * velocity
            alpha, sigma = schedule(then)
            x = alpha * clean + sigma * error
        return self.chunk(x)
