"""The critic beside the offline actor: targets, losses, one gradient step, target network (method, section 4).

It works on any value model: one that reads the VLM's tokens, from which no gradient goes back, or one with its own pixel encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bora_common.errors import ModelError
from bora_critic import targets
from bora_critic.losses import Info, critic_loss, value_loss
from bora_critic.value_model import Observation, follow, target_of
from bora_trainer.offline_batch import Rows
from bora_trainer.offline_config import CriticConfig
from bora_trainer.replicas import Replicas


@dataclass(frozen=True)
class Views:
    """What a value model observes of B rows, and of their next states."""

    now: Observation
    following: Observation | None = None  # not needed while the targets are returns


def noisy(tokens: Tensor, share: float, noise: Tensor) -> Tensor:
    """Tokens [B,T,W] plus `noise` of unit deviation times `share` of each token's own deviation."""
    return tokens + share * tokens.std(-1, keepdim=True) * noise


class CriticPass(nn.Module):
    """q [E,B,M] and v [B,M] at some chunk steps."""

    def __init__(self, critic: nn.Module):
        super().__init__()
        self.critic = critic

    def forward(self, observation: Observation, s: Tensor, a: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        features = self.critic.features(observation)
        return self.critic.q(features, s, a, steps), self.critic.v(features, s, steps)


class OfflineCritic:
    """Value model, its target, its optimiser."""

    def __init__(self, critic: nn.Module, config: CriticConfig, k: int, replicas: Replicas):
        self.critic, self.config, self.k, self.replicas = critic.train(), config, k, replicas
        self.target = target_of(critic)
        self.optimiser = torch.optim.AdamW(critic.parameters(), lr=config.rate, weight_decay=config.weight_decay, fused=True)
        self.updates = 0
        self._pass = replicas.wrap(CriticPass(critic))

    @property
    def kind(self) -> str:
        """Targets of the coming update: Monte-Carlo returns first, since a bootstrap from scratch needs 1/target_rate updates a level."""
        return 'returns' if self.updates < self.config.warm_up else self.config.targets

    def pick_steps(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """Evenly spaced chunk steps [M] with a random offset, so that every step is visited over the updates."""
        stride = max(self.k // self.config.sub_steps, 1)
        offset = int(torch.randint(stride, (), generator=generator))
        return torch.arange(offset, self.k, stride, device=device)

    @torch.no_grad()
    def make_targets(self, rows: Rows, views: Views, steps: Tensor) -> Tensor:
        """y [B,M] of the present kind."""
        if self.kind == 'returns':
            return rows.returns[:, steps]
        gamma, first = self.config.gamma, torch.zeros(1, dtype=torch.long, device=steps.device)
        v_next = self.target.v(self.target.features(views.following), rows.next_s, first)[:, 0]
        if self.kind == 'chunk':
            return targets.chunk(rows.reward, rows.done, rows.mask, v_next, gamma)[:, steps]
        after = self.target.v(self.target.features(views.now), rows.s, (steps + 1).clamp(max=self.k - 1))
        last = targets.last_valid(rows.mask)[:, steps]
        return targets.shifted(rows.reward[:, steps], rows.done[:, steps], last, after, v_next, gamma)

    def update(self, rows: Rows, views: Views, steps: Tensor) -> Info:
        """One gradient step on L_Q + L_V. Returns are regressed by their mean; else V is the expectile of the target's q."""
        y, mask = self.make_targets(rows, views, steps), rows.mask[:, steps]
        goal, expectile = y, 0.5
        if self.kind != 'returns':
            with torch.no_grad():
                goal = self.target.q(self.target.features(views.now), rows.s, rows.executed, steps).amin(0)
            expectile = self.config.expectile
        q, v = self._pass(views.now, rows.s, rows.executed, steps)
        loss_q, info = critic_loss(q, y, mask)
        loss_v, info_v = value_loss(v, goal, mask, expectile)
        self.optimiser.zero_grad(set_to_none=True)
        ((loss_q + loss_v) * self.replicas.weight(mask)).backward()
        norm = float(nn.utils.clip_grad_norm_(self.critic.parameters(), self.config.clip))
        if not math.isfinite(norm):
            raise ModelError(f'offline: gradient of critic update {self.updates} is not finite')
        self.optimiser.step()
        follow(self.target, self.critic, self.config.target_rate)
        self.updates += 1
        return info | info_v | {'critic_gradient': norm}

    @torch.no_grad()
    def judge(self, rows: Rows, observation: Observation) -> tuple[Tensor, Tensor]:
        """(q [B,k] the ensemble's minimum on the executed actions, v [B,k]) of the target networks."""
        features, steps = self.target.features(observation), torch.arange(self.k, device=rows.s.device)
        return self.target.q(features, rows.s, rows.executed, steps).amin(0), self.target.v(features, rows.s, steps)
