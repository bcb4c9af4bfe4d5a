"""One update of the residual actor. Two recipes: the paper's, which follows the critic's gradient, and ours, which stays in support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bora_common.errors import ConfigError, nearest
from bora_critic.critic import Critic
from bora_critic.losses import Info
from bora_policy.residual import ResidualChain
from bora_trainer.batch import Batch
from bora_trainer.critic_update import Scores
from bora_trainer.losses import (
    aligned_weight,
    anchor_loss,
    bc_loss,
    chunk_value,
    improve_loss,
    l2_loss,
    literal_weight,
    own_weight,
    q_loss,
    supported_weight,
    within_reach,
)
from bora_trainer.schedules import IMITATION, Ramp


@dataclass(frozen=True)
class Recipe:
    """Weights and switches of the actor's loss."""

    name: str
    q: float = 0.0  # of -Q(z, a_final), pathwise through the critic
    improve: float = 0.0  # of L_improve, pathwise
    improve_margin: float = 0.0
    imitation: Ramp = IMITATION
    anchor: float = 0.03
    l2: float = 0.0002
    pessimistic: bool = True  # min over the ensemble in Q; else the mean
    supported: bool = True  # imitate every executed step, own ones by advantage; else human steps and demonstrations only
    demonstrations: float = 0.0  # weight of demonstrated steps: the base is a clone of all of them, a sample of them only overfits
    clip_to_reach: bool = True  # targets clipped to the residual's reach, steps beyond `beyond` reaches dropped
    beyond: float = 4.0
    final_alpha: bool = True  # learn for the alpha that the round ends with: a small alpha early on would saturate the actor
    temperature: float = 0.1  # of the advantage, in units of return
    ceiling: float = 5.0  # largest weight of an own step
    aligned: bool = True  # imitate online steps in the proposal's own time: where they went, not when (bora_trainer.alignment)
    input_noise: float = 3.0  # on what the actor reads, in its standard deviations: few episodes teach what they have in common
    gate: float = 0.6  # where in the range of returns a state's value is high enough to be left alone
    gate_width: float = 0.1  # as a share of that range


LITERAL = Recipe(
    'literal', q=1.0, improve=0.35, pessimistic=False, supported=False, clip_to_reach=False, final_alpha=False, aligned=False,
    input_noise=0.0,
)  # fmt: skip
WEIGHTED = Recipe('weighted')
IMITATION_ONLY = Recipe('imitation', supported=False, aligned=False)
RECIPES = {r.name: r for r in (WEIGHTED, LITERAL, IMITATION_ONLY)}


