"""Demonstrations by the scripted experts: one compressed .npz an episode.

Frame j is seen before step j; `intended[j]` is the expert's joint target for the end of step j and `executed[j]` the command that was in
force then: the intended one plus a disturbance (DART), so that the data show the way back from where a policy will stray to. The next
intended target starts from the executed one.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bora_common.images import to_model_size
from bora_common.kinematics import JOINTS, LOWER, UPPER
from bora_sim.expert import make_expert
from bora_sim.tasks import Task
from bora_sim.world import CAMERAS, SimWorld

MODEL_SIZE = 64  # px
NOISE_ARM, NOISE_HAND = 0.006, 0.02  # rad a step, standard deviation of the disturbance in free motion
NOISE_MEMORY = 0.5  # correlation from one step to the next
NOISE_NEAR = 0.25  # share of it that is left where precision matters
PATIENCE = 2.5  # times a policy's time: a demonstrator goes on until it is done, however often it has to try again


@dataclass(frozen=True)
class Demo:
    """One demonstration of N steps. C cameras in the order of `cameras`."""

    task: str
    seed: int
    poor: bool
    success: bool
    images: np.ndarray  # uint8 [N,C,64,64,3], RGB, before each step
    proprio: np.ndarray  # float32 [N,19] rad, before each step
    executed: np.ndarray  # float32 [N,19] rad, command in force at the end of each step
    intended: np.ndarray  # float32 [N,19] rad, the label
    start: np.ndarray  # float32 [19] rad, command in force before the first step
    cameras: tuple[str, ...] = CAMERAS
    joints: tuple[str, ...] = JOINTS
    failure: bool = False  # it ended in a failure

    def save(self, path: Path) -> None:
        """Write compressed; the file appears whole or not at all."""
        partial = path.with_name(f'.{path.name}.partial')
        with open(partial, 'wb') as file:
            np.savez_compressed(file, **{name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__})
        os.replace(partial, path)


def load(path: Path) -> Demo:
    """Read one episode file (no pickle)."""
    with np.load(path, allow_pickle=False) as file:
        kinds = {'task': str, 'seed': int, 'poor': bool, 'success': bool, 'failure': bool}
        fields = [n for n in Demo.__dataclass_fields__ if n != 'failure' or n in file]  # an older file does not say
        values = {name: kinds[name](file[name]) if name in kinds else file[name] for name in fields}
    return Demo(**{**values, 'cameras': tuple(map(str, values['cameras'])), 'joints': tuple(map(str, values['joints']))})


class Disturbance:
    """Slowly varying noise on the executed command."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._size = np.r_[np.full(7, NOISE_ARM), np.full(12, NOISE_HAND)]
        self._value = np.zeros(19)

    def step(self, near: bool) -> np.ndarray:
        """Disturbance [19] (rad) of this step."""
        fresh = self._rng.standard_normal(19) * self._size * np.sqrt(1 - NOISE_MEMORY**2)
        self._value = NOISE_MEMORY * self._value + fresh
        return self._value * (NOISE_NEAR if near else 1.0)


def observe(world: SimWorld, size: int = MODEL_SIZE) -> np.ndarray:
    """Model images uint8 [C,size,size,3] of the present state."""
    frames = world.render()
    return np.stack([to_model_size(frames[camera], size) for camera in CAMERAS])


def longest(task: Task) -> int:
    """Steps of a demonstration at most."""
    return round(PATIENCE * task.episode_steps)


def record(world: SimWorld, seed: int, poor: bool, size: int = MODEL_SIZE) -> Demo:
    """One episode, from the reset to success, a failure that ends it, or the end of the demonstrator's patience."""
    world.reset(seed)
    expert = make_expert(world.task.name, poor=poor, seed=seed)
    noise = Disturbance(np.random.default_rng((seed, 1)))
    start = command = world.targets
    images, proprio, executed, intended = [], [], [], []
    for _ in range(longest(world.task)):
        images.append(observe(world, size))
        proprio.append(world.qpos)
        label = expert.step(command, world.task_values)
        sent = np.clip(label + noise.step(expert.near(command, world.task_values)), LOWER, UPPER)
        world.step_towards(command, sent)
        command = sent
        executed.append(sent)
        intended.append(label)
        failed = world.failure and world.task.failure_ends
        if world.success or failed:
            break
    stack = [np.asarray(rows, dtype=np.float32) for rows in (proprio, executed, intended, start)]
    return Demo(world.task.name, seed, poor, world.success, np.stack(images), *stack, failure=failed and not world.success)


def is_poor(seed: int, fraction: float) -> bool:
    """Whether the demonstration of this seed is a poor one; the same for any number of workers."""
    return bool(np.random.default_rng((seed, 2)).random() < fraction)


def episode_path(out: Path, task: str, seed: int) -> Path:
    """File of one demonstration."""
    return out / f'{task}_{seed:06d}.npz'


def _record_to(job: tuple[str, int, bool, str]) -> tuple[str, bool, int]:
    task, seed, poor, out = job
    demo = record(SimWorld(task, seed), seed, poor)
    path = episode_path(Path(out), task, seed)
    demo.save(path)
    return str(path), demo.success, len(demo.proprio)


def collect(
    task: str,
    episodes: int,
    seed: int = 0,
    poor_fraction: float = 0.2,
    workers: int = 1,
    out: str | Path = 'demos',
    progress: Callable[[Path, bool, int], None] | None = None,
) -> list[Path]:
    """Record `episodes` demonstrations with seeds from `seed` on into the folder `out`; the files, in the order of their seeds.

    `progress(file, success, steps)` is called as each is done.
    """
    Path(out).mkdir(parents=True, exist_ok=True)
    jobs = [(task, s, is_poor(s, poor_fraction), str(out)) for s in range(seed, seed + episodes)]
    paths = []
    for path, success, steps in _results(jobs, workers):
        paths.append(Path(path))
        if progress is not None:
            progress(Path(path), success, steps)
    return paths


def _results(jobs: list, workers: int) -> Iterator[tuple[str, bool, int]]:
    if workers <= 1:
        yield from map(_record_to, jobs)
        return
    with multiprocessing.get_context('spawn').Pool(workers) as pool:  # spawn: a forked OpenGL context is not usable
        yield from pool.imap(_record_to, jobs)
