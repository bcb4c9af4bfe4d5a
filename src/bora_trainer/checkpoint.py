"""Learner states as one safetensors file: facts as JSON in its header, a digest over the tensors, written atomically."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bora_common.errors import ModelError
from bora_critic.critic import write_atomic

FORMAT = 'bora-learner-1'


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b'')
    return digest.hexdigest()


def write_checkpoint(path: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """One atomic file; what was there before stays until the new one is whole."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {'format': FORMAT, 'sha256': digest_of(tensors), 'facts': json.dumps(facts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors, metadata=metadata))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(facts, tensors). Raises ModelError when the file is not a whole checkpoint: a run never silently starts over."""
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise ModelError(f'checkpoint {path} does not exist') from None
    except SafetensorError as error:
        raise ModelError(f'checkpoint {path} is damaged: {error}') from None
    if metadata.get('format') != FORMAT:
        raise ModelError(f'checkpoint {path}: format is {metadata.get("format")!r}, expected "{FORMAT}"')
    if metadata.get('sha256') != digest_of(tensors):
        raise ModelError(f'checkpoint {path} is damaged: its digest does not fit its tensors')
    return json.loads(metadata['facts']), tensors


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as tensors named prefix.<parameter>.<entry>."""
    state = optimizer.state_dict()['state']
    return {f'{prefix}.{index}.{key}': value for index, entry in state.items() for key, value in entry.items()}


def load_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; parameters without an entry start fresh."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix + '.'):
            index, key = name[len(prefix) + 1 :].split('.')
            state.setdefault(int(index), {})[key] = tensor.clone()
    optimizer.load_state_dict({'state': state, 'param_groups': optimizer.state_dict()['param_groups']})
