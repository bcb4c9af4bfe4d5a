"""The critic as a whole: Q ensemble, V, the normaliser they were trained with, and its directory on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from bora_common.errors import ModelError
from bora_common.types import Normalizer
from bora_critic.networks import ValueHeads
from bora_critic.value_model import Observation

FORMAT = 'bora-critic-2'
MANIFEST, WEIGHTS = 'manifest.json', 'critic.safetensors'


@dataclass(frozen=True)
class CriticSpec:
    """What a critic was made for; stored beside its weights."""

    model_id: str  # of the VLA whose tokens it reads
    joints: tuple[str, ...]  # D
    token_names: tuple[str, ...]  # T
    token_width: int  # W
    k: int
    dt: float  # s
    mean: tuple[float, ...]  # rad, of the normaliser
    std: tuple[float, ...]
    hidden: int = 128
    ensemble: int = 2
    gamma: float = 0.99
    return_range: tuple[float, float] = (-1.0, 1.0)  # of the data it was trained on; scales `risk`

    @property
    def normalizer(self) -> Normalizer:
        return Normalizer(np.array(self.mean), np.array(self.std))


class Critic(ValueHeads):
    """q [E,B,M] and v [B,M] on normalised inputs."""

    def __init__(self, spec: CriticSpec):
        super().__init__(spec.ensemble, len(spec.token_names), spec.token_width, len(spec.joints), spec.k, hidden=spec.hidden)
        self.spec = spec
        self.register_buffer('mean', torch.tensor(spec.mean, dtype=torch.float32), persistent=False)
        self.register_buffer('std', torch.tensor(spec.std, dtype=torch.float32), persistent=False)

    def features(self, observation: Observation) -> Tensor:
        """The VLM's tokens [B,T,W], `observation['tokens']`, as a constant: the critic's losses must not move the VLM."""
        return observation['tokens'].detach()

    def normalize(self, positions: Tensor) -> Tensor:
        """Positions [..,D] in rad -> normalised."""
        return (positions - self.mean) / self.std


def check_spec(spec: CriticSpec, where: str, **expected: object) -> None:
    """Raises ModelError naming the first property of `spec` that differs from what the caller expects."""
    for name, value in expected.items():
        found = getattr(spec, name)
        value = tuple(value) if isinstance(value, list) else value
        same = abs(found - value) < 1e-9 if isinstance(value, float) else found == value
        if not same:
            raise ModelError(f'{where}: critic was made for {name} {_short(found)}, expected {_short(value)}')


def _short(value: object) -> str:
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 120 else text[:117] + '...'


def write_atomic(path: Path, data: bytes) -> None:
    """Write, fsync, rename: a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + '.tmp')
    with temporary.open('wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_critic(critic: Critic, folder: str | Path, **facts: object) -> None:
    """Write the critic's directory; `facts` (metrics, seed …) go into the manifest."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = save_safetensors({name: tensor.contiguous() for name, tensor in critic.state_dict().items()})
    manifest = {'format': FORMAT, 'sha256': hashlib.sha256(data).hexdigest(), 'spec': dataclasses.asdict(critic.spec), 'facts': facts}
    write_atomic(folder / WEIGHTS, data)
    write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + '\n').encode())


def read_spec(folder: str | Path) -> tuple[CriticSpec, str]:
    """Spec and SHA-256 of the weights in a critic's directory. Raises ModelError naming file and expectation."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest.get('format') != FORMAT:
            raise ModelError(f'{path}: format is {manifest.get("format")!r}, expected "{FORMAT}"')
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in manifest['spec'].items()}
        return CriticSpec(**values), manifest['sha256']
    except FileNotFoundError:
        raise ModelError(f'critic: file {path} does not exist') from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f'{path}: unreadable manifest: {type(error).__name__}: {error}') from None


def load_critic(folder: str | Path, **expected: object) -> Critic:
    """Critic from its directory. `expected` (model_id=…, joints=…, k=…) must match its spec. Raises ModelError."""
    folder = Path(folder)
    spec, digest = read_spec(folder)
    check_spec(spec, str(folder), **expected)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelError(f'{path}: SHA-256 is not the one in {MANIFEST} (damaged or replaced)')
        state = load_safetensors(data)
    except FileNotFoundError:
        raise ModelError(f'critic: file {path} does not exist') from None
    except SafetensorError as error:
        raise ModelError(f'{path}: not a safetensors file: {error}') from None
    critic = Critic(spec)
    load_state(critic, state, str(path))
    return critic.eval()


def load_state(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load tensors into a module after checking names, shapes and finiteness. Raises ModelError naming the tensor."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            raise ModelError(f'{where}: tensor "{name}" is {"missing" if name not in state else "not expected"}')
        if state[name].shape != own[name].shape:
            raise ModelError(f'{where}: tensor "{name}" has shape {list(state[name].shape)}, expected {list(own[name].shape)}')
        if state[name].is_floating_point() and not bool(torch.isfinite(state[name]).all()):
            raise ModelError(f'{where}: tensor "{name}" holds values that are not finite')
    module.load_state_dict(state)
