"""A training session on disk: what is published when, checkpoint first, metrics beside it. Pure: the clock and the stamps are arguments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bora_common.errors import ConfigError, ModelError
from bora_common.robot import RobotSpec
from bora_common.types import WeightsPackage
from bora_critic.critic import load_critic
from bora_critic.losses import Info
from bora_policy.manifest import read_manifest
from bora_policy.residual import ResidualChain, ResidualSpec
from bora_replay.buffer import TransitionBuffer
from bora_trainer.online import CHECKPOINT, OnlineConfig, OnlineLearner, State

METRICS = 'metrics.jsonl'
METRICS_EVERY = 10  # updates between lines


def assemble(
    model: Path, critic_dir: Path, offline: Path | None, robot: RobotSpec, config: OnlineConfig, run: str, device: str, knots: int = 6
) -> OnlineLearner:
    """Learner from files. Raises ModelError or ConfigError when model, critic, offline data and robot do not belong together."""
    facts, model_id = read_manifest(model)
    critic = load_critic(critic_dir, model_id=model_id, joints=tuple(robot.layout.names), k=facts.steps, token_names=facts.token_names)
    spec = critic.spec
    if abs(spec.dt - facts.dt) > 1e-6:
        raise ModelError(f'{critic_dir}: critic was made for dt {spec.dt:g} s, the model for {facts.dt:g} s')
    sizes = ResidualSpec(spec.k, len(spec.joints), len(spec.token_names), spec.token_width, knots)
    chain = ResidualChain(sizes, spec.normalizer, robot.residual_bound, spec.joints)
    store = None
    if offline is not None:
        store = TransitionBuffer.load(
            offline, k=spec.k, joint_names=spec.joints, token_names=spec.token_names, token_width=spec.token_width, model_id=model_id
        )
        if len(store) == 0:
            raise ConfigError(f'{offline}: holds no transitions')
    return OnlineLearner(chain, critic, store, config, run, device)


class MetricsLog:
    """One JSON object a line, and TensorBoard where it is installed and wanted."""

    def __init__(self, folder: Path, tensorboard: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        self._writer = _summary_writer(folder) if tensorboard else None

    def write(self, values: dict[str, Any]) -> None:
        with self._path.open('a') as file:
            file.write(json.dumps(values) + '\n')
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._writer.add_scalar(name, value, values['update'])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the JSON lines hold the same numbers
        return None
    return SummaryWriter(str(folder / 'tensorboard'))


class Session:
    """Runs a learner in slices; every publication is checked, then checkpointed, then handed out."""

    def __init__(self, learner: OnlineLearner, folder: Path, publish_every: int, tensorboard: bool = False):
        self.learner, self.folder, self.publish_every = learner, folder, publish_every
        self.metrics = MetricsLog(folder, tensorboard)
        self.paused = False
        self.updates_per_second = 0.0
        self.trouble = ''  # newest reason why weights were withheld or refused
        self.resumed = (folder / CHECKPOINT).exists()
        if self.resumed:
            learner.resume(folder)

    @property
    def state(self) -> State:
        return State.IDLE if self.paused else self.learner.state

    def work(self, budget: float, clock: Callable[[], float], stamp_ns: int) -> WeightsPackage | None:
        """Updates for about `budget` s of `clock`; ends early with a package when one is due."""
        learner, started, done = self.learner, clock(), 0
        while self.state is State.TRAINING and clock() - started < budget:
            info = learner.update()
            done += 1
            counters = learner.counters
            if counters.update % METRICS_EVERY == 0:
                self._record(info)
            broken = not all(math.isfinite(v) for v in info.values())
            if broken or counters.round_update % self.publish_every == 0 or learner.state is State.IDLE:
                self._rate(done, clock() - started)
                return self.publish(stamp_ns)
        self._rate(done, clock() - started)
        return None

    def _rate(self, done: int, seconds: float) -> None:
        if done:
            rate = done / max(seconds, 1e-9)
            self.updates_per_second = rate if self.updates_per_second == 0 else 0.8 * self.updates_per_second + 0.2 * rate

    def publish(self, stamp_ns: int) -> WeightsPackage | None:
        """Package of the present weights, its checkpoint on disk; None when the gate withheld it (then the last good state is back)."""
        learner = self.learner
        reason = learner.check()
        if reason:
            self.trouble = f'{learner.version} withheld: {reason}'
            learner.withhold()
            learner.checkpoint(self.folder)
            return None
        learner.counters.published += 1
        learner.checkpoint(self.folder)
        return learner.package(stamp_ns)

    def answer(self, version: Any, accepted: bool, reason: str) -> None:
        """The residual actor's answer to a publication."""
        if accepted:
            self.learner.accepted(version)
        elif self.learner.refused(version):
            self.trouble = f'{version} refused: {reason}'
            self.learner.checkpoint(self.folder)

    def begin_round(self, number: int, stamp_ns: int) -> WeightsPackage | None:
        """Start a round; the chain with the newly frozen residual is published at once."""
        if self.learner.new_round(number):
            return self.publish(stamp_ns)
        return None

    def _record(self, info: Info) -> None:
        learner = self.learner
        head = {'run': learner.run, 'round': learner.counters.round, 'update': learner.counters.update}
        head |= {'round_update': learner.counters.round_update, 'transitions': learner.online.distinct}
        self.metrics.write(head | {'updates_per_second': self.updates_per_second} | info)

    def close(self) -> None:
        """Checkpoint what was learnt since the last publication."""
        self.learner.checkpoint(self.folder)
        self.metrics.close()
