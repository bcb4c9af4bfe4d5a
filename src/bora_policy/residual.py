"""The residual actor and its frozen chain (method, section 6).

    A_base,1 = A_vla,  A_base,n+1 = A_base,n + α_n a_res,n σ,  A_final = A_base + α a_res σ,  a_res = tanh(π(s, a_base, z)) b / σ

Lower-case values are normalised (z-scored per joint), upper-case ones are rad. Networks see normalised values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bora_common.errors import ConfigError, ModelError
from bora_common.types import ActionChunk, Normalizer, Proposal, StreamId, WeightsVersion
from bora_policy.basis import projection, spline_basis


@dataclass(frozen=True)
class ResidualSpec:
    """Sizes of a residual actor: k steps, D joints, T tokens of width W, `knots` spline values per joint, MLP width."""

    steps: int
    joints: int
    tokens: int
    width: int
    knots: int = 6
    hidden: int = 256

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or not 1 <= value <= 4096:
                raise ConfigError(f'residual actor: "{name}" is {value!r}, expected an integer in 1..4096')
        if self.knots > self.steps:
            raise ConfigError(f'residual actor: {self.knots} knots for {self.steps} steps')


class ResidualActor(nn.Module):
    """MLP from (z, s, a_base) to a bounded chunk correction; zero at the start."""

    def __init__(self, spec: ResidualSpec, bound: torch.Tensor | np.ndarray):
        """`bound` [D]: b / σ, the largest correction of each joint in normalised units."""
        super().__init__()
        self.spec = spec
        basis = spline_basis(spec.steps, spec.knots)
        self.register_buffer('basis', torch.tensor(basis, dtype=torch.float32), persistent=False)
        self.register_buffer('projection', torch.tensor(projection(basis), dtype=torch.float32), persistent=False)
        self.register_buffer('bound', torch.as_tensor(bound, dtype=torch.float32).clone(), persistent=False)
        size = spec.tokens * spec.width + spec.joints + spec.knots * spec.joints
        self.net = nn.Sequential(
            nn.Linear(size, spec.hidden), nn.SiLU(), nn.Linear(spec.hidden, spec.hidden), nn.SiLU(),
            nn.Linear(spec.hidden, spec.knots * spec.joints),
        )  # fmt: skip
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def raw(self, tokens: torch.Tensor, proprio: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """π before tanh, at the knots [B,K,D]. Inputs: tokens [B,T,W], proprio [B,D] and base [B,k,D] normalised."""
        knots = torch.einsum('ks,bsd->bkd', self.projection, base)
        features = torch.cat([tokens.flatten(1), proprio, knots.flatten(1)], dim=1)
        return self.net(features).view(-1, self.spec.knots, self.spec.joints)

    def forward(self, tokens: torch.Tensor, proprio: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """a_res [B,k,D], normalised, within ± bound."""
        return torch.einsum('sk,bkd->bsd', self.basis, torch.tanh(self.raw(tokens, proprio, base))) * self.bound


class ResidualChain(nn.Module):
    """Frozen rounds [(actor, α)] and the current actor at α, with the normaliser and the bound they share."""

    def __init__(self, spec: ResidualSpec, normalizer: Normalizer, bound: np.ndarray, joint_names: tuple[str, ...]):
        """`bound` [D] rad. A fresh chain is the zero chain: base and final equal the VLA's chunk."""
        super().__init__()
        bound = np.asarray(bound, dtype=np.float64)
        if not (normalizer.mean.shape == bound.shape == (spec.joints,) and len(joint_names) == spec.joints):
            raise ConfigError(
                f'residual chain: {len(joint_names)} joint names, normaliser {normalizer.mean.shape}, bound {bound.shape}; '
                f'expected {spec.joints} joints'
            )
        if not (np.all(np.isfinite(bound)) and np.all(bound > 0)):
            raise ConfigError('residual chain: every bound must be finite and positive')
        self.spec, self.normalizer, self.bound, self.joint_names = spec, normalizer, bound, tuple(joint_names)
        self.frozen = nn.ModuleList()
        self.alphas: list[float] = []
        self.current = self._actor()
        self.alpha = 0.0

    def _actor(self) -> ResidualActor:
        return ResidualActor(self.spec, self.bound / self.normalizer.std)

    def freeze(self) -> None:
        """Begin a new round: the current actor joins the frozen ones at its last α and a zero actor at α = 0 follows.

        What the chain maps to is unchanged.
        """
        self.append_frozen(self.current, self.alpha)
        self.current, self.alpha = self._actor().to(next(self.parameters()).device), 0.0

    def append_frozen(self, actor: ResidualActor, alpha: float) -> None:
        """Add `actor` to the frozen rounds at `alpha`."""
        self.frozen.append(actor.requires_grad_(False).eval())
        self.alphas.append(float(alpha))

    @torch.no_grad()
    def base(self, vla: torch.Tensor, tokens: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        """a_base [B,k,D]: the VLA's chunk through the frozen rounds. All normalised; tokens [B,T,W], proprio [B,D]."""
        base = vla
        for actor, alpha in zip(self.frozen, self.alphas, strict=True):
            base = base + alpha * actor(tokens, proprio, base)
        return base

    def forward(
        self, vla: torch.Tensor, tokens: torch.Tensor, proprio: torch.Tensor, alpha: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(a_base, a_final, a_res), each [B,k,D] normalised; gradients reach the current actor only."""
        base = self.base(vla, tokens, proprio)
        residual = self.current(tokens, proprio, base)
        return base, base + (self.alpha if alpha is None else alpha) * residual, residual

    @torch.no_grad()
    def apply(self, vla: np.ndarray, tokens: np.ndarray, proprio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(A_base, A_final) [k,D] rad from A_vla [k,D] rad, tokens [T,W], proprio [D] rad. The zero chain returns A_vla exactly."""
        base, final = self.apply_batch(np.asarray(vla)[None], np.asarray(tokens)[None], np.asarray(proprio)[None])
        return base[0], final[0]

    @torch.no_grad()
    def apply_batch(self, vla: np.ndarray, tokens: np.ndarray, proprio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `apply`, for [B,k,D], [B,T,W], [B,D]."""
        vla = np.asarray(vla, dtype=np.float64)
        expected = ((self.spec.steps, self.spec.joints), (self.spec.tokens, self.spec.width), (self.spec.joints,))
        for name, array, shape in zip(('chunk', 'tokens', 'proprio'), (vla, tokens, proprio), expected, strict=True):
            if np.shape(array)[1:] != shape:
                raise ModelError(f'residual chain: {name} of shape {np.shape(array)[1:]}, expected {shape}')
        device = self.current.bound.device

        def tensor(x: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.asarray(x, dtype=np.float32), device=device)

        z, s = tensor(tokens), tensor(self.normalizer.normalize(proprio))
        a = tensor(self.normalizer.normalize(vla))
        # corrections are added in rad to the float64 chunk, so that a zero chain leaves every bit of it alone
        offset = np.zeros_like(vla)
        for actor, alpha in zip(self.frozen, self.alphas, strict=True):
            delta = alpha * actor(z, s, a)
            a = a + delta
            offset += delta.cpu().numpy().astype(np.float64) * self.normalizer.std
        base = vla + offset
        delta = self.alpha * self.current(z, s, a)
        return base, base + delta.cpu().numpy().astype(np.float64) * self.normalizer.std

    def correct(self, proposal: Proposal, published_ns: int, version: WeightsVersion, chunk_id: StreamId) -> ActionChunk:
        """The corrected chunk of a proposal."""
        base, final = self.apply(proposal.positions, proposal.tokens, proposal.proprio)
        return ActionChunk(
            stamp_ns=proposal.stamp_ns, published_ns=published_ns, base=base, positions=final, dt=proposal.dt, alpha=self.alpha,
            version=version, model_id=proposal.model_id, epoch=proposal.epoch, episode=proposal.episode,
            observation_id=proposal.observation_id, base_id=proposal.id, id=chunk_id,
        )  # fmt: skip

    def metadata(self) -> dict[str, Any]:
        """Facts that a package of this chain carries beside its tensors."""
        return {
            'spec': asdict(self.spec), 'alphas': self.alphas, 'alpha': self.alpha, 'joint_names': list(self.joint_names),
        }  # fmt: skip

    @staticmethod
    def from_metadata(metadata: Mapping[str, Any], normalizer: Normalizer, bound: np.ndarray) -> ResidualChain:
        """A chain with the rounds that `metadata` names; its tensors are to be loaded."""
        chain = ResidualChain(ResidualSpec(**metadata['spec']), normalizer, bound, tuple(metadata['joint_names']))
        for alpha in metadata['alphas']:
            chain.append_frozen(chain._actor(), alpha)
        chain.alpha = float(metadata['alpha'])
        return chain
