"""Stages that let a model act: its own episodes as data for the critic, and its success on fresh scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_policy.policy import Policy
from bora_rollout.batch import Ended, rollouts
from bora_rollout.evaluate import BATCH, Subject, scene_seed, trials_of
from bora_rollout.job import Job, write_whole
from bora_sim import demos
from bora_sim.world import SimWorld

MODEL = 'model'  # folder of the model in a training stage's
ROBOT = 'fr3_hand12'


def model_of(job: Job) -> Path:
    """The model directory of the one training that a stage needs."""
    return next(folder for name, folder in job.needs.items() if name.startswith('train/')) / MODEL


def own_episodes(job: Job) -> dict[str, object]:
    """Stage: episodes that a model plays on scenes from `seed` on, as files like demonstrations; what it executed is the label too.

    Scenes are played in blocks that are kept or repeated whole: which worlds plan together must not depend on where a run was killed.
    """
    torch.set_num_threads(1)
    tasks, episodes = job.inputs['tasks'], job.inputs['episodes']
    policy = _load(model_of(job))
    counts, done = {}, 0
    for task in tasks:
        seeds = range(job.inputs['seed'], job.inputs['seed'] + episodes)
        for begin in range(0, episodes, BATCH):
            block = seeds[begin : begin + BATCH]
            if not all(demos.episode_path(job.folder, task, seed).is_file() for seed in block):
                _play(policy, task, block, job.folder)
            done += len(block)
            job.report(done, len(tasks) * episodes)
        counts[task] = sum(demos.load(demos.episode_path(job.folder, task, seed)).success for seed in seeds)
    return {'episodes': episodes, 'successes': counts}


def _load(model: Path) -> Policy:
    robot = load_robot(resolve(ROBOT, 'config/robots'))
    return Policy.load(model, joint_names=robot.layout.names, camera_names=robot.cameras)


def _play(policy: Policy, task: str, seeds: Sequence[int], folder: Path) -> None:
    subject = Subject(task, policy)
    worlds = [SimWorld(task, seeds[0]) for _ in seeds]
    for ended in rollouts(worlds, *subject.load(), seeds, record=True):
        _as_demonstration(task, ended).save(demos.episode_path(folder, task, ended.trial.seed))


def _as_demonstration(task: str, ended: Ended) -> demos.Demo:
    episode = ended.episode
    proprio, executed = (np.asarray(rows, dtype=np.float32) for rows in (episode.proprio, episode.executed))
    start = np.asarray(ended.world.start, dtype=np.float32)
    facts = (task, ended.trial.seed, False, episode.success)
    return demos.Demo(*facts, episode.images, proprio, executed, executed, start, failure=episode.failure)


def evaluation(job: Job) -> dict[str, object]:
    """Stage: outcomes of a model on the scenes of every task, block by block, so that an interrupted one goes on."""
    torch.set_num_threads(1)
    tasks, trials, variant = job.inputs['tasks'], job.inputs['trials'], job.inputs['variant']
    model = Policy.load(model_of(job))
    outcomes: dict[str, dict[str, object]] = {}
    for number, task in enumerate(tasks):
        seeds = [scene_seed(job.inputs['seed'], episode) for episode in range(trials)]
        rows = []
        for begin in range(0, trials, BATCH):
            rows += _block(job.folder / f'{task}_{begin:04d}.json', Subject(task, model, variant=variant), seeds[begin : begin + BATCH])
            job.report(number * trials + len(rows), len(tasks) * trials)
        outcomes[task] = {'success': ''.join('01'[success] for success, _ in rows), 'mean_steps': float(np.mean([s for _, s in rows]))}
    return {'model': model.model.model_id, 'outcomes': outcomes}


def _block(file: Path, subject: Subject, seeds: Sequence[int]) -> list[tuple[bool, int]]:
    """(success, steps) of the scenes, from `file` where they were played before."""
    if not file.is_file():
        played = trials_of(subject, subject.load(), seeds)
        write_whole(file, json.dumps([[t.success, t.steps] for t in played]))
    return [(bool(success), int(steps)) for success, steps in json.loads(file.read_text())]
