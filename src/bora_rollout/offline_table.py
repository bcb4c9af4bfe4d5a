"""`make offline-table`: from demonstrations to the table of the offline phase. A second run does only what has changed.

    demonstrations/<task> -> train/bc-consistency -> own, held-out -> train/bc-longer, bc-filtered, decoupled-critic, bora-offline
                             train/bc-diffusion                       -> evaluation/<method>/<variant> -> results; hand-over

Demonstrations, own episodes, held-out episodes and evaluations use disjoint scenes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bora_common.errors import BoraError, ConfigError
from bora_common.paths import share
from bora_rollout import demonstrations, offline_episodes, offline_models, offline_results, offline_training
from bora_rollout.evaluate import FIRST_SEED
from bora_rollout.job import write_whole
from bora_rollout.models import ROLLOUT_SEED
from bora_rollout.offline_results import BASE, CRITICS, METHODS, VARIANTS
from bora_rollout.stages import Result, Stage, Watcher, run_stages
from bora_sim.tasks import TASKS, digest, make_task
from bora_trainer.offline_config import OfflineConfig, load_config

HELD_OUT_SEED = 700_000
INTERRUPTED = 130
FROM_NOTHING = ('bc-consistency', 'bc-diffusion')  # the others go on from the base
MINUTES = {  # about, on one core
    'demonstrations': 4, 'train/bc-consistency': 28, 'train/bc-diffusion': 28, 'own': 12, 'held-out': 8, 'train/bc-longer': 5,
    'train/bc-filtered': 5, 'train/decoupled-critic': 16, 'train/bora-offline': 24, 'evaluation': 3, 'hand-over': 1,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    tasks: tuple[str, ...] = tuple(TASKS)
    demonstrations: int = 150  # a task
    poor_fraction: float = 0.4  # of the episodes; they last longer, so that about half of the frames are theirs
    own: int = 60  # episodes of the base a task, for the critics
    held_out: int = 40  # episodes of the base a task on which the critics are measured
    trials: int = 100  # a task, method and variant
    seed: int = 0  # of trainings and evaluations
    small: bool = False  # tiny models and few updates: to see that everything works

    def check(self) -> Plan:
        """Itself. Raises ConfigError naming the first value that can not be."""
        for task in self.tasks:
            make_task(task)
        for name, least in (('demonstrations', 2), ('own', 2), ('held_out', 2), ('trials', 1), ('seed', 0)):
            if getattr(self, name) < least:
                raise ConfigError(f'offline table: {name} is {getattr(self, name)}, expected {least} or more')
        for name, first, end in (
            ('demonstrations', 0, ROLLOUT_SEED), ('own', ROLLOUT_SEED, HELD_OUT_SEED), ('held_out', HELD_OUT_SEED, FIRST_SEED)
        ):  # fmt: skip
            if first + getattr(self, name) > end:
                raise ConfigError(f'offline table: {name} is {getattr(self, name)}, expected {end - first} or less')
        return self


QUICK = Plan(tasks=('press_button', 'plush_toy'), demonstrations=4, own=2, held_out=2, trials=2, small=True)


def stages_of(plan: Plan) -> list[Stage]:
    """The whole computation."""
    data = tuple(f'demonstrations/{task}' for task in plan.tasks)
    stages = []
    for task, name in zip(plan.tasks, data, strict=True):
        inputs = {'task': task, 'objects': digest(make_task(task)), 'episodes': plan.demonstrations, 'seed': 0}
        stages.append(_stage(name, demonstrations.demonstrate, inputs | {'poor_fraction': plan.poor_fraction}))
    base = (f'train/{BASE}',)
    for name, seed, episodes in (('own', ROLLOUT_SEED, plan.own), ('held-out', HELD_OUT_SEED, plan.held_out)):
        inputs = {'tasks': plan.tasks, 'seed': seed, 'episodes': episodes}
        stages.append(_stage(name, offline_episodes.own_episodes, inputs, base))
    for method in METHODS:
        needs = data if method in FROM_NOTHING else (*data, *base, *(('own', 'held-out') if method in CRITICS else ()))
        inputs = {'settings': offline_training.settings_of(_config(plan, method)), 'files': _files()}
        stages.append(_stage(f'train/{method}', offline_training.train, inputs, needs))
        for variant in VARIANTS:
            inputs = {'tasks': plan.tasks, 'variant': variant, 'trials': plan.trials, 'seed': plan.seed}
            stages.append(_stage(f'evaluation/{method}/{variant}', offline_episodes.evaluation, inputs, (f'train/{method}',)))
    needs = (*data, 'own', 'train/bora-offline')
    return [*stages, _stage('hand-over', offline_models.hand_over, {'tasks': plan.tasks, 'seed': plan.seed, 'stride': 8}, needs)]


def _stage(name: str, run: Any, inputs: Mapping[str, Any], needs: tuple[str, ...] = ()) -> Stage:
    minutes = MINUTES.get(name, MINUTES.get(name.split('/')[0], 1.0))
    return Stage(name, run, json.loads(json.dumps(inputs)), needs, minutes)


def _config(plan: Plan, method: str) -> OfflineConfig:
    config = dataclasses.replace(load_config(method), seed=plan.seed)
    if not plan.small:
        return config
    change = dataclasses.replace
    return change(
        config, updates=6, batch=4, model=change(config.model, width=32, layers=1, hidden=32, blocks=1),
        actor=change(config.actor, warm_up=2), ppo=change(config.ppo, start=3, refresh=2, gate='ppo'),
        critic=change(config.critic, warm_up=2, head_start=2, settle=3, alone_batch=8, hidden=32, sub_steps=4),
    )  # fmt: skip


def _files() -> dict[str, str]:
    """Digests of the descriptions that a training reads."""
    files = sorted(p for folder in ('robots', 'tasks') for p in (share() / 'config' / folder).glob('*.yaml'))
    return {f'{p.parent.name}/{p.name}': hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in files}


# --- results --------------------------------------------------------------------------------------------------------------------------


def report_of(plan: Plan, results: Mapping[str, Result], wall_minutes: float) -> dict[str, Any]:
    """All that the table shows, JSON-able."""
    played = {m: {v: results[f'evaluation/{m}/{v}'].facts for v in VARIANTS} for m in METHODS}
    outcomes = {m: {v: {t: played[m][v]['outcomes'][t]['success'] for t in plan.tasks} for v in VARIANTS} for m in METHODS}
    trained = {m: results[f'train/{m}'].facts for m in METHODS}
    return {
        'seed': plan.seed, 'plan': asdict(plan), 'machine': machine(), **commit(), 'written': time.strftime('%Y-%m-%d'),
        'rows': offline_results.rows(outcomes, {m: trained[m]['model_digest'] for m in METHODS}, plan.seed),
        'means': offline_results.mean_rates(outcomes), 'differences': offline_results.differences(outcomes),
        'value': offline_results.separations({m: trained[m]['held_out'] for m in CRITICS}),
        'gate_open': {m: trained[m].get('gate_open_fraction') for m in CRITICS},
        'base': {name: results[name].facts for name in results if name.startswith(('demonstrations/', 'own', 'held-out'))},
        'minutes': {name: r.minutes for name, r in results.items()}, 'wall_minutes': wall_minutes, 'outcomes': outcomes,
    }  # fmt: skip


def write(report: Mapping[str, Any], build: Path, docs: Path) -> None:
    """build/results.json, build/value.json, and the page with its JSON in docs/. Rows of other methods and seeds stay."""
    for folder in (build, docs / 'results'):
        folder.mkdir(parents=True, exist_ok=True)
    old = json.loads((build / 'results.json').read_text()) if (build / 'results.json').is_file() else []
    _dump(build / 'results.json', offline_results.merge(old, report['rows']))
    _dump(build / 'value.json', report['value'])
    _dump(docs / 'results' / f'offline_seed{report["seed"]}.json', report)
    page = docs / 'results.md'
    text = page.read_text() if page.is_file() else '# Results\n'
    write_whole(page, offline_results.place_section(text, f'offline seed {report["seed"]}', offline_results.page(report)))


def _dump(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1, sort_keys=True) + '\n')


def machine() -> dict[str, Any]:
    """What the results were made on."""
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return {'processor': names[0] if names else platform.machine(), 'cores': os.cpu_count(), 'system': platform.platform()}


def commit() -> dict[str, Any]:
    """The commit of the source tree, and whether there are changes on top of it; empty where there is no repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(['git', '-C', str(share()), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ''

    try:
        return {'commit': git('rev-parse', 'HEAD'), 'dirty': bool(git('status', '--porcelain', '--', 'src', 'config'))}
    except FileNotFoundError:
        return {'commit': '', 'dirty': False}


# --- command line ---------------------------------------------------------------------------------------------------------------------


class _Bars(Watcher):
    """A bar for all stages and one for each that runs; a line as one ends."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn('{task.description:<36}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress, self._bars = Progress(*columns), {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def plan(self, waiting: int, cached: int) -> None:
        self._all = self._progress.add_task('stages', total=waiting + cached, completed=cached)

    def running(self, progress: Mapping[str, tuple[int, int]]) -> None:
        for name, (done, total) in progress.items():
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name)
            self._progress.update(self._bars[name], completed=done, total=total or None)

    def done(self, name: str, result: Result) -> None:
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        self._progress.advance(self._all)
        self._progress.console.print(f'{name}: {result.minutes:.1f} min')


def build_table(plan: Plan, root: Path, build: Path, docs: Path, workers: int, watcher: Watcher | None = None) -> dict[str, Any]:
    """Everything; the report that was written. `root` keeps the stages, `build` and `docs` get the results."""
    began = time.monotonic()
    results = run_stages(stages_of(plan.check()), root, workers, watcher)
    report = report_of(plan, results, (time.monotonic() - began) / 60)
    write(report, build, docs)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `python -m bora_rollout.offline_table`: exit code 1 with one line for a named error, 130 = interrupted."""
    for name, value in {'MUJOCO_GL': 'egl', 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}.items():
        os.environ.setdefault(name, value)  # for the stages' processes
    parser = argparse.ArgumentParser(prog='offline_table', description=__doc__.split('\n')[0])
    parser.add_argument('--quick', action='store_true', help='tiny numbers and models, two tasks: does everything work?')
    parser.add_argument('--build', type=Path, default=Path('build'), help='folder of results.json, value.json and the stages')
    parser.add_argument('--docs', type=Path, help='folder of results.md; docs, or with --quick the build folder')
    parser.add_argument('--workers', type=int, default=2, help='processes')
    parser.add_argument('--tasks', nargs='+', help='tasks; all when left out')
    for name in ('demonstrations', 'own', 'held_out', 'trials', 'seed'):
        parser.add_argument(f'--{name.replace("_", "-")}', type=int)
    parser.add_argument('--poor-fraction', type=float)
    options = parser.parse_args(arguments)
    given = {f.name: getattr(options, f.name, None) for f in dataclasses.fields(Plan) if getattr(options, f.name, None) is not None}
    plan = dataclasses.replace(QUICK if options.quick else Plan(), **given | ({'tasks': tuple(options.tasks)} if options.tasks else {}))
    build = options.build / 'quick' if options.quick else options.build
    docs = options.docs or (build / 'docs' if options.quick else Path('docs'))
    try:
        with _Bars() as bars:
            report = build_table(plan, build / 'offline-table', build, docs, options.workers, bars)
    except BoraError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f'{docs / "results.md"}: {report["wall_minutes"]:.1f} min')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
