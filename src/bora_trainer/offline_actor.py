"""The offline actor: the whole VLA, its weights' average, the old policy, and one gradient step on a given loss."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from bora_common.errors import ModelError
from bora_policy.likelihood import log_ratio
from bora_policy.vla import BoraVLA
from bora_trainer.offline_batch import Noise, Rows
from bora_trainer.offline_config import OfflineConfig
from bora_trainer.policy_losses import bc_loss
from bora_trainer.replicas import Replicas


class ActorPass(nn.Module):
    """One forward pass: tokens, behaviour-cloning loss, and the policy's mean chunk where it is asked for."""

    def __init__(self, model: BoraVLA, bf16: bool):
        """`bf16`: the VLM's pass in bfloat16; the small action expert, which works at noise levels up to 80, stays float32."""
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(
        self, rows: Rows, pixels: Tensor, noise: Noise, taught: Tensor, with_mean: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(z [B,T,W], loss on the steps `taught` [B,k], mean [B,k,D] or None); the gradient of each reaches the VLM."""
        s = rows.s + noise.s
        tokens = encode(self.model, pixels, rows.ids, rows.words, self.bf16)
        loss, _ = bc_loss(self.model.expert, tokens, s, rows.intended, taught, noise.sigma, noise.knots)
        return tokens, loss, self.model.expert.mean(tokens, s, noise.xi) if with_mean else None


def encode(model: BoraVLA, pixels: Tensor, ids: Tensor, words: Tensor, bf16: bool) -> Tensor:
    """z float32 [B,T,W]; the pass in bfloat16 where asked for."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
        return model.tokens(pixels, ids, words).float()


class ActorLearner:
    """Model, average, old policy, optimiser."""

    def __init__(self, model: BoraVLA, config: OfflineConfig, replicas: Replicas):
        self.model, self.config, self.replicas = model.train().requires_grad_(True), config, replicas
        self.average = [p.detach().clone() for p in model.parameters()]
        self.old: BoraVLA | None = None
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.99), fused=True)
        self.updates = 0  # that were made: those that the gate skipped do not count
        self._pass = replicas.wrap(ActorPass(model, config.bf16))

    def _groups(self) -> list[dict[str, object]]:
        """Parameters by rate (VLM, expert) and by whether they decay: matrices do."""
        actor = self.config.actor
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            rate = actor.expert_rate if name.startswith('expert.') else actor.vlm_rate
            groups.setdefault((rate, actor.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        return [{'params': p, 'lr': rate, 'weight_decay': decay, 'full_rate': rate} for (rate, decay), p in groups.items()]

    def rate(self, update: int) -> float:
        """Share of the full learning rate at `update`: linear warm-up, then cosine to zero."""
        warm_up = self.config.actor.warm_up
        if update < warm_up:
            return (update + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * min((update - warm_up) / max(1, self.config.updates - warm_up), 1.0)))

    # --- passes -------------------------------------------------------------------------------------------------------------------

    def forward(
        self, rows: Rows, pixels: Tensor, noise: Noise, taught: Tensor, with_mean: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As ActorPass."""
        return self._pass(rows, pixels, noise, taught, with_mean)

    @torch.no_grad()
    def tokens(self, pixels: Tensor, ids: Tensor, words: Tensor) -> Tensor:
        """z [B,T,W] without a gradient."""
        return encode(self.model, pixels, ids, words, self.config.bf16)

    def log_ratio(self, mean: Tensor, rows: Rows, pixels: Tensor, noise: Noise) -> Tensor:
        """log pi - log pi_old [B,k] of the intended chunk, at the same noise.

        A demonstrator's executed chunk is that plus a disturbance, which no one chose; a policy's own is the same.
        """
        with torch.no_grad():
            tokens = encode(self.old, pixels, rows.ids, rows.words, self.config.bf16)
            before = self.old.expert.mean(tokens, rows.s + noise.s, noise.xi)
        return log_ratio(mean, before, rows.intended)

    @torch.no_grad()
    def refresh_old(self) -> None:
        """The old policy becomes the present one."""
        if self.old is None:
            self.old = copy.deepcopy(self.model).requires_grad_(False)
        torch._foreach_copy_(list(self.old.parameters()), list(self.model.parameters()))

    # --- updates ------------------------------------------------------------------------------------------------------------------

    def update(self, loss: Tensor, rate: float) -> float:
        """One gradient step at `rate` of the full learning rate; the gradient's norm. Raises ModelError where it is not finite."""
        for group in self.optimiser.param_groups:
            group['lr'] = group['full_rate'] * rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.actor.clip))
        if not math.isfinite(norm):
            raise ModelError(f'offline: gradient of actor update {self.updates} is not finite')
        self.optimiser.step()
        self.updates += 1
        keep = min(self.config.actor.average, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.model.parameters()), 1 - keep)
        return norm

    @torch.no_grad()
    def averaged(self) -> BoraVLA:
        """The frozen model with the averaged weights. Training ends here."""
        torch._foreach_copy_(list(self.model.parameters()), self.average)
        return self.model.requires_grad_(False).eval()
