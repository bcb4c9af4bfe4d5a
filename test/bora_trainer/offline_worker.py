"""What the tests of the offline phase run in processes of their own: a run that is killed, and one process of two."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
torch.set_num_threads(1)

import offline_toy as toy  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from bora_trainer.offline_run import train_offline  # noqa: E402
from bora_trainer.replicas import Replicas  # noqa: E402

JOINT = {'critic': {'warm_up': 0}, 'ppo': {'start': 0, 'weight': 1.0}}  # everything at once from the first update on


def killed(folder: str, update: str) -> None:
    """Train until the given update, then die without a word."""

    def report(stage: str, done: int, total: int, info: dict[str, float]) -> None:
        if done == int(update):
            os.kill(os.getpid(), signal.SIGKILL)

    train_offline(toy.run_config(Path(folder)), report)


def gradients(replicas: Replicas) -> dict[str, torch.Tensor]:
    """Gradients of one update, and of two that a shut gate skips for the actor, with the advantage that it saw."""
    found: dict[str, torch.Tensor] = {}
    for name, ppo in (('open', {}), ('shut', {'gate': 'actor', 'margin': 1e9})):
        phase = toy.phase(toy.config(**(JOINT | {'ppo': JOINT['ppo'] | ppo})), replicas=replicas)
        for _ in range(1 if name == 'open' else 2):
            info = phase.step()
        found[f'{name}.advantage'] = torch.tensor(info['advantage'])
        for part, module in (('actor', phase.actor.model), ('critic', phase.critic.critic)):
            found |= {f'{name}.{part}.{n}': p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return found


def replica(out: str) -> None:
    """One process of a group; the first writes its gradients."""
    replicas = Replicas.from_environment(torch.device('cpu'))
    found = gradients(replicas)
    if replicas.rank == 0:
        save_file(found, out)
    replicas.close()


if __name__ == '__main__':
    {'killed': killed, 'replica': replica}[sys.argv[1]](*sys.argv[2:])
