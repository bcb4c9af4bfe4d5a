"""Builds what a task ships: demonstrations -> base model -> offline transitions -> critic, all in one model directory.

    models/<task>/            the base model (bora_policy.vla)
        offline.safetensors   transitions of demonstrations and of the base model's own episodes, cut as live ones are
        critic/               the offline critic, the one that online learning inherits
        build.json            recipe and measurements
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from bora_common.errors import BoraError, ModelError
from bora_common.paths import resolve, share
from bora_common.robot import RobotSpec, load_robot
from bora_common.types import Outcome
from bora_policy.policy import Policy, noise_seed
from bora_policy.vla import BoraVLA
from bora_replay.buffer import TransitionBuffer
from bora_replay.cutter import cut, record_from_demo
from bora_rollout.batch import Episode, rollouts, zero_chain
from bora_rollout.demonstrations import complete
from bora_rollout.evaluate import BATCH, evaluate
from bora_sim import demos
from bora_sim.tasks import make_task
from bora_sim.world import CAMERAS, SimWorld
from bora_trainer.behaviour_cloning import Settings, clone
from bora_trainer.offline import fit_critic

ROLLOUT_SEED = 500_000  # scenes of the base model's own episodes: neither demonstrations' nor evaluations'
ENCODE_BATCH = 32
CRITIC_BATCH = 64
VARIANTS = ('standard', 'deployment')  # that the base model is evaluated on


@dataclass(frozen=True)
class Recipe:
    """How much of everything."""

    task: str = 'press_button'
    robot: str = 'fr3_hand12'
    demonstrations: int = 120
    poor_fraction: float = 0.2
    updates: int = 2500  # of the base model
    rollouts: int = 120  # own episodes of the base model, for the critic
    stride: int = 8  # steps between the offline transitions of an episode
    critic_updates: int = 400
    trials: int = 100
    seed: int = 0
    threads: int = 1
    workers: int = 1


Report = Callable[[str, int, int], None]  # stage, done, total


def demonstrated(files: Sequence[Path], joints: Sequence[str]) -> Iterator[Episode]:
    """Episodes of demonstration files."""
    for file in files:
        demo = demos.load(file)
        if demo.joints != tuple(joints) or demo.cameras != CAMERAS:
            raise ModelError(f'{file}: made for other joints or cameras than the model')
        yield Episode(file.stem, demo.images, demo.proprio, demo.executed, demo.success, demo.failure)


def own_episodes(policy: Policy, task: str, seeds: Sequence[int], bound: np.ndarray) -> Iterator[Episode]:
    """Episodes that the base model plays: they hold the failures that the critic has to know. `bound` [D] rad: of a residual."""
    worlds = [SimWorld(task, ROLLOUT_SEED) for _ in range(min(BATCH, len(seeds)))]
    for ended in rollouts(worlds, policy, zero_chain(policy, bound), seeds, record=True):
        yield ended.episode


def add_transitions(buffer: TransitionBuffer, policy: Policy, episode: Episode, recipe: Recipe, instruction: str, limit: int) -> None:
    """Cut an episode into transitions with proposals every `stride` steps, and insert them."""
    facts = policy.model.facts
    frames = list(range(0, len(episode.executed), recipe.stride))
    tokens, chunks = _propose(policy, episode, frames, instruction)
    record = record_from_demo(
        episode=episode.name, task=recipe.task, robot=recipe.robot, executed=episode.executed, frames=frames, tokens=tokens,
        token_names=facts.token_names, vla=chunks, proprio=episode.proprio[frames], episode_steps=limit, dt=facts.dt,
        outcome=_outcome(episode), model_id=policy.model.model_id,
    )  # fmt: skip
    for transition in cut(record, first_seq=len(buffer)):
        buffer.insert(transition)


def _outcome(episode: Episode) -> Outcome:
    return Outcome.SUCCESS if episode.success else Outcome.FAILURE if episode.failure else Outcome.TIMEOUT


def _propose(policy: Policy, episode: Episode, frames: Sequence[int], instruction: str) -> tuple[np.ndarray, np.ndarray]:
    """(z [M,T,W], chunks [M,k,D] rad) of the base model at `frames`."""
    model, parts = policy.model, []
    for begin in range(0, len(frames), ENCODE_BATCH):
        some = list(frames[begin : begin + ENCODE_BATCH])
        seeds = [noise_seed(episode.name, frame) for frame in some]
        shape = (policy.denoise_steps, model.config.knots, len(model.layout))
        noise = np.stack([np.random.default_rng(s).standard_normal(shape) for s in seeds], axis=1)
        parts.append(model.propose(episode.images[some], episode.proprio[some], [instruction] * len(some), noise))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def offline_transitions(
    policy: Policy, episodes: Iterable[Episode], total: int, recipe: Recipe, robot: RobotSpec, report: Report
) -> TransitionBuffer:
    """Transitions of `total` episodes under the final model."""
    task, facts = make_task(recipe.task), policy.model.facts
    per_episode = -(-demos.longest(task) // recipe.stride)
    buffer = TransitionBuffer(
        max(1, total * per_episode), facts.steps, len(robot.layout), len(facts.token_names), facts.token_width, dt=facts.dt,
        joint_names=robot.layout.names, token_names=facts.token_names, model_id=policy.model.model_id,
    )  # fmt: skip
    for done, episode in enumerate(episodes, start=1):
        add_transitions(buffer, policy, episode, recipe, task.instruction, task.episode_steps)
        report('transitions', done, total)
    return buffer


def build(out: Path, recipe: Recipe, work: Path, report: Report = lambda stage, done, total: None, base: Path | None = None) -> dict:
    """Build the model directory `out`; facts of the build, also in build.json. `work` keeps demonstrations and progress.

    `base`: a model directory to take the base model from instead of training one.
    """
    torch.set_num_threads(recipe.threads)
    robot, task, began = load_robot(resolve(recipe.robot, 'config/robots')), make_task(recipe.task), time.monotonic()
    files = complete(
        recipe.task, recipe.demonstrations, 0, recipe.poor_fraction, recipe.workers, work / 'demonstrations',
        lambda done, total: report('demonstrations', done, total),
    )  # fmt: skip
    if base is None:
        settings = Settings(updates=recipe.updates, seed=recipe.seed, threads=recipe.threads)
        model = clone(
            files, task.instruction, robot.layout, robot.cameras, settings, folder=work / 'cloning',
            progress=lambda update, info: report('behaviour cloning', update, recipe.updates),
        )  # fmt: skip
        model.requires_grad_(False)
        model.save_pretrained(out)
    elif Path(base).resolve() != out.resolve():
        BoraVLA.from_pretrained(base).save_pretrained(out)
    policy = Policy.load(out, joint_names=robot.layout.names, camera_names=robot.cameras)
    own = own_episodes(policy, recipe.task, range(ROLLOUT_SEED, ROLLOUT_SEED + recipe.rollouts), robot.residual_bound)
    episodes, total = chain(demonstrated(files, robot.layout.names), own), recipe.demonstrations + recipe.rollouts
    buffer = offline_transitions(policy, episodes, total, recipe, robot, report)
    buffer.save(out / 'offline.safetensors')
    critic = fit_critic(
        buffer, policy.model.normalizer, out / 'critic', steps=recipe.critic_updates, batch_size=CRITIC_BATCH, seed=recipe.seed,
        threads=recipe.threads, progress=lambda done, total, info: report('critic', done, total),
    )  # fmt: skip
    success = {
        variant: evaluate(
            recipe.task, policy, None, recipe.trials, recipe.seed, variant=variant,
            progress=lambda done, trial, variant=variant: report(f'evaluation: {variant}', done, recipe.trials),
        )
        for variant in VARIANTS
    }  # fmt: skip
    facts = {
        'recipe': asdict(recipe), 'base': success, 'critic': critic, 'transitions': len(buffer), 'machine': platform.machine(),
        'minutes': (time.monotonic() - began) / 60, 'base_given': base is not None,  # then its training is not in the minutes
    }  # fmt: skip
    (out / 'build.json').write_text(json.dumps(facts, indent=1, sort_keys=True) + '\n')
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `python -m bora_rollout.models`."""
    parser = argparse.ArgumentParser(prog='bora train', description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, help='model directory; models/<task> when empty')
    parser.add_argument('--work', type=Path, help='folder of demonstrations and progress; build/models/<task> when empty')
    parser.add_argument('--base', type=Path, help='take the base model from here instead of training one')
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=type(value), default=value)
    options = parser.parse_args(arguments)
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    try:
        out = options.out or share() / 'models' / recipe.task
        with _Bars() as bars:
            facts = build(out, recipe, options.work or Path('build') / 'models' / recipe.task, bars.report, options.base)
    except BoraError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for variant, base in facts['base'].items():
        low, high = base['wilson95']
        print(f'{out}: base {base["successes"]}/{base["trials"]} {variant} (Wilson 95 %: {low:.0%} to {high:.0%})')
    print(f'{facts["minutes"]:.1f} min')
    return 0


class _Bars:
    """A progress bar a stage."""

    def __enter__(self) -> _Bars:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn('{task.description:<22}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns)
        self._progress.start()
        self._stages: dict[str, object] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._stages[stage], completed=done)


if __name__ == '__main__':
    raise SystemExit(main())
