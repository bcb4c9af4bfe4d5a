"""Stage: what the online phase starts from, a model directory a task: base model, critic, and the offline data under that model."""

from __future__ import annotations

import os
import shutil
from itertools import chain
from pathlib import Path

import torch

from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_policy.policy import Policy
from bora_rollout.job import Job
from bora_rollout.models import Recipe, demonstrated, offline_transitions

MODEL, PARTIAL = 'model', '.partial'


def hand_over(job: Job) -> dict[str, object]:
    """A folder a task, as `bora_rollout.models` lays it out: model and critic serve all tasks, the transitions are each task's own."""
    torch.set_num_threads(1)
    tasks, transitions = job.inputs['tasks'], {}
    source = job.needs['train/bora-offline'] / MODEL
    recipe = Recipe(seed=job.inputs['seed'], stride=job.inputs['stride'])
    robot = load_robot(resolve(recipe.robot, 'config/robots'))
    policy = Policy.load(source, joint_names=robot.layout.names, camera_names=robot.cameras)
    for number, task in enumerate(tasks):
        demonstrations = sorted(job.needs[f'demonstrations/{task}'].glob('*.npz'))
        own = sorted(job.needs['own'].glob(f'{task}_*.npz'))
        episodes = chain(demonstrated(demonstrations, robot.layout.names), demonstrated(own, robot.layout.names))
        buffer = offline_transitions(
            policy, episodes, len(demonstrations) + len(own), Recipe(**{**vars(recipe), 'task': task}), robot, lambda *_: None
        )
        partial = job.folder / f'{task}{PARTIAL}'
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        buffer.save(partial / 'offline.safetensors')
        _place(partial, job.folder / task)
        transitions[task] = len(buffer)
        job.report(number + 1, len(tasks))
    return {'model': policy.model.model_id, 'transitions': transitions}


def _place(partial: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
