"""One update of the critic: targets, losses, optimiser, target network. Used offline and online."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bora_common.errors import ConfigError, nearest
from bora_critic import targets
from bora_critic.critic import Critic
from bora_critic.losses import Info, critic_loss, inheritance_loss, valid_actions, value_loss
from bora_critic.value_model import follow, target_of
from bora_trainer.batch import Batch

TARGETS = ('returns', 'chunk', 'shifted')


@dataclass(frozen=True)
class CriticConfig:
    """Switches of the critic's update."""

    targets: str = 'returns'  # Monte-Carlo where an episode is whole, else `chunk`; "chunk"; "shifted" (the paper's)
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    expectile: float = 0.7  # of V under bootstrapped targets; returns are regressed by their mean
    target_rate: float = 0.005  # soft update
    sub_steps: int = 8  # evenly spaced chunk steps an update looks at, with a random offset
    inheritance: float = 0.25  # weight of the pull to the inherited critic on offline rows
    clip: float = 1.0  # largest gradient norm


@dataclass(frozen=True)
class Scores:
    """What the update saw, for the actor: all detached."""

    steps: Tensor  # [M] chunk steps looked at
    q: Tensor  # [B,M] min over the ensemble, on executed actions
    v: Tensor  # [B,M]


class CriticLearner:
    """Critic, its target network and its optimiser."""

    def __init__(self, critic: Critic, config: CriticConfig):
        self.critic, self.config = critic, config
        self.target = target_of(critic)
        self.optimizer = torch.optim.AdamW(critic.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group['lr'] = rate

    def pick_steps(self, rng: np.random.Generator) -> Tensor:
        """Evenly spaced chunk steps [M] with a random offset, so that every step is visited over the updates."""
        k = self.critic.spec.k
        stride = max(k // self.config.sub_steps, 1)
        return torch.arange(int(rng.integers(stride)), k, stride)

    @torch.no_grad()
    def make_targets(self, batch: Batch, steps: Tensor, kind: str) -> Tensor:
        """y [B,M] of `kind` at `steps`."""
        if kind not in TARGETS:
            raise ConfigError(f'critic targets: "{kind}" is not valid, {nearest(kind, TARGETS)}')
        gamma, zero = self.critic.spec.gamma, torch.zeros(1, dtype=torch.long, device=batch.s.device)
        if kind == 'returns' and bool(batch.complete.all()):
            return batch.returns[:, steps]
        v_next = self.target.v(batch.z_next, batch.s_next, zero)[:, 0]
        if kind == 'shifted':
            after = self.target.v(batch.z, batch.s, (steps + 1).clamp(max=self.critic.spec.k - 1))
            last = targets.last_valid(batch.mask)[:, steps]
            return targets.shifted(batch.reward[:, steps], batch.done[:, steps], last, after, v_next, gamma)
        y = targets.chunk(batch.reward, batch.done, batch.mask, v_next, gamma)[:, steps]
        return torch.where(batch.complete.unsqueeze(1), batch.returns[:, steps], y) if kind == 'returns' else y

    def update(self, batch: Batch, rng: np.random.Generator, kind: str | None = None) -> tuple[Info, Scores]:
        """One gradient step on L_Q + L_V (+ the pull to the inherited critic on offline rows)."""
        config, kind = self.config, kind or self.config.targets
        steps = self.pick_steps(rng).to(batch.s.device)
        y, mask = self.make_targets(batch, steps, kind), batch.mask[:, steps]
        q, v = self.critic.q(batch.z, batch.s, valid_actions(batch.executed, batch.mask), steps), self.critic.v(batch.z, batch.s, steps)
        loss_q, info = critic_loss(q, y, mask)
        loss_v, info_v = self._value_loss(batch, steps, v, y, mask, kind)
        loss = loss_q + loss_v
        info |= info_v
        if config.inheritance > 0 and bool(batch.offline.any()):
            loss_i, info_i = inheritance_loss(q, batch.q_offline[:, :, steps], mask & batch.offline.unsqueeze(1))
            loss = loss + config.inheritance * loss_i
            info |= info_i
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        info['critic_gradient'] = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), config.clip).item()
        self.optimizer.step()
        follow(self.target, self.critic, config.target_rate)
        return info, Scores(steps, q.detach().amin(0), v.detach())

    def _value_loss(self, batch: Batch, steps: Tensor, v: Tensor, y: Tensor, mask: Tensor, kind: str) -> tuple[Tensor, Info]:
        if kind == 'returns':
            return value_loss(v, y, mask, 0.5)
        with torch.no_grad():
            goal = self.target.q(batch.z, batch.s, valid_actions(batch.executed, batch.mask), steps).amin(0)
        return value_loss(v, goal, mask, self.config.expectile)
