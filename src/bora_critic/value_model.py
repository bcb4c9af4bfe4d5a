"""What a trainer needs of a critic, whichever observation it reads: the VLM's tokens (`Critic`) or pixels (`DecoupledCritic`)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

Observation = Mapping[str, Tensor]  # 'tokens' float [B,T,W]; 'images' uint8 [B,C,H,W,3]; a model reads the one it knows
Model = TypeVar('Model', bound=nn.Module)


class ValueModel(Protocol):
    """Q and V over features of an observation. Positions are normalised; `steps` [M] are chunk steps, all k where None."""

    def features(self, observation: Observation) -> Tensor:
        """[B,T,W], computed once an update for `q` and `v`. No gradient leaves the model through it."""
        ...

    def q(self, features: Tensor, s: Tensor, a: Tensor, steps: Tensor | None = None) -> Tensor:
        """q_i(z, s, a_0..a_i) [E,B,M]. s [B,D], a [B,k,D]."""
        ...

    def v(self, features: Tensor, s: Tensor, steps: Tensor | None = None) -> Tensor:
        """v(z, s, i) [B,M]."""
        ...


def target_of(model: Model) -> Model:
    """A copy that takes no gradient, to be moved by `follow`."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, model: nn.Module, rate: float) -> None:
    """target <- target + rate (model - target), over all parameters."""
    torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), rate)
