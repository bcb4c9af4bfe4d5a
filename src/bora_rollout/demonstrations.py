"""Demonstrations of the scripted experts: those that are missing are recorded, in parallel, with a progress bar on the command line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bora_common.errors import ConfigError
from bora_rollout.job import Job
from bora_sim import demos

Recorded = Callable[[int, int], None]  # done, total


def complete(
    task: str, episodes: int, seed: int, poor_fraction: float, workers: int, out: Path, recorded: Recorded = lambda done, total: None
) -> list[Path]:
    """Files of the demonstrations with consecutive seeds from `seed` on, in the folder `out`.

    What an interrupted run left is kept: an episode follows from task and seed and its file appears whole. Raises ConfigError when a file
    there was recorded with another share of poor demonstrations.
    """
    seeds = range(seed, seed + episodes)
    files = [demos.episode_path(out, task, s) for s in seeds]
    for s, file in zip(seeds, files, strict=True):
        if file.is_file() and _flag(file, 'poor') != demos.is_poor(s, poor_fraction):
            raise ConfigError(f'{file}: recorded with another share of poor demonstrations than {poor_fraction}; take another folder')
    done = sum(file.is_file() for file in files)
    recorded(done, episodes)
    for first, count in _gaps([s for s, file in zip(seeds, files, strict=True) if not file.is_file()]):

        def one(_file: Path, _success: bool, _steps: int) -> None:
            nonlocal done
            done += 1
            recorded(done, episodes)

        demos.collect(task, count, first, poor_fraction, workers, out, progress=one)
    return files


def demonstrate(job: Job) -> dict[str, object]:
    """Stage: the demonstrations of one task, in the job's folder."""
    task, wanted = job.inputs['task'], job.inputs
    files = complete(task, wanted['episodes'], wanted['seed'], wanted['poor_fraction'], 1, job.folder, job.report)
    return {'episodes': len(files), 'successes': sum(_flag(f, 'success') for f in files), 'poor': sum(_flag(f, 'poor') for f in files)}


def _flag(file: Path, name: str) -> bool:
    """One field of a demonstration file; its images stay unread. Raises ConfigError naming a file that is none."""
    try:
        with np.load(file, allow_pickle=False) as content:
            return bool(content[name])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f'{file}: not a demonstration: {error}') from None


def _gaps(seeds: list[int]) -> list[tuple[int, int]]:
    """Runs (first, count) of consecutive numbers in a sorted list."""
    gaps: list[tuple[int, int]] = []
    for seed in seeds:
        if gaps and seed == sum(gaps[-1]):
            gaps[-1] = (gaps[-1][0], gaps[-1][1] + 1)
        else:
            gaps.append((seed, 1))
    return gaps


def collect(task: str, episodes: int, seed: int, poor_fraction: float, workers: int, out: Path) -> list[Path]:
    """As `complete`, with a progress bar and a line that says how many succeeded."""
    with Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(task, total=episodes)
        files = complete(
            task, episodes, seed, poor_fraction, workers, out, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    successes = sum(_flag(file, 'success') for file in files)
    print(f'{out}: {successes} of {episodes} succeeded')
    return files