def recipe(name: str) -> Recipe:
    """Recipe by name. Raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(f'recipe "{name}" is not valid, {nearest(name, RECIPES)}')
    return RECIPES[name]


class ActorLearner:
    """The chain's current actor and its optimiser."""

    def __init__(self, chain: ResidualChain, critic: Critic, recipe: Recipe, learning_rate: float, weight_decay: float, clip: float = 1.0):
        self.chain, self.critic, self.recipe = chain, critic, recipe
        self._rate, self._decay, self._clip = learning_rate, weight_decay, clip
        self.restart()

    def restart(self) -> None:
        """A fresh optimiser for the chain's current actor."""
        self.optimizer = torch.optim.AdamW(self.chain.current.parameters(), lr=self._rate, weight_decay=self._decay, fused=True)

    def update(
        self, batch: Batch, scores: Scores, alpha: float, final_alpha: float, imitation: float, rng: np.random.Generator
    ) -> Info:  # fmt: skip
        """One gradient step on the actor alone; the critic takes no gradient. `alpha` is the schedule's, `final_alpha` its end."""
        used = final_alpha if self.recipe.final_alpha else alpha
        a_base = self.chain.base(batch.vla, batch.z, batch.s)
        a_res = self.chain.current(*self._read(batch, a_base, rng))
        a_final = a_base + used * a_res
        loss, info = self.loss(batch, scores, (a_base, a_final, a_res), used, imitation)
        parameters = list(self.chain.current.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        info['actor_gradient'] = torch.nn.utils.clip_grad_norm_(parameters, self._clip).item()
        self.optimizer.step()
        return info

    def _read(self, batch: Batch, a_base: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What the actor reads (z, s, a_base), with the recipe's noise on it; one draw a joint for the whole chunk."""
        noise = self.recipe.input_noise
        if noise == 0:
            return batch.z, batch.s, a_base

        def noisy(x: Tensor, shape: tuple[int, ...]) -> Tensor:
            spread = x.std(tuple(range(x.dim() - 1)) if x is a_base else 0, keepdim=True)
            return x + noise * spread * torch.as_tensor(rng.standard_normal(shape, dtype=np.float32), device=x.device)

        count, _, joints = a_base.shape
        return noisy(batch.z, tuple(batch.z.shape)), noisy(batch.s, tuple(batch.s.shape)), noisy(a_base, (count, 1, joints))

    def loss(self, batch: Batch, scores: Scores, actions: tuple[Tensor, Tensor, Tensor], alpha: float, imitation: float):
        """(loss, info) of the recipe. `actions`: a_base, a_final, a_res, each [B,k,D]."""
        a_base, a_final, a_res = actions
        recipe = self.recipe
        target, weight, info = self._imitation(batch, scores, a_base, alpha)
        bc, info_bc = bc_loss(a_final, target, weight)
        anchor, info_anchor = anchor_loss(a_final, batch.vla, batch.decided)
        l2, info_l2 = l2_loss(a_res, batch.decided)
        loss = imitation * bc + recipe.anchor * anchor + recipe.l2 * l2
        info |= info_bc | info_anchor | info_l2
        if recipe.q > 0 or recipe.improve > 0:
            pathwise, info_q = self._pathwise(batch, scores.steps, a_base, a_final)
            loss, info = loss + pathwise, info | info_q
        bound = self.chain.current.bound
        info |= {
            'actor_loss': loss.item(),
            'residual': a_res.detach().abs().mean().item(),
            'saturation': ((a_res.detach().abs() / bound) > 0.98).float().mean().item(),
        }
        return loss, info

    def _imitation(self, batch: Batch, scores: Scores, a_base: Tensor, alpha: float) -> tuple[Tensor, Tensor, Info]:
        """Target [B,k,D] and weight [B,k] of the imitation term."""
        recipe, info = self.recipe, {}
        sides = (batch.decided, batch.human, batch.beta, batch.offline, batch.success)
        target = batch.aligned if recipe.aligned else batch.executed
        if not recipe.supported:
            weight = literal_weight(*sides)
        else:
            own, info = self._own(batch, scores)
            if recipe.aligned:
                weight = aligned_weight(batch.matched, batch.human, batch.offline, own)
            else:
                weight = supported_weight(*sides, own, recipe.demonstrations)
        if not recipe.clip_to_reach:
            return target, weight, info
        target, keep = within_reach(target, a_base, alpha * self.chain.current.bound, recipe.beyond)
        counted = weight > 0
        info['out_of_reach'] = ((counted & ~keep).sum() / counted.sum().clamp(min=1)).item()
        return target, weight * keep, info

    def _own(self, batch: Batch, scores: Scores) -> tuple[Tensor, Info]:
        """Weight [B] of the policy's own steps, and what it looks like on online rows."""
        recipe = self.recipe
        low, high = self.critic.spec.return_range
        mask = batch.mask[:, scores.steps]
        value = chunk_value(scores.v, mask)
        advantage = chunk_value(scores.q, mask) - value
        gate, width = low + recipe.gate * (high - low), max(recipe.gate_width * (high - low), 1e-6)
        own = own_weight(advantage, value, recipe.temperature, recipe.ceiling, gate, width)
        online = ~batch.offline
        count = online.sum().clamp(min=1)
        return own, {
            'own_weight': ((own * online).sum() / count).item(),
            'advantage': ((advantage * online).sum() / count).item(),
            'gate_closed': ((torch.sigmoid((value - gate) / width) * online).sum() / count).item(),
        }

    def _pathwise(self, batch: Batch, steps: Tensor, a_base: Tensor, a_final: Tensor) -> tuple[Tensor, Info]:
        """Terms that follow the critic's gradient. Steps that the proposal could not decide enter as executed."""
        recipe, decided = self.recipe, batch.decided.unsqueeze(-1)
        mask, rows = batch.mask[:, steps], batch.mask.any(1)
        value_final = self._value(batch, torch.where(decided, a_final, batch.executed), steps, mask)
        with torch.no_grad():
            value_base = self._value(batch, torch.where(decided, a_base, batch.executed), steps, mask)
        loss_q, info = q_loss(value_final, rows)
        loss_improve, info_improve = improve_loss(value_base, value_final, recipe.improve_margin, rows)
        return recipe.q * loss_q + recipe.improve * loss_improve, info | info_improve

    def _value(self, batch: Batch, actions: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        q = self.critic.q(batch.z, batch.s, actions, steps)
        return chunk_value(q.amin(0) if self.recipe.pessimistic else q.mean(0), mask)
