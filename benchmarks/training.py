"""`trainer_bare_updates_per_s`: updates of the residual and the critic in a bare loop, on the transitions of a recorded run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from timing import emit

from bora_common import codec, topics
from bora_common.codec_record import from_bytes
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_replay.steplog import read_entries
from bora_trainer.actor_update import recipe
from bora_trainer.online import OnlineConfig
from bora_trainer.session import assemble
from bora_trainer.trainer_node import TrainerNode

WARM_UP, SECONDS = 5, 10.0


def main() -> None:
    torch.set_num_threads(1)
    robot, model = load_robot(resolve('fr3_hand12', 'config/robots')), resolve('press_button', 'models')
    named = next(p.default for p in TrainerNode.PARAMETERS if p.name == 'recipe')
    config = OnlineConfig(planned_updates=1_000_000, recipe=recipe(named))
    learner = assemble(model, model / 'critic', model / 'offline.safetensors', robot, config, 'bench', 'cpu')
    for entry in read_entries(Path(sys.argv[1])):
        if entry.topic == topics.REPLAY.name:
            learner.add(codec.decode_transition(from_bytes(entry.data, entry.type), robot.layout))
    for _ in range(WARM_UP):
        learner.update()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        learner.update()
        done += 1
    emit({'trainer_bare_updates_per_s': round(done / (time.perf_counter() - begin), 2)})


if __name__ == '__main__':
    main()
