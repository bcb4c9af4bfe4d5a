"""Progress of the offline phase as one atomic safetensors file: training goes on from it bit for bit (on a CPU)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bora_common.errors import ModelError
from bora_trainer.checkpoint import load_optimizer, optimizer_tensors, read_checkpoint, write_checkpoint
from bora_trainer.offline_phase import OfflinePhase

CHECKPOINT = 'offline_checkpoint.safetensors'


def facts_of(phase: OfflinePhase) -> dict[str, Any]:
    """What a checkpoint was made for, in the order in which differences are named."""
    facts, normalizer = phase.actor.model.facts, phase.actor.model.normalizer
    return {
        'joints': list(facts.joint_names),
        'cameras': list(facts.camera_names),
        'horizon': facts.horizon,
        'steps': facts.steps,
        'normalizer mean': normalizer.mean.tolist(),
        'normalizer std': normalizer.std.tolist(),
        'data digest': phase.demonstrations.data.frames.digest,
        'own rollouts digest': '' if phase.own is None else phase.own.data.frames.digest,
        'initial model': phase.actor.model.model_id,
        **{f'setting {name}': value for name, value in _flat(phase.config.recipe())},
    }


def _flat(values: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{name}.')
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value


def save_phase(phase: OfflinePhase, path: Path, facts: dict[str, Any]) -> None:
    """Write progress. `facts`: of this phase, computed once a run."""
    actor, critic = phase.actor, phase.critic
    counters = {'update': phase.updates, 'actor': actor.updates, 'gated': phase.gated, 'opened': phase.opened}
    tensors = {'generator': phase.generator.get_state(), 'torch_generator': torch.get_rng_state()}
    tensors |= optimizer_tensors('actor_optimiser', actor.optimiser)
    for (name, parameter), average in zip(actor.model.named_parameters(), actor.average, strict=True):
        tensors[f'model.{name}'], tensors[f'average.{name}'] = parameter, average
    tensors |= _tensors('old', actor.old)
    if critic is not None:
        counters['critic'] = critic.updates
        tensors |= _tensors('critic', critic.critic) | _tensors('target', critic.target)
        tensors |= optimizer_tensors('critic_optimiser', critic.optimiser)
    write_checkpoint(path, {'for': facts, 'counters': counters}, tensors)


def _tensors(prefix: str, module: nn.Module | None) -> dict[str, Tensor]:
    return {} if module is None else {f'{prefix}.{name}': p for name, p in module.named_parameters()}


def load_phase(phase: OfflinePhase, path: Path, facts: dict[str, Any]) -> None:
    """Take progress from `path` into a new phase. Raises ModelError where it is damaged or was made for something else."""
    stored, tensors = read_checkpoint(path)
    _expect(stored['for'], facts, path)
    actor, critic, counters = phase.actor, phase.critic, stored['counters']
    phase.updates, phase.gated, phase.opened = (counters[n] for n in ('update', 'gated', 'opened'))
    phase.generator.set_state(tensors['generator'])
    torch.set_rng_state(tensors['torch_generator'])
    actor.updates = counters['actor']
    _fill(actor.model, 'model', tensors)
    for (name, _), average in zip(actor.model.named_parameters(), actor.average, strict=True):
        average.copy_(tensors[f'average.{name}'])
    load_optimizer('actor_optimiser', actor.optimiser, tensors)
    if any(name.startswith('old.') for name in tensors):
        actor.refresh_old()
        _fill(actor.old, 'old', tensors)
    if critic is not None:
        critic.updates = counters['critic']
        _fill(critic.critic, 'critic', tensors)
        _fill(critic.target, 'target', tensors)
        load_optimizer('critic_optimiser', critic.optimiser, tensors)


@torch.no_grad()
def _fill(module: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(tensors[f'{prefix}.{name}'])


def _expect(found: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    """Raises ModelError naming the first fact that differs."""
    for name in (*expected, *(n for n in found if n not in expected)):
        if found.get(name) != expected.get(name):
            raise ModelError(
                f'{path}: checkpoint made for {name} {_short(found.get(name))}, expected {_short(expected.get(name))}; '
                'move it away or give what it was made for'
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f'{text[:97]}...'
