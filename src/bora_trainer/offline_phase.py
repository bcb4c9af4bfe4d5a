"""The offline phase (method, section 5): behaviour cloning with the critic at its side, then behaviour cloning and gated PPO.

The actor's gradient reaches the VLM. The critic reads stop-grad(z): neither gradient enters the other's weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bora_critic.losses import Info
from bora_critic.value_model import Observation
from bora_policy.vla import BoraVLA
from bora_trainer.offline_actor import ActorLearner
from bora_trainer.offline_batch import Fetcher, Noise, Rows, join
from bora_trainer.offline_config import OfflineConfig
from bora_trainer.offline_critic import OfflineCritic, Views, noisy
from bora_trainer.offline_data import OfflineData
from bora_trainer.policy_losses import gae, mean_advantage, ppo_loss, weigh_advantages
from bora_trainer.replicas import Replicas

ENCODE_BATCH = 64


class OfflinePhase:
    """One run: data, actor, critic, random numbers. `step` makes one update of each."""

    def __init__(
        self,
        model: BoraVLA,
        critic: nn.Module | None,
        data: OfflineData,
        config: OfflineConfig,
        own: OfflineData | None = None,
        replicas: Replicas | None = None,
    ):
        """`model` and `critic` on the training device; `own`: episodes of the base model, which are not cloned."""
        self.config, self.replicas = config, replicas or Replicas()
        self.device = model.device
        self.actor = ActorLearner(model, config, self.replicas)
        self.critic = None if critic is None else OfflineCritic(critic, config.critic, model.facts.steps, self.replicas)
        self.demonstrations = Fetcher(model, data, self.device)
        self.own = None if own is None or self.critic is None else Fetcher(model, own, self.device, self.demonstrations.length)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.updates = 0
        self.gated = self.opened = 0  # batches that the gate looked at, and those that passed it

    @property
    def improving(self) -> bool:
        """Whether the coming update is one of the second stage."""
        return self.config.ppo.enabled and self.updates >= self.config.ppo.start

    @property
    def open_fraction(self) -> float:
        """Share of the second stage's batches that passed the gate; nan before the first."""
        return self.opened / self.gated if self.gated else float('nan')

    def step(self) -> Info:
        """One update of the critic and, unless the gate skips it, of the actor."""
        config, ppo = self.config, self.config.ppo
        if self.improving and (self.updates - ppo.start) % ppo.refresh == 0:
            self.actor.refresh_old()
        rows, noise = self._draw(self.demonstrations, config.batch)
        own = self._draw(self.own, config.own_batch) if self.own is not None and config.own_batch else None
        taught = rows.mask
        if self.improving and ppo.own and own is not None:
            rows, noise, own = join([rows, own[0]]), join([noise, own[1]]), None
            taught = torch.cat([taught, torch.zeros_like(rows.mask[len(taught) :])])
        pixels = noise.jitter(self.actor.model.pixels(rows.images))
        tokens, bc, mean = self.actor.forward(rows, pixels, noise, taught, self.improving)
        info: Info = {'bc_loss': bc.item()}
        loss = config.actor.bc_weight * bc * self.replicas.weight(taught)
        if self.critic is not None:
            info |= self._update_critic(rows, tokens.detach(), noise, own)
        passed = True
        if self.improving:
            term, passed, more = self._improve(rows, tokens.detach(), pixels, noise, mean)
            info |= more
            loss = loss + ppo.weight * term if passed else loss
        if passed or ppo.gate != 'actor':
            info['actor_gradient'] = self.actor.update(loss, self.actor.rate(self.updates))
        self.updates += 1
        return info

    def _draw(self, source: Fetcher, batch: int) -> tuple[Rows, Noise]:
        """This process's rows of a joint batch, and their random numbers."""
        mine = self.replicas.rows(batch)
        frames = source.data.frames.draw(batch, self.generator)
        noise = Noise.draw(self.actor.model, self.config.actor, batch, self.generator)
        return source.rows(frames[mine], following=self._bootstraps), noise.rows(mine, self.device)

    @property
    def _bootstraps(self) -> bool:
        return self.critic is not None and self.critic.kind != 'returns'

    # --- critic -------------------------------------------------------------------------------------------------------------------

    def _update_critic(self, rows: Rows, tokens: Tensor, noise: Noise, unseen: tuple[Rows, Noise] | None) -> Info:
        """One update on the actor's rows and on own ones that the actor has not seen."""
        share = self.config.critic.token_noise
        tokens = noisy(tokens, share, noise.tokens)
        if unseen is not None:
            own, noise = unseen
            if self._reads_tokens:
                more = self.actor.tokens(noise.jitter(self.actor.model.pixels(own.images)), own.ids, own.words)
                tokens = torch.cat([tokens, noisy(more, share, noise.tokens)])
            rows = join([rows, own])
        following = None
        if self._bootstraps and self._reads_tokens:
            following = {'tokens': self.actor.tokens(self.actor.model.pixels(rows.next_images), rows.ids, rows.words)}
        elif self._bootstraps:
            following = {'images': rows.next_images}
        return self.critic.update(rows, Views(self._observe(rows, tokens), following), self.critic.pick_steps(self.generator, self.device))

    @property
    def _reads_tokens(self) -> bool:
        return self.config.critic.kind == 'tokens'

    def _observe(self, rows: Rows, tokens: Tensor) -> Observation:
        """What the critic reads."""
        return {'tokens': tokens} if self._reads_tokens else {'images': rows.images}

    # --- policy improvement -------------------------------------------------------------------------------------------------------

    def _improve(self, rows: Rows, tokens: Tensor, pixels: Tensor, noise: Noise, mean: Tensor) -> tuple[Tensor, bool, Info]:
        """(L_PPO as this process's share of the joint batch's, whether the gate is open, info)."""
        ppo, critic = self.config.ppo, self.config.critic
        q, v = self.critic.judge(rows, self._observe(rows, tokens))
        lam = ppo.gae if critic.targets == 'shifted' else 0.0
        raw = gae(q, v, rows.done, rows.mask, critic.gamma, lam)
        level = mean_advantage(raw, rows.mask, self.replicas.total)
        passed = ppo.gate == 'none' or level > ppo.margin
        self.gated, self.opened = self.gated + 1, self.opened + passed
        info = {'advantage': level, 'gate_open': float(passed)}
        if not passed:
            return torch.zeros((), device=self.device), False, info
        advantage = weigh_advantages(raw, rows.mask, ppo.advantage_clip, ppo.negative, self.replicas.total)
        loss, more = ppo_loss(self.actor.log_ratio(mean, rows, pixels, noise), advantage, rows.mask, ppo.clip)
        return loss * self.replicas.weight(rows.mask), True, info | more

    # --- hand-over ----------------------------------------------------------------------------------------------------------------

    def look(self, source: Fetcher, frames: np.ndarray) -> Observation:
        """What the critic reads of frames [B] as they are."""
        images = source.images(frames)
        if not self._reads_tokens:
            return {'images': images}
        return {'tokens': self.actor.tokens(self.actor.model.pixels(images), *source.text(frames))}

    def encode(self, source: Fetcher) -> Tensor:
        """z [F,T,W] of every frame under the present model, on the CPU."""
        frames = np.arange(len(source.data))
        parts = [frames[i : i + ENCODE_BATCH] for i in range(0, len(frames), ENCODE_BATCH)]
        return torch.cat([self.look(source, some)['tokens'].cpu() for some in parts])

    def head_start(self, report: Callable[[int], None] = lambda done: None) -> Info:
        """Train the critic alone, so that it is good before the policy listens to it."""
        count = self.config.critic.alone_batch
        own = round(count * self.config.data.own_share) if self.config.own_batch else 0
        return self.train_critic(self.config.critic.head_start, count, own, report)

    def settle(self, critic: nn.Module, report: Callable[[int], None] = lambda done: None) -> Info:
        """Put `critic`, a new one, in the place of the present one and train it alone on the model as it is, mostly on its own episodes.

        For the hand-over. The present one has learnt mostly from demonstrators, who succeed where the policy fails.
        """
        wanted = self.config.critic
        self.critic = OfflineCritic(critic, wanted, self.critic.k, Replicas())
        own = round(wanted.alone_batch * wanted.settle_own) if self.config.own_batch else 0
        return self.train_critic(wanted.settle, wanted.alone_batch - own, own, report)

    def train_critic(self, updates: int, count: int, own: int, report: Callable[[int], None] = lambda done: None) -> Info:
        """Train the critic while the VLA stands still, on `count` rows of demonstrations and `own` ones: each process does all of it.

        What a critic of tokens reads is computed once.
        """
        sources = [(source, rows) for source, rows in ((self.demonstrations, count), (self.own, own)) if source is not None and rows]
        seen = [self.encode(source) for source, _ in sources] if self._reads_tokens else []
        alone = OfflineCritic(self.critic.critic, self.config.critic, self.critic.k, Replicas())
        alone.target, alone.optimiser, alone.updates = self.critic.target, self.critic.optimiser, self.critic.updates
        info: Info = {}
        for done in range(1, updates + 1):
            drawn = [source.data.frames.draw(rows, self.generator) for source, rows in sources]
            follows = alone.kind != 'returns'
            rows = join([
                source.rows(frames, images=not self._reads_tokens, following=follows)
                for (source, _), frames in zip(sources, drawn, strict=True)
            ])  # fmt: skip
            after = [source.data.following(frames, alone.k) for (source, _), frames in zip(sources, drawn, strict=True)]
            views = self._views(seen, drawn, after) if seen else Views({'images': rows.images}, {'images': rows.next_images})
            info = alone.update(rows, views, alone.pick_steps(self.generator, self.device))
            report(done)
        self.critic.updates = alone.updates
        return info

    def _views(self, seen: list[Tensor], drawn: list[np.ndarray], after: list[np.ndarray]) -> Views:
        """Tokens of the frames `drawn` from each source, noised, and of those `after` their chunks; `seen`: of all its frames."""
        now, following = (torch.cat([z[some] for z, some in zip(seen, frames, strict=True)]) for frames in (drawn, after))
        now = noisy(now, self.config.critic.token_noise, torch.randn(now.shape, generator=self.generator))
        return Views({'tokens': now.to(self.device)}, {'tokens': following.to(self.device)})
