"""Settings of the offline phase: dataclasses, read from YAML, each value checked. The methods are files in config/offline/."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bora_common.errors import ConfigError, nearest
from bora_common.paths import resolve


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    demonstrations: tuple[str, ...] = ()  # folders of demonstration files, or files
    own_rollouts: tuple[str, ...] = ()  # episodes of the base model itself: for the critic, and for PPO where `ppo.own` says so
    held_out: tuple[str, ...] = ()  # episodes on which the critic is measured in the end; never trained on
    at_least: int = 2  # demonstrations that a task must have
    own_share: float = 0.25  # rows of own episodes beside each batch, as a share of it
    only_successful: bool = False  # a control: drop the failed demonstrations
    cache: str = ''  # folder of memory-mapped arrays that parallel runs share; none when empty
    robot: str = 'fr3_hand12'


@dataclass(frozen=True)
class ModelConfig:
    """The base model: one to go on from, or a new one."""

    init: str = ''  # model directory; a new model when empty
    expert: Literal['consistency', 'diffusion'] = 'consistency'
    denoise_steps: int = 0  # 0 takes the expert's usual number
    knots: int = 8
    hidden: int = 256
    blocks: int = 3
    width: int = 128  # W of the language model
    layers: int = 2
    steps: int = 32  # k
    horizon: int = 16


@dataclass(frozen=True)
class ActorConfig:
    """Recipe of the actor's updates (the paper: vlm_rate 1e-5, expert_rate 5e-5 on a pretrained 3B model)."""

    vlm_rate: float = 7e-4
    expert_rate: float = 7e-4
    warm_up: int = 200
    weight_decay: float = 1e-3
    clip: float = 1.0  # largest gradient norm
    average: float = 0.995  # of the exponential average of the weights
    jitter: float = 0.2  # relative brightness and contrast, of each image
    tint: float = 0.2  # largest share of a colour that goes to or comes from each other one, of each scene
    proprio_noise: float = 0.01  # rad
    bc_weight: float = 1.0


@dataclass(frozen=True)
class PPOConfig:
    """Policy improvement on the data's own actions (method, section 5)."""

    enabled: bool = False
    start: int = 1000  # update from which the actor's loss has its PPO term
    weight: float = 0.01
    clip: float = 0.2  # of the ratio
    advantage_clip: float = 2.0
    negative: float = 1.0  # share of the advantages below 0 that is kept; at 0 nothing is pushed away from the data
    gae: float = 0.95  # with `shifted` targets; 0 with the others, whose advantages are whole at every step
    refresh: int = 200  # updates between copies of the policy into the old one
    gate: Literal['actor', 'ppo', 'none'] = 'actor'  # what a batch without advantage skips: the actor's update, or its PPO term
    own: bool = False  # the term also sees the actions of own episodes, which are never cloned
    margin: float = 0.0  # the raw mean advantage has to be above it


@dataclass(frozen=True)
class CriticConfig:
    """The critic, and its training beside the actor (method, section 4)."""

    kind: Literal['none', 'tokens', 'pixels'] = 'none'  # tokens: reads the VLM's; pixels: the decoupled baseline
    targets: Literal['returns', 'chunk', 'shifted'] = 'chunk'  # after `warm_up` updates on Monte-Carlo returns
    warm_up: int = 400
    rate: float = 3e-4
    weight_decay: float = 1e-4
    clip: float = 1.0
    expectile: float = 0.7
    gamma: float = 0.99
    target_rate: float = 0.005
    sub_steps: int = 8  # evenly spaced chunk steps of an update, with a random offset
    hidden: int = 128
    ensemble: int = 2
    token_noise: float = 0.5  # on tokens while training, as a share of each token's deviation: few episodes are learnt by heart otherwise
    head_start: int = 0  # updates before the actor's first, on the initial model
    settle: int = 800  # updates of the new critic that is handed over, on the final model
    settle_own: float = 0.75  # share of own episodes in them: V is to follow the policy, which fails where demonstrators do not
    alone_batch: int = 128  # of the updates that the critic makes alone: those of the head start and for the hand-over


@dataclass(frozen=True)
class RunConfig:
    """How it is run: what does not change the result, but for rounding."""

    out: str = ''  # model directory that is written; build/offline/<name> when empty
    work: str = ''  # folder of the checkpoint and of the TensorBoard log; <out>.work when empty
    device: str = 'auto'
    threads: int = 1
    checkpoint_every: int = 250
    log_every: int = 20
    tensorboard: bool = True


