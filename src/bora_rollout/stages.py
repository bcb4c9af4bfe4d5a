"""Stages of a long computation: each runs once for its inputs, in a process of its own, a few at a time, and goes on after an interruption.

A stage's folder is named by the digest of all that its result follows from: its settings, its code, the libraries, the stages that it
needs. `done.json` is the last file to appear there. A stage that was interrupted is started again in the same folder and takes up what it
left, so a stage's files must appear whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from bora_common.errors import BoraError, ConfigError
from bora_rollout.code_version import code_digest, library_versions
from bora_rollout.job import PROGRESS, Job, write_whole

DONE, LOG, LOCK, SHARED = 'done.json', 'log.txt', '.lock', 'shared'
POLL_S = 0.5


@dataclass(frozen=True)
class Stage:
    """A step of the computation.

    `run` is a module's function, so that another process can call it; its result is JSON-able. What its module imports of ours is the code
    that decides about the result.
    """

    name: str
    run: Callable[[Job], dict[str, Any]]
    inputs: Mapping[str, Any]  # JSON-able: all that decides about the result, beside code and needs
    needs: tuple[str, ...] = ()
    minutes: float = 1.0  # about; long chains are started first


@dataclass(frozen=True)
class Result:
    """A stage that is done."""

    folder: Path
    facts: Mapping[str, Any]
    minutes: float  # of its last run, after an interruption the rest only
    cached: bool  # it was done before


@dataclass
class _Process:
    stage: Stage
    process: multiprocessing.process.BaseProcess
    began: float = field(default_factory=time.monotonic)


class Watcher:
    """Told what happens; does nothing."""

    def plan(self, waiting: int, cached: int) -> None:
        """Before the first stage."""

    def running(self, progress: Mapping[str, tuple[int, int]]) -> None:
        """A few times a second: (done, total) of the stages that run."""

    def done(self, name: str, result: Result) -> None:
        """A stage has ended."""


def digests_of(stages: Sequence[Stage]) -> dict[str, str]:
    """Digest of each stage, by name. Raises ConfigError for names that repeat, needs that are not there, or a circle."""
    by_name = {stage.name: stage for stage in stages}
    if len(by_name) != len(stages):
        raise ConfigError('stages: a name repeats')
    libraries: dict[str, str] = library_versions()
    code: dict[str, str] = {}
    digests: dict[str, str] = {}

    def digest(name: str, path: tuple[str, ...]) -> str:
        if name not in by_name:
            raise ConfigError(f'stages: "{path[-1]}" needs "{name}", which is not there')
        if name in path:
            raise ConfigError(f'stages: circle {" -> ".join((*path, name))}')
        if name not in digests:
            stage, module = by_name[name], by_name[name].run.__module__
            if module not in code:
                code[module] = code_digest([module])
            above = {need: digest(need, (*path, name)) for need in stage.needs}
            content = [name, stage.run.__name__, stage.inputs, code[module], libraries, above]
            digests[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return digests[name]

    for stage in stages:
        digest(stage.name, ())
    return digests


def run_stages(stages: Sequence[Stage], root: Path, workers: int, watcher: Watcher | None = None) -> dict[str, Result]:
    """All results by name. Raises BoraError naming the stage that failed and its log; the others go on where they were next time."""
    watcher = watcher or Watcher()
    digests = digests_of(stages)
    folders = {stage.name: root / stage.name / digests[stage.name][:16] for stage in stages}
    with _alone(root):
        results = {s.name: r for s in stages if (r := _read(folders[s.name], cached=True)) is not None}
        watcher.plan(len(stages) - len(results), len(results))
        order = _urgency(stages)
        waiting = sorted((s for s in stages if s.name not in results), key=lambda s: -order[s.name])
        running: list[_Process] = []
        try:
            while waiting or running:
                for stage in [s for s in waiting if all(need in results for need in s.needs)][: workers - len(running)]:
                    waiting.remove(stage)
                    running.append(_start(stage, folders, root))
                wait([r.process.sentinel for r in running], timeout=POLL_S)
                watcher.running({r.stage.name: _progress(folders[r.stage.name]) for r in running})
                for ended in [r for r in running if not r.process.is_alive()]:
                    running.remove(ended)
                    results[ended.stage.name] = _finish(ended, folders[ended.stage.name])
                    watcher.done(ended.stage.name, results[ended.stage.name])
        finally:
            for left in running:
                left.process.terminate()
                left.process.join()
    return results


def _urgency(stages: Sequence[Stage]) -> dict[str, float]:
    """Minutes from the start of each stage to the end of the longest chain that it begins."""
    by_name = {stage.name: stage for stage in stages}
    rest: dict[str, float] = {}

    def minutes(name: str) -> float:
        if name not in rest:
            rest[name] = by_name[name].minutes + max((minutes(s.name) for s in stages if name in s.needs), default=0.0)
        return rest[name]

    return {stage.name: minutes(stage.name) for stage in stages}


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One run at a time works in a folder. Raises ConfigError when there is another."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / LOCK, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f'{root}: another run is working here') from None
        yield


def _start(stage: Stage, folders: Mapping[str, Path], root: Path) -> _Process:
    folder = folders[stage.name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRESS).unlink(missing_ok=True)
    job = Job(stage.inputs, folder, {need: folders[need] for need in stage.needs}, root / SHARED)
    process = multiprocessing.get_context('spawn').Process(target=_work, args=(stage.run, job), name=stage.name)  # OpenGL can't be forked
    process.start()
    return _Process(stage, process)


def _work(run: Callable[[Job], dict[str, Any]], job: Job) -> None:
    """A stage's process. What it prints goes to its log."""
    if not multiprocessing.parent_process().is_alive():
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(job.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    began = time.monotonic()
    try:
        facts = run(job)
    except BoraError as error:
        print(error, flush=True)
        sys.exit(1)
    content = {'facts': facts, 'minutes': (time.monotonic() - began) / 60, 'inputs': dict(job.inputs)}
    write_whole(job.folder / DONE, json.dumps(content, indent=1, sort_keys=True) + '\n')


def _end_with_parent() -> None:
    """A killed run leaves no stage behind that the next one would collide with."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _finish(ended: _Process, folder: Path) -> Result:
    ended.process.join()
    result = _read(folder, cached=False)
    if ended.process.exitcode != 0 or result is None:
        lines = (folder / LOG).read_text(errors='replace').strip().splitlines() if (folder / LOG).is_file() else []
        why = lines[-1] if lines else f'exit code {ended.process.exitcode}'
        raise BoraError(f'stage {ended.stage.name}: {why} ({folder / LOG})')
    return result


def _read(folder: Path, cached: bool) -> Result | None:
    try:
        content = json.loads((folder / DONE).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f'{folder / DONE}: damaged: {error}') from None
    return Result(folder, content['facts'], content['minutes'], cached)


def _progress(folder: Path) -> tuple[int, int]:
    try:
        done, total = json.loads((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return 0, 0
    return done, total
