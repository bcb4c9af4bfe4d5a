"""Success of a policy on the simulated task, in one process or a few: the graph's own cores without ROS."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bora_common.errors import ConfigError, ModelError
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_policy.packing import unpack_chain
from bora_policy.policy import Policy
from bora_policy.residual import ResidualChain
from bora_rollout import contact_sheet
from bora_rollout.batch import Trial, rollouts, zero_chain
from bora_sim.world import SimWorld

FIRST_SEED = 1_000_000  # scenes of evaluations; demonstrations and online episodes use seeds below
SEED_STRIDE = 10_000  # largest number of episodes of one evaluation seed
BATCH = 25  # worlds that plan together
PICTURE = (240, 180)  # px, width and height of a failed episode's last frame


def scene_seed(seed: int, episode: int) -> int:
    """Seed of the scene of an evaluation's episode."""
    if not 0 <= episode < SEED_STRIDE:
        raise ConfigError(f'evaluation: episode {episode} is outside 0..{SEED_STRIDE - 1}')
    return FIRST_SEED + SEED_STRIDE * seed + episode


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson interval of a success rate."""
    if trials == 0:
        return 0.0, 1.0
    rate, zz = successes / trials, z * z / trials
    centre = (rate + zz / 2) / (1 + zz)
    half = z * math.sqrt(rate * (1 - rate) / trials + zz / (4 * trials)) / (1 + zz)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and where."""

    task: str
    model: str | Path | Policy
    residual: str | Path | ResidualChain | None = None
    variant: str = 'standard'  # object set: "standard", "unseen" or "deployment"
    joint_offset: np.ndarray | None = None  # [D] rad, a calibration error of the robot in place of the set's
    robot: str = 'fr3_hand12'

    def load(self) -> tuple[Policy, ResidualChain]:
        """Base policy and residual chain; the zero chain without a residual. Raises ModelError naming the file that does not fit."""
        robot = load_robot(resolve(self.robot, 'config/robots'))
        policy = self.model if isinstance(self.model, Policy) else Policy.load(self.model, joint_names=robot.layout.names)
        chain = zero_chain(policy, robot.residual_bound)
        if isinstance(self.residual, ResidualChain):
            chain = self.residual
        elif self.residual is not None:
            file = Path(self.residual)
            chain, _ = unpack_chain(_read(file), model_id=policy.model.model_id, like=chain, what=str(file))
        return policy, chain

    def worlds(self, count: int) -> list[SimWorld]:
        """Fresh worlds of the object set."""
        return [SimWorld(self.task, FIRST_SEED, self.variant, self.joint_offset) for _ in range(count)]


@dataclass(frozen=True)
class Judged:
    """A trial, and where it ended if that was asked for and it failed."""

    trial: Trial
    picture: np.ndarray | None = None  # uint8 [h,w,3]


def evaluate(
    task: str,
    model_dir: str | Path | Policy,
    residual: str | Path | ResidualChain | None = None,
    episodes: int = 40,
    seed: int = 0,
    *,
    variant: str = 'standard',
    joint_offset: np.ndarray | None = None,
    robot_config: str = 'fr3_hand12',
    batch: int = BATCH,
    workers: int = 1,
    failures: str | Path | None = None,
    progress: Callable[[int, Trial], None] = lambda done, trial: None,
) -> dict[str, object]:
    """Success of base model and residual (a package's file or a chain) on `episodes` fresh scenes. The result is JSON-able.

    `variant`: "standard", "unseen" or "deployment" objects. `joint_offset` [D] rad: a calibration error of the robot. `batch` worlds plan
    together; `workers` processes share the scenes (model and residual must be files then). `failures`: PNG of the failed episodes' last
    frames. `progress(done, trial)` is called as episodes end.
    """
    if batch < 1 or workers < 1:
        raise ConfigError(f'evaluation: batch {batch} and workers {workers}, expected 1 or more of each')
    subject = Subject(task, model_dir, residual, variant, joint_offset, robot_config)
    policy, chain = subject.load()
    seeds = [scene_seed(seed, episode) for episode in range(episodes)]
    judged = []
    for one in _judge(subject, (policy, chain), seeds, batch, workers, failures is not None):
        judged.append(one)
        progress(len(judged), one.trial)
    judged.sort(key=lambda one: one.trial.seed)
    if failures is not None:
        _show_failures(judged, Path(failures))
    trials = [one.trial for one in judged]
    successes = sum(t.success for t in trials)
    return {
        'task': task, 'variant': variant, 'model': policy.model.model_id, 'seed': seed, 'successes': successes, 'trials': episodes,
        'residual': None if residual is None else 'chain' if isinstance(residual, ResidualChain) else str(residual),
        'wilson95': list(wilson(successes, episodes)), 'mean_steps': float(np.mean([t.steps for t in trials])) if trials else None,
    }  # fmt: skip


def trials_of(subject: Subject, loaded: tuple[Policy, ResidualChain], seeds: Sequence[int], batch: int = BATCH) -> list[Trial]:
    """Outcomes of the scenes, in the order of `seeds`."""
    ended = {e.trial.seed: e.trial for e in rollouts(subject.worlds(min(batch, len(seeds))), *loaded, seeds)}
    return [ended[seed] for seed in seeds]


def _judge(
    subject: Subject, loaded: tuple[Policy, ResidualChain], seeds: Sequence[int], batch: int, workers: int, pictures: bool
) -> Iterator[Judged]:
    """Trials as they end, here or in `workers` processes that take `batch` scenes at a time."""
    if workers == 1:
        yield from _episodes(subject, loaded, seeds, batch, pictures)
        return
    if isinstance(subject.model, Policy) or isinstance(subject.residual, ResidualChain):
        raise ConfigError('evaluation: workers > 1 need model and residual as files')
    blocks = [(subject, seeds[i : i + batch], batch, pictures) for i in range(0, len(seeds), batch)]
    with multiprocessing.get_context('spawn').Pool(min(workers, max(len(blocks), 1))) as pool:  # spawn: OpenGL can't be forked
        for block in pool.imap_unordered(_block, blocks):
            yield from block


def _block(job: tuple[Subject, Sequence[int], int, bool]) -> list[Judged]:
    subject, seeds, batch, pictures = job
    torch.set_num_threads(1)
    return list(_episodes(subject, subject.load(), seeds, batch, pictures))


def _episodes(
    subject: Subject, loaded: tuple[Policy, ResidualChain], seeds: Sequence[int], batch: int, pictures: bool
) -> Iterator[Judged]:
    for ended in rollouts(subject.worlds(min(batch, len(seeds))), *loaded, seeds):
        wanted = pictures and not ended.trial.success
        yield Judged(ended.trial, ended.world.render(*PICTURE, ('front',))['front'] if wanted else None)


def _show_failures(judged: Sequence[Judged], path: Path) -> None:
    lost = [one for one in judged if one.picture is not None]
    sheet = contact_sheet.contact_sheet([one.picture for one in lost], [f'scene {one.trial.seed}' for one in lost])
    contact_sheet.save(sheet, path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: {error.strerror}') from None
