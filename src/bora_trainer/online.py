"""Online residual learning: buffers, rounds, updates, the gate in front of publication, checkpoints. No ROS, no clock."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bora_common.errors import ConfigError, ModelError
from bora_common.types import Transition, WeightsPackage, WeightsVersion
from bora_critic.critic import Critic, load_state
from bora_critic.losses import Info
from bora_policy.packing import package
from bora_policy.residual import ResidualChain
from bora_replay.buffer import TransitionBuffer
from bora_trainer.actor_update import WEIGHTED, ActorLearner, Recipe
from bora_trainer.batch import Batch, Source, join
from bora_trainer.checkpoint import digest_of, load_optimizer, optimizer_tensors, read_checkpoint, write_checkpoint
from bora_trainer.critic_update import CriticConfig, CriticLearner
from bora_trainer.publish_gate import PublishGate
from bora_trainer.schedules import ALPHA, Ramp

CHECKPOINT = 'checkpoint.safetensors'
REMEMBERED = 4  # published states kept for a way back


class State(enum.IntEnum):
    """What the learner does; equals TrainingStatus.STATE_*."""

    WAITING = 0
    TRAINING = 1
    IDLE = 2


@dataclass(frozen=True)
class OnlineConfig:
    """Numbers of the online phase."""

    planned_updates: int = 600  # in a round
    updates_per_transition: float = 1.0  # updates allowed per transition of the round while it collects
    episodes_per_round: int = 10  # after them the rest of the planned updates is free; 0: only `finish_round` frees it
    start_episodes: int = 3  # N_start
    batch_size: int = 64
    capacity: int = 50_000
    seed: int = 0
    actor_rate: float = 1e-3
    weight_decay: float = 1e-4
    alpha: Ramp = ALPHA
    recipe: Recipe = WEIGHTED
    critic: CriticConfig = field(default_factory=CriticConfig)
    gate: PublishGate = PublishGate()
    critic_only: int = 0  # first updates of the run that leave the actor alone


@dataclass
class Counters:
    """What survives a restart, beside tensors."""

    round: int = 0
    update: int = 0  # since the run began
    round_update: int = 0
    published: int = 0
    accepted: int = 0
    refused: int = 0  # by the residual actor
    withheld: int = 0  # by the publish gate


class OnlineLearner:
    """Offline store and online buffer, half a batch each; one residual actor on a chain of frozen ones; the inherited critic."""

    def __init__(
        self, chain: ResidualChain, critic: Critic, offline: TransitionBuffer | None, config: OnlineConfig, run: str,
        device: str = 'cpu',
    ):  # fmt: skip
        self.config, self.run, self.device = config, run, torch.device(device)
        self._check(chain, critic, offline)
        spec = critic.spec
        self._inherited = digest_of(critic.state_dict())
        self.rng = np.random.default_rng(config.seed)
        self.chain, critic = chain.to(self.device), critic.to(self.device).train()
        self.critic = CriticLearner(critic, config.critic)
        self.actor = ActorLearner(self.chain, critic, config.recipe, config.actor_rate, config.weight_decay)
        self.online = TransitionBuffer(
            config.capacity, spec.k, len(spec.joints), len(spec.token_names), spec.token_width, dt=spec.dt, joint_names=spec.joints,
            token_names=spec.token_names, model_id=spec.model_id, token_dtype='float16',
        )  # fmt: skip
        scale = chain.bound if config.recipe.aligned else None
        self._online = Source(self.online, spec.normalizer, spec.gamma, False, spec.ensemble, scale)
        self._offline = None if offline is None else Source(offline, spec.normalizer, spec.gamma, True, spec.ensemble)
        self.counters, self.info = Counters(), {}
        self._round_transitions: dict[int, int] = {}
        self._round_episodes: dict[int, set[str]] = {}
        self._finished_round = -1
        self._pending: OrderedDict[WeightsVersion, tuple[dict, dict[str, Tensor]]] = OrderedDict()
        self._inherit()
        self._good = self.snapshot()

    @staticmethod
    def _check(chain: ResidualChain, critic: Critic, offline: TransitionBuffer | None) -> None:
        spec = critic.spec
        sizes = {
            'joints': (chain.joint_names, tuple(spec.joints)),
            'chunk steps': (chain.spec.steps, spec.k),
            'token shape': ((chain.spec.tokens, chain.spec.width), (len(spec.token_names), spec.token_width)),
        }
        if offline is not None:
            sizes |= {
                'offline joints': (tuple(offline.joint_names), tuple(spec.joints)),
                'offline chunk steps': (offline.k, spec.k),
                'offline tokens': ((tuple(offline.token_names), offline.W), (tuple(spec.token_names), spec.token_width)),
                'offline model digest': (offline.model_id, spec.model_id),
            }
        for what, (found, expected) in sizes.items():
            if found != expected:
                raise ConfigError(f'online learner: {what} {found}, the critic was made for {expected}')
        if not np.allclose(chain.normalizer.mean, spec.mean) or not np.allclose(chain.normalizer.std, spec.std):
            raise ConfigError('online learner: the residual chain and the critic have different normalisers')

    @torch.no_grad()
    def _inherit(self) -> None:
        """What the inherited critic thinks of every offline row, computed once: the anchor of the critic's regulariser."""
        if self._offline is None or self.config.critic.inheritance == 0:
            return
        count, q = len(self._offline), self.critic.critic.q
        chunks = []
        for start in range(0, count, 256):
            batch = join([self._offline.rows(np.arange(start, min(start + 256, count)))], self.device)
            chunks.append(q(batch.z, batch.s, batch.executed).cpu().numpy())
        self._offline.q_offline = np.concatenate(chunks, axis=1)

    # --- data ---------------------------------------------------------------------------------------------------------------------

    def add(self, transition: Transition) -> bool:
        """Insert a transition; False for one that is already here. Raises ConfigError for another robot, horizon or model."""
        if not self.online.insert(transition):
            return False
        number = transition.round
        self._round_transitions[number] = self._round_transitions.get(number, 0) + 1
        self._round_episodes.setdefault(number, set()).add(transition.episode)
        return True

    def episodes(self, number: int | None = None) -> int:
        """Distinct episodes seen in a round, or in the run."""
        rounds = self._round_episodes.values() if number is None else [self._round_episodes.get(number, set())]
        return sum(len(names) for names in rounds)

    def finish_round(self) -> None:
        """No more data is to be expected in this round: the rest of its planned updates is free."""
        self._finished_round = self.counters.round

    def allowed(self) -> int:
        """Updates of this round that the data seen so far pay for."""
        number, config = self.counters.round, self.config
        over = self._finished_round == number or 0 < config.episodes_per_round <= self.episodes(number)
        started = self.episodes() >= config.start_episodes or self._finished_round == number
        if not started or len(self.online) == 0:
            return 0
        if over:
            return config.planned_updates
        return min(config.planned_updates, math.floor(config.updates_per_transition * self._round_transitions.get(number, 0)))

    @property
    def state(self) -> State:
        if self.counters.round_update >= self.config.planned_updates:
            return State.IDLE
        return State.TRAINING if self.counters.round_update < self.allowed() else State.WAITING

    # --- updates ------------------------------------------------------------------------------------------------------------------

    @property
    def alpha(self) -> float:
        """Blend of the current residual at this update."""
        return self.config.alpha.at(self.counters.round_update, self.config.planned_updates)

    def draw(self) -> Batch:
        """Half offline, half online; all online without an offline store."""
        size, parts = self.config.batch_size, []
        if self._offline is not None:
            parts.append(self._offline.draw(self.rng, size // 2))
        parts.append(self._online.draw(self.rng, size - (size // 2 if parts else 0)))
        return join(parts, self.device)

    def update(self) -> Info:
        """One update of critic and actor."""
        config, counters = self.config, self.counters
        batch = self.draw()
        info, scores = self.critic.update(batch, self.rng)
        alpha = self.alpha
        imitation = config.recipe.imitation.at(counters.round_update, config.planned_updates)
        if counters.update >= config.critic_only:
            info |= self.actor.update(batch, scores, alpha, config.alpha.end, imitation, self.rng)
        counters.update += 1
        counters.round_update += 1
        self.chain.alpha = self.alpha
        self.info = info | {'alpha': self.alpha, 'imitation': imitation}
        return self.info

    def new_round(self, number: int) -> bool:
        """Begin round `number`: a residual that was trained is frozen into the chain at its alpha, a zero one follows.

        What the chain executes is unchanged. False when this round is already on, or over.
        """
        if number <= self.counters.round:
            return False
        trained = self.counters.round_update > 0
        if trained:
            torch.manual_seed(self.config.seed + number)  # the new actor's first layers: the same after a resume
            self.chain.freeze()
            self.actor.restart()
        self.counters.round, self.counters.round_update = number, 0
        self._pending.clear()
        self._good = self.snapshot()
        return trained

    # --- publication --------------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> WeightsVersion:
        return WeightsVersion(self.run, self.counters.round, self.counters.update)

    def check(self) -> str:
        """Why the present weights must not be published; empty when they may."""
        for module in (self.chain, self.critic.critic):
            reason = self.config.gate.reason(module, self.info, self.critic.critic.spec.return_range)
            if reason:
                return reason
        return ''

    def package(self, stamp_ns: int = 0) -> WeightsPackage:
        """The present chain for the topic `weights`; its state is remembered until the residual actor has answered."""
        self._pending[self.version] = self.snapshot()
        while len(self._pending) > REMEMBERED:
            self._pending.popitem(last=False)
        return package(self.chain, self.version, self.critic.critic.spec.model_id, stamp_ns)

    def accepted(self, version: WeightsVersion) -> bool:
        """The residual actor uses `version` now: the state to go back to. False for a version that is not awaited."""
        if version not in self._pending:
            return False
        self._good = self._pending.pop(version)
        for older in [v for v in self._pending if (v.round, v.update) < (version.round, version.update)]:
            del self._pending[older]  # overwritten before the residual actor saw it
        self.counters.accepted += 1
        return True

    def refused(self, version: WeightsVersion) -> bool:
        """The residual actor refused `version`: go back to the last accepted state. False for a version that is not awaited."""
        if version not in self._pending:
            return False
        self.counters.refused += 1
        self.roll_back()
        return True

    def withhold(self) -> None:
        """The publish gate refused: go back to the last accepted state."""
        self.counters.withheld += 1
        self.roll_back()

    def roll_back(self) -> None:
        """Restore networks and optimisers of the last accepted state. Updates go on counting, so versions stay unique."""
        self._pending.clear()
        self._restore(*self._good)
        self.info = {}

    # --- state --------------------------------------------------------------------------------------------------------------------

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {'chain': self.chain, 'critic': self.critic.critic, 'target': self.critic.target}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {'actor_optimizer': self.actor.optimizer, 'critic_optimizer': self.critic.optimizer}

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(facts of the chain, copies of all tensors)."""
        tensors = {f'{name}.{key}': t for name, module in self._modules().items() for key, t in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            tensors |= optimizer_tensors(name, optimizer)
        return self.chain.metadata() | {'alphas': list(self.chain.alphas)}, {k: t.detach().clone() for k, t in tensors.items()}

    def _restore(self, chain_facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._shape_chain(chain_facts)
        for name, module in self._modules().items():
            part = {k[len(name) + 1 :]: t.to(self.device) for k, t in tensors.items() if k.startswith(name + '.')}
            load_state(module, part, f'learner state "{name}"')
        self.chain.alpha = float(chain_facts['alpha'])
        self.actor.restart()
        for name, optimizer in self._optimizers().items():
            load_optimizer(name, optimizer, tensors)

    def _shape_chain(self, facts: dict[str, Any]) -> None:
        """Give the chain the frozen rounds that `facts` names, for tensors to be loaded into."""
        if facts['alphas'] == self.chain.alphas:
            return
        fresh = ResidualChain.from_metadata(facts, self.chain.normalizer, self.chain.bound).to(self.device)
        self.chain.frozen, self.chain.alphas, self.chain.current = fresh.frozen, fresh.alphas, fresh.current

    def _identity(self) -> dict[str, Any]:
        spec = self.critic.critic.spec
        return {
            'k': spec.k, 'joints': list(spec.joints), 'model_id': spec.model_id, 'token_names': list(spec.token_names),
            'token_width': spec.token_width, 'inherited_critic': self._inherited, 'recipe': self.config.recipe.name,
        }  # fmt: skip

    def checkpoint(self, folder: str | Path) -> Path:
        """Write the whole learner but its transitions, which the step log keeps, as one atomic file."""
        chain_facts, tensors = self.snapshot()
        facts = {
            'identity': self._identity(), 'run': self.run, 'counters': vars(self.counters), 'chain': chain_facts,
            'rng': self.rng.bit_generator.state, 'finished_round': self._finished_round,
        }  # fmt: skip
        path = Path(folder) / CHECKPOINT
        write_checkpoint(path, facts, tensors)
        return path

    def resume(self, folder: str | Path) -> None:
        """Continue from a checkpoint, bit for bit. Raises ModelError for one of another horizon, joints, model or recipe."""
        path = Path(folder) / CHECKPOINT
        facts, tensors = read_checkpoint(path)
        for name, expected in self._identity().items():
            if facts['identity'].get(name) != expected:
                raise ModelError(f'{path}: {name} is {facts["identity"].get(name)!r}, expected {expected!r}')
        self._restore(facts['chain'], tensors)
        self.run, self.counters = facts['run'], Counters(**facts['counters'])
        self.rng.bit_generator.state = facts['rng']
        self._finished_round = facts['finished_round']
        self._pending.clear()
        self._good = self.snapshot()
