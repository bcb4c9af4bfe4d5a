"""Likelihood of an action chunk under an action expert, for policy improvement (method, section 3).

The marginal over the inference noise ξ has no closed form. Given the noise, a policy is pi(a|s,ξ) = N(f(s,ξ), s_pi²) with `f` the expert's
`mean`, so that a ratio of two policies compares them at the same noise. Values are averaged, not summed, over the joints: the ratio's
spread then does not depend on how many there are.
"""

from __future__ import annotations

import math

import torch

DEVIATION = 0.5  # s_pi, normalised


def log_prob(mean: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """log pi(a|s,ξ) of each step [B,k], the average over joints, of normalised actions [B,k,D] with mean [B,k,D]."""
    scaled = (action - mean) / DEVIATION
    return -0.5 * scaled.square().mean(-1) - math.log(DEVIATION) - 0.5 * math.log(2 * math.pi)


def log_ratio(mean_new: torch.Tensor, mean_old: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """log pi_new(a|s,ξ) - log pi_old(a|s,ξ) of each step [B,k]; all [B,k,D]. The old policy is a constant.

    Written as one product, it is exactly 0 where both means agree.
    """
    mean_old = mean_old.detach()
    return ((mean_new - mean_old) * (2 * action - mean_new - mean_old)).mean(-1) / (2 * DEVIATION**2)