@dataclass(frozen=True)
class OfflineConfig:
    """One run of the offline phase."""

    name: str = 'bora-offline'
    updates: int = 1000
    batch: int = 32  # over all processes
    bf16: bool = False  # forward passes in bfloat16; weights stay float32
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def out(self) -> Path:
        return Path(self.run.out or Path('build') / 'offline' / self.name)

    @property
    def work(self) -> Path:
        return Path(self.run.work or f'{self.out}.work')

    @property
    def own_batch(self) -> int:
        """Rows of own episodes beside each batch; 0 without a critic or without own episodes."""
        return round(self.batch * self.data.own_share) if self.data.own_rollouts and self.critic.kind != 'none' else 0

    def recipe(self) -> dict[str, Any]:
        """What a checkpoint must have been made with: all but how and where it is run."""
        content = {k: v for k, v in dataclasses.asdict(self).items() if k != 'run'}
        places = ('demonstrations', 'own_rollouts', 'held_out', 'cache')  # the data's digest stands for them
        content['data'] = {k: v for k, v in content['data'].items() if k not in places}
        content['model'] = {k: v for k, v in content['model'].items() if k != 'init'}
        return content

    def check(self) -> OfflineConfig:
        """Itself. Raises ConfigError naming the first value that can not be."""
        positive = {
            'updates': self.updates, 'batch': self.batch, 'model.horizon': self.model.horizon, 'ppo.refresh': self.ppo.refresh,
            'ppo.advantage_clip': self.ppo.advantage_clip, 'critic.sub_steps': self.critic.sub_steps,
            'critic.alone_batch': self.critic.alone_batch,
            'critic.ensemble': self.critic.ensemble, 'run.threads': self.run.threads,
            'run.checkpoint_every': self.run.checkpoint_every, 'run.log_every': self.run.log_every,
        }  # fmt: skip
        for name, value in positive.items():
            if value <= 0:
                raise ConfigError(f'{name}: {value}, expected more than 0')
        shares = {
            'critic.gamma': self.critic.gamma, 'critic.expectile': self.critic.expectile, 'critic.target_rate': self.critic.target_rate,
            'ppo.gae': self.ppo.gae, 'ppo.clip': self.ppo.clip,
            'ppo.negative': self.ppo.negative, 'actor.average': self.actor.average, 'data.own_share': self.data.own_share,
            'critic.settle_own': self.critic.settle_own,
        }  # fmt: skip
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f'{name}: {value}, expected 0 to 1')
        if not self.data.demonstrations:
            raise ConfigError('data.demonstrations: empty, expected folders of demonstrations')
        if self.ppo.enabled and self.critic.kind == 'none':
            raise ConfigError('critic.kind: none, but ppo.enabled needs a critic: tokens or pixels')
        if self.data.only_successful and self.critic.kind != 'none':
            raise ConfigError(f'data.only_successful: a critic ({self.critic.kind}) learns nothing without failures; set critic.kind none')
        return self


def load_config(name: str | Path) -> OfflineConfig:
    """Settings from a YAML file, or by the name of one in config/offline/. Raises ConfigError naming file and key."""
    path = resolve(name, 'config/offline')
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        valid = sorted(p.stem for p in path.parent.glob('*.yaml'))
        raise ConfigError(f'offline config {path} does not exist, {nearest(Path(name).stem, valid)}') from None
    except yaml.YAMLError as error:
        raise ConfigError(f'offline config {path} is not YAML: {error}') from None
    return _read(OfflineConfig, content or {}, str(path), '')


def _read(kind: type, content: Any, where: str, prefix: str) -> Any:
    """A dataclass from a mapping; what is left out keeps its default."""
    if not isinstance(content, Mapping):
        raise ConfigError(f'{where}: {prefix.rstrip(".") or "file"} must hold a mapping')
    hints, values = typing.get_type_hints(kind), {}
    for key, value in content.items():
        if key not in hints:
            raise ConfigError(f'{where}: unknown key "{prefix}{key}", {nearest(str(key), hints)}')
        values[key] = _value(hints[key], value, where, f'{prefix}{key}')
    return kind(**values)


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, where, f'{key}.')
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f'{where}: {key} is {value!r}, {nearest(str(value), typing.get_args(hint))}')
        return value
    if origin is tuple:
        return tuple(_value(str, v, where, key) for v in (value if isinstance(value, list) else [value]))
    numeric = hint is float and isinstance(value, int) and not isinstance(value, bool)
    wrong = not numeric and (not isinstance(value, hint) or (hint is int and isinstance(value, bool)))
    if wrong or isinstance(value, types.NoneType):
        raise ConfigError(f'{where}: {key} is {value!r}, expected {hint.__name__}')
    return float(value) if numeric else value
