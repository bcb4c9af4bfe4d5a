"""Likelihood of an action chunk under an action expert, for policy improvement (method, section 3).

The marginal over the inference noise ξ has no closed form. Given the noise, a policy is pi(a|s,ξ) with the expert's `mean` f(s,ξ) in the
middle, so that a ratio of two policies compares them at the same noise. Its density falls as behaviour cloning's loss rises: a Laplace
density with a rounded peak, p(e) ~ exp(-smooth_l1(e; ROUNDING) / SCALE). A normal density pulls hardest at what lies far away, the other
ways of doing a task, and ends between them. Values are averaged, not summed, over the joints: the ratio's spread then does not
depend on how many there are.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from bora_policy.expert import ROUNDING

SCALE = 0.25  # of the density, normalised
NORMALISER = (  # integral of exp(-smooth_l1 / SCALE) over all errors
    math.sqrt(2 * math.pi * ROUNDING * SCALE) * math.erf(math.sqrt(ROUNDING / (2 * SCALE)))
    + 2 * SCALE * math.exp(-ROUNDING / (2 * SCALE))
)  # fmt: skip


def log_prob(mean: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """log pi(a|s,ξ) of each step [B,k], the average over joints, of normalised actions [B,k,D] with mean [B,k,D]."""
    error = nn.functional.smooth_l1_loss(mean, action, reduction='none', beta=ROUNDING)
    return -error.mean(-1) / SCALE - math.log(NORMALISER)


def log_ratio(mean_new: torch.Tensor, mean_old: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """log pi_new(a|s,ξ) - log pi_old(a|s,ξ) of each step [B,k]; all [B,k,D]. The old policy is a constant.

    It is exactly 0 where both means agree.
    """
    return log_prob(mean_new, action) - log_prob(mean_old.detach(), action)
