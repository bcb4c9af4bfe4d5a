"""Action experts over the spline values of a normalised chunk: what they share, and the consistency policy (method, section 3).

An expert is called the same way whichever it is: `draw_levels` and `loss` to train, `sample` to act, `mean` for the likelihood.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from bora_policy.basis import projection, spline_basis

SIGMA_MIN, SIGMA_MAX, RHO, SIGMA_DATA = 0.002, 80.0, 7.0, 1.0
# The skip lets through what the input still tells beside z and s. Those already fix a chunk to about 0.2 of the data's spread; with the
# data's own spread here, most of an intermediate level's noise would pass, and two steps would be far worse than one.
SIGMA_GIVEN = 0.2
TRAINING_LEVELS = 40
ROUNDING = 0.1  # normalised error below which cloning's loss is a square


def karras(levels: int) -> torch.Tensor:
    """Noise levels [levels], from σ_max down to σ_min."""
    ramp = torch.linspace(0.0, 1.0, levels, dtype=torch.float64)
    return (SIGMA_MAX ** (1 / RHO) + ramp * (SIGMA_MIN ** (1 / RHO) - SIGMA_MAX ** (1 / RHO))) ** RHO


def scalings(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(c_skip, c_out, c_in, c_noise) at noise level `sigma`; at σ_min the skip is the identity."""
    total = sigma**2 + SIGMA_DATA**2
    skip = SIGMA_GIVEN**2 / ((sigma - SIGMA_MIN) ** 2 + SIGMA_GIVEN**2)
    return skip, SIGMA_DATA * (sigma - SIGMA_MIN) / total.sqrt(), total.rsqrt(), 0.25 * sigma.log()


def sample_sigma(batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Training noise levels [batch]: half of them σ_max, where inference starts, the others spread over the Karras levels."""
    level = torch.randint(TRAINING_LEVELS, (batch,), generator=generator)
    level[: (batch + 1) // 2] = 0
    return karras(TRAINING_LEVELS)[level].float()


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.net(self.norm(x))


class SplineExpert(nn.Module):
    """What every expert shares: the spline, and a residual network that reads noised spline values [B,K,D] beside z and s."""

    def __init__(self, steps: int, joints: int, tokens: int, width: int, knots: int = 8, hidden: int = 256, blocks: int = 3):
        """`steps` k and `joints` D of a chunk; `tokens` T of width `width`; `knots` K spline values a joint."""
        super().__init__()
        self.steps, self.joints, self.knots = steps, joints, knots
        basis = spline_basis(steps, knots)
        self.register_buffer('basis', torch.tensor(basis, dtype=torch.float32), persistent=False)
        self.register_buffer('projection', torch.tensor(projection(basis), dtype=torch.float32), persistent=False)
        self.condition = nn.Sequential(nn.Linear(tokens * width + joints, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.noised = nn.Linear(knots * joints, hidden)
        self.level = nn.Sequential(nn.Linear(16, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.blocks = nn.ModuleList(_Block(hidden) for _ in range(blocks))
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, knots * joints))

    def network(self, flat: torch.Tensor, level: torch.Tensor, tokens: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        """Output [B,K*D] for flat noised values [B,K*D] at `level` [B,1]; tokens [B,T,W], proprio [B,D] normalised."""
        frequency = torch.exp(torch.linspace(0.0, math.log(32.0), 8, device=flat.device, dtype=flat.dtype))
        phase = level * frequency
        hidden = self.condition(torch.cat([tokens.flatten(1), proprio], dim=1)) + self.noised(flat)
        hidden = hidden + self.level(torch.cat([phase.sin(), phase.cos()], dim=1))
        for block in self.blocks:
            hidden = block(hidden)
        return self.out(hidden)

    def chunk(self, values: torch.Tensor) -> torch.Tensor:
        """Normalised chunk [B,k,D] of spline values [B,K,D]."""
        return torch.einsum('sk,bkd->bsd', self.basis, values)

    def values(self, chunk: torch.Tensor) -> torch.Tensor:
        """Spline values [B,K,D] that come nearest to a normalised chunk [B,k,D]."""
        return torch.einsum('ks,bsd->bkd', self.projection, chunk)


class ConsistencyExpert(SplineExpert):
    """Chunk from (z, s): f(x, σ) = c_skip x + c_out F(c_in x, c_noise, z, s), x the noised spline values [B,K,D]."""

    STEPS = (1, 8)  # denoising steps: the usual number, and the most that make sense

    def draw_levels(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Noise levels σ [batch] to train at."""
        return sample_sigma(batch, generator)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, tokens: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        """Clean spline values [B,K,D] from noised ones at `sigma` [B]; tokens [B,T,W], proprio [B,D] normalised."""
        skip, out, scale, noise = (c[:, None] for c in scalings(sigma))
        flat = x.flatten(1)
        return (skip * flat + out * self.network(scale * flat, noise, tokens, proprio)).view_as(x)

    def mean(self, tokens: torch.Tensor, proprio: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """f(s, ξ), normalised [B,k,D], in one step from `noise` ξ [B,K,D]; differentiable."""
        sigma = torch.full((len(noise),), SIGMA_MAX, device=noise.device, dtype=noise.dtype)
        return self.chunk(self.denoise(SIGMA_MAX * noise, sigma, tokens, proprio))

    def loss(
        self, tokens: torch.Tensor, proprio: torch.Tensor, chunk: torch.Tensor, mask: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Behaviour cloning: rebuild a chunk [B,k,D] noised at `sigma` [B]; smooth-L1 over its valid steps, `mask` [B,k]."""
        clean = self.values(chunk)
        rebuilt = self.chunk(self.denoise(clean + sigma[:, None, None] * noise, sigma, tokens, proprio))
        error = nn.functional.smooth_l1_loss(rebuilt, chunk, reduction='none', beta=ROUNDING).mean(-1)
        loss = (error * mask).sum() / mask.sum().clamp(min=1)
        return loss, {'bc': float(loss.detach())}

    @torch.no_grad()
    def sample(self, tokens: torch.Tensor, proprio: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised chunk [B,k,D] in `noise.shape[0]` denoising steps; noise [n,B,K,D], one draw a step."""
        count = len(noise)
        x = SIGMA_MAX * noise[0]
        values = x
        for i, sigma in enumerate(karras(count + 1)[:count].tolist()):
            if i:
                x = values + math.sqrt(sigma**2 - SIGMA_MIN**2) * noise[i]
            values = self.denoise(x, torch.full((len(x),), sigma, device=x.device), tokens, proprio)
        return self.chunk(values)
