"""Demonstrations of the scripted experts from the command line, with a progress bar."""

from __future__ import annotations

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bora_sim import demos


def collect(task: str, episodes: int, seed: int, poor_fraction: float, workers: int, out: Path) -> list[Path]:
    """Record `episodes` demonstrations with consecutive seeds from `seed` on; the files written."""
    successes = 0
    with Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(task, total=episodes)

        def recorded(_file: Path, success: bool, _steps: int) -> None:
            nonlocal successes
            successes += success
            progress.advance(bar)

        files = demos.collect(task, episodes, seed, poor_fraction, workers, out, progress=recorded)
    print(f'{out}: {successes} of {episodes} succeeded')
    return files
