"""One run of the offline phase from its settings: data, both stages, progress on disk, and the hand-over of what was trained.

    <out>/                    the base model (bora_policy.vla), frozen
        critic/               the critic of tokens, trained on the final model's features
        offline.json          settings and measurements
    <work>/                   checkpoint and TensorBoard log
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bora_common.errors import ConfigError, ModelError
from bora_common.paths import resolve, share
from bora_common.robot import RobotSpec, load_robot, load_task
from bora_critic.critic import Critic, CriticSpec, save_critic, write_atomic
from bora_critic.decoupled import DecoupledCritic
from bora_policy.tokenizer import build_tokenizer
from bora_policy.vla import BoraVLA, build, small_vlm
from bora_trainer.dataset import Demonstrations, load_demonstrations
from bora_trainer.offline_config import OfflineConfig
from bora_trainer.offline_data import OfflineData
from bora_trainer.offline_measures import measure
from bora_trainer.offline_phase import OfflinePhase
from bora_trainer.offline_state import CHECKPOINT, facts_of, load_phase, save_phase
from bora_trainer.replicas import Replicas

FACTS = 'offline.json'
Report = Callable[[str, int, int, dict[str, float]], None]  # stage, done, total, numbers of the last update


def quiet(stage: str, done: int, total: int, info: dict[str, float]) -> None:
    """Reports nothing."""


def train_offline(config: OfflineConfig, report: Report = quiet) -> dict[str, Any]:
    """Train and write the model directory `config.out`; the facts of the run, also in offline.json.

    Goes on from the checkpoint in `config.work`. In a process of torchrun: together with the others; the first one writes.
    """
    config.check()
    torch.set_num_threads(config.run.threads)
    device = pick_device(config.run.device)
    replicas = Replicas.from_environment(device)
    try:
        return _train(config, device, replicas, report)
    finally:
        replicas.close()


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, `cuda` this process's own device under torchrun.

    Raises ConfigError for a device that is not there.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f'run.device: "{name}" is not a device, expected auto, cpu or cuda') from None
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ConfigError(f'run.device: {name}, but CUDA is not available')
    if device.type == 'cuda':
        if device.index is None:
            device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))
        torch.cuda.set_device(device)
    return device


def _train(config: OfflineConfig, device: torch.device, replicas: Replicas, report: Report) -> dict[str, Any]:
    robot = load_robot(resolve(config.data.robot, 'config/robots'))
    data = load_data(config, robot, config.data.demonstrations, config.data.only_successful)
    own = load_data(config, robot, config.data.own_rollouts) if config.own_batch else None
    torch.manual_seed(config.seed)
    model = make_model(config, robot, data.frames).to(device)
    critic = make_critic(config, model, data)
    phase = OfflinePhase(model, None if critic is None else critic.to(device), data, config, own, replicas)
    speed = run_updates(phase, report)
    facts = {'settings': dataclasses.asdict(config), 'data': data.frames.digest, 'updates_per_s': speed, 'processes': replicas.size}
    facts |= {'gate_open_fraction': phase.open_fraction if phase.gated else None, 'actor_updates': phase.actor.updates}
    if replicas.rank == 0:
        facts |= hand_over(phase, report)
        if config.data.held_out and phase.critic is not None:
            facts['held_out'] = measure(phase, load_data(config, robot, config.data.held_out))
        write_atomic(config.out / FACTS, (json.dumps(facts, indent=1, sort_keys=True) + '\n').encode())
    return facts


def load_data(config: OfflineConfig, robot: RobotSpec, places: Sequence[str], only_successful: bool = False) -> OfflineData:
    """Episodes in folders or files of demonstrations. Raises ConfigError naming what can not be used."""
    tasks = [load_task(path, robot) for path in sorted((share() / 'config' / 'tasks').glob('*.yaml'))]
    frames = load_demonstrations(
        _files(places), {t.name: t.instruction for t in tasks}, robot.layout, robot.cameras, only_successful=only_successful,
        at_least=config.data.at_least, cache=config.data.cache or None,
    )  # fmt: skip
    return OfflineData(frames, {t.name: t.episode_steps for t in tasks}, config.critic.gamma)


def _files(places: Sequence[str]) -> list[Path]:
    """Demonstration files in the folders among `places`, and the files among them."""
    files: list[Path] = []
    for place in map(Path, places):
        found = sorted(place.glob('*.npz')) if place.is_dir() else [place]
        if not found:
            raise ConfigError(f'{place}: holds no demonstrations (*.npz)')
        files += found
    return files


def make_model(config: OfflineConfig, robot: RobotSpec, frames: Demonstrations) -> BoraVLA:
    """The model to go on from, checked against robot, images and expert; or a new one."""
    wanted, size = config.model, frames.images.shape[2]
    if wanted.init:
        expected = {'image_size': size, 'steps': wanted.steps, 'horizon': wanted.horizon, 'camera_names': robot.cameras}
        model = BoraVLA.from_pretrained(wanted.init, joint_names=robot.layout.names, **expected)
        if model.config.expert != wanted.expert:
            raise ModelError(f'{wanted.init}: its expert is {model.config.expert}, expected {wanted.expert} (model.expert)')
        return model
    vocabulary = build_tokenizer(frames.instructions).get_vocab_size() + 1
    return build(
        robot.layout, robot.cameras, frames.normalizer(), instructions=frames.instructions, image_size=size, steps=wanted.steps,
        horizon=wanted.horizon, vlm=small_vlm(size, vocabulary, wanted.width, wanted.layers), expert=wanted.expert,
        denoise_steps=wanted.denoise_steps, knots=wanted.knots, hidden=wanted.hidden, blocks=wanted.blocks,
    )  # fmt: skip


def make_critic(config: OfflineConfig, model: BoraVLA, data: OfflineData) -> nn.Module | None:
    """A new critic of the kind that the settings name."""
    facts, wanted = model.facts, config.critic
    if wanted.kind == 'none':
        return None
    if wanted.kind == 'pixels':
        return DecoupledCritic(facts.camera_names, facts.joint_names, facts.steps, hidden=wanted.hidden, ensemble=wanted.ensemble)
    low, high = (float(x) for x in np.quantile(data.returns, [0.02, 0.98]))
    return Critic(CriticSpec(
        model_id='', joints=facts.joint_names, token_names=facts.token_names, token_width=facts.token_width, k=facts.steps, dt=facts.dt,
        mean=tuple(model.normalizer.mean.tolist()), std=tuple(model.normalizer.std.tolist()), hidden=wanted.hidden,
        ensemble=wanted.ensemble, gamma=wanted.gamma, return_range=(low, max(high, low + 1e-3)),
    ))  # fmt: skip


def run_updates(phase: OfflinePhase, report: Report) -> float:
    """All updates, from the checkpoint on if there is one; updates a second of this run, 0 where none was left."""
    config, first = phase.config, phase.replicas.rank == 0
    path, facts = config.work / CHECKPOINT, facts_of(phase)
    if path.is_file():
        load_phase(phase, path, facts)
    elif phase.critic is not None and config.critic.head_start:
        phase.head_start(lambda done: report('head start', done, config.critic.head_start, {}))
        if first:
            save_phase(phase, path, facts)
    begin, began = phase.updates, time.monotonic()
    with _Log(config, first, phase.updates) as log:
        while phase.updates < config.updates:
            info = phase.step()
            log.write(phase.updates, info)
            report('training', phase.updates, config.updates, info)
            if first and (phase.updates % config.run.checkpoint_every == 0 or phase.updates == config.updates):
                save_phase(phase, path, facts)
    return (phase.updates - begin) / max(time.monotonic() - began, 1e-9)


class _Log:
    """TensorBoard's event file in the work folder."""

    def __init__(self, config: OfflineConfig, writes: bool, update: int):
        self._every, self._writer = config.run.log_every, None
        if writes and config.run.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ConfigError('run.tensorboard: package "tensorboard" is not installed; install it or give false') from None
            self._writer = SummaryWriter(str(config.work / 'tensorboard'), purge_step=update + 1)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, update: int, info: dict[str, float]) -> None:
        """Numbers of every `log_every`-th update."""
        if self._writer is not None and update % self._every == 0:
            for name, value in info.items():
                self._writer.add_scalar(f'offline/{name}', value, update)


def hand_over(phase: OfflinePhase, report: Report = quiet) -> dict[str, Any]:
    """Freeze the VLA, write it, train a new critic on it and write that of tokens (method, section 5); their digest and losses."""
    config = phase.config
    model = phase.actor.averaged()
    facts: dict[str, Any] = {'model_digest': model.save_pretrained(config.out)}
    if phase.critic is None:
        return facts
    torch.manual_seed(config.seed)
    critic = make_critic(config, model, phase.demonstrations.data).to(phase.device)
    settled = phase.settle(critic, lambda done: report('hand-over', done, config.critic.settle, {}))
    facts |= {f'settled_{name}': value for name, value in settled.items()}
    if config.critic.kind == 'tokens':
        critic.spec = dataclasses.replace(critic.spec, model_id=model.model_id)
        save_critic(critic.eval(), Path(config.out) / 'critic', updates=phase.critic.updates, seed=config.seed)
    return facts
