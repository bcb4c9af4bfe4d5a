"""Q and V over features of the observation, proprioception and the action chunk. Every input is normalised; every output is per chunk step.

Q is the value of the state plus what the action adds: q_i = stop-grad(v_i) + A(z, s, a_0..a_i, i), both of the same update. Networks that
share nothing fit two different functions of the state, and their difference, which policy improvement needs, is mostly that disagreement.
Here it is the output of a network that has nothing but the action's effect to explain.

Shapes: B batch, T tokens of width W, P proprioception, k chunk steps, D joints, M evaluated steps (a subset of the k), E ensemble.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers += [nn.Linear(a, b)] + ([nn.SiLU()] if i < len(sizes) - 2 else [])
    return nn.Sequential(*layers)


class StateEncoder(nn.Module):
    """Tokens z [B,T,W] and proprioception s [B,P] -> context [B,H]. With `detach` no gradient reaches the tokens."""

    def __init__(self, tokens: int, width: int, proprio: int, hidden: int, detach: bool):
        super().__init__()
        self.detach = detach
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # tokens of different cameras differ in scale
        self.tokens = nn.Linear(tokens * width, hidden)
        self.proprio = nn.Linear(proprio, hidden)
        self.mix = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())

    def forward(self, z: Tensor, s: Tensor) -> Tensor:
        return self.mix(self.tokens(self.norm(z.detach() if self.detach else z).flatten(1)) + self.proprio(s))


class AdvantageNetwork(nn.Module):
    """A(z, s, a_0..a_i, i) [B,M]. Causal: step i sees a running mean over a_0..a_i and a_i itself, never a later action.

    A running mean of position-aware step features costs one pass over the chunk, where a recurrent net would cost k passes.
    """

    def __init__(
        self, tokens: int, width: int, proprio: int, joints: int, k: int, hidden: int = 128, step_hidden: int = 64, detach: bool = True
    ):
        super().__init__()
        if proprio != joints:
            raise ValueError(f'advantage: proprioception [{proprio}] and joints [{joints}] must be the same joints')
        self.k = k
        self.state = StateEncoder(tokens, width, proprio, hidden, detach)
        self.position = nn.Parameter(0.1 * torch.randn(k, step_hidden))
        self.step = nn.Linear(2 * joints, step_hidden)
        self.condition = nn.Linear(hidden, step_hidden, bias=False)
        self.memory = mlp([step_hidden, step_hidden])
        self.head_state = nn.Linear(hidden, hidden, bias=False)
        self.head_steps = nn.Linear(2 * step_hidden, hidden)
        self.out = mlp([hidden, hidden, 1])

    def forward(self, z: Tensor, s: Tensor, a: Tensor, steps: Tensor | None = None) -> Tensor:
        """z [B,T,W], s [B,P], a [B,k,D] -> the advantage at `steps` [M] (all k where None): [B,M]."""
        context = self.state(z, s).unsqueeze(1)  # once a sample, not once a step
        own = torch.nn.functional.silu(self.step(torch.cat([a, a - s.unsqueeze(1)], -1)) + self.condition(context) + self.position)
        count = torch.arange(1, self.k + 1, device=a.device, dtype=a.dtype).unsqueeze(-1)
        past = torch.cumsum(self.memory(own), 1) / count
        if steps is not None:
            own, past = own[:, steps], past[:, steps]
        return self.out(torch.nn.functional.silu(self.head_state(context) + self.head_steps(torch.cat([past, own], -1)))).squeeze(-1)


class VNetwork(nn.Module):
    """v(z, s, i) [B,M]; the step i enters through a learned position embedding."""

    def __init__(self, tokens: int, width: int, proprio: int, k: int, hidden: int = 128, detach: bool = True):
        super().__init__()
        self.k = k
        self.state = StateEncoder(tokens, width, proprio, hidden, detach)
        self.position = nn.Parameter(0.1 * torch.randn(k, hidden))
        self.out = mlp([hidden, hidden, 1])

    def forward(self, z: Tensor, s: Tensor, steps: Tensor | None = None) -> Tensor:
        """z [B,T,W], s [B,P] -> v at `steps` [M] (all k where None): [B,M]."""
        position = self.position if steps is None else self.position[steps]
        return self.out(self.state(z, s).unsqueeze(1) + position).squeeze(-1)


class ValueHeads(nn.Module):
    """An ensemble of E advantages on one V. With `detach` no gradient reaches the features."""

    def __init__(self, ensemble: int, tokens: int, width: int, joints: int, k: int, hidden: int = 128, detach: bool = True):
        super().__init__()
        sizes = (tokens, width, joints)
        self.advantage = nn.ModuleList(AdvantageNetwork(*sizes, joints, k, hidden=hidden, detach=detach) for _ in range(ensemble))
        self.v = VNetwork(*sizes, k, hidden=hidden, detach=detach)

    def q(self, z: Tensor, s: Tensor, a: Tensor, steps: Tensor | None = None) -> Tensor:
        """q_i(z, s, a_0..a_i) [E,B,M]: its loss moves the advantages, V has its own. z [B,T,W], s [B,D], a [B,k,D]; steps [M] or all k."""
        return self.v(z, s, steps).detach() + torch.stack([member(z, s, a, steps) for member in self.advantage])
