"""Runs a graph as plain processes: one log file each, restarts with back-off, a stop that ends everything within five seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bora_bringup import environment, shared_memory
from bora_bringup.graph import Graph, ProcessSpec
from bora_common.errors import BoraError

STOP_STEPS = ((signal.SIGTERM, 2.0), (signal.SIGTERM, 1.5), (signal.SIGKILL, 1.0))  # signal, s to wait for it: below 5 s in all
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0)  # s before restart number 1, 2, …
HEALTHY_AFTER = 60.0  # s of life after which the count of restarts starts again
SHM_PERIOD = 2.0  # s between two looks at the shared memory that the children use
PROCESSES = 'processes.json'  # in the run's folder, while the processes run: {process: pid}
REFUSED = 'error: '  # how a node that refuses its configuration begins its last line


class RunEnded(BoraError):
    """A process that the run can't do without has ended."""


@dataclass
class Child:
    """One supervised process."""

    spec: ProcessSpec
    command: list[str]
    log: Path
    process: subprocess.Popen | None = None
    started: float = 0.0
    restarts: int = 0
    due: float | None = None  # steady time of the next start, while waiting for it
    log_offset: int = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


def command_of(graph: Graph, process: ProcessSpec, parameters: Path) -> list[str] | None:
    """Command line of a process; None for a node of another package that isn't installed here."""
    if process.external:
        node = process.nodes[0]
        executable = _find_external(node.package, node.executable)
        if executable is None:
            return None
        head, name = [executable], ['-r', f'__node:={node.name}']
    else:
        head, name = [sys.executable, '-m', 'bora_bringup.host'], []
    nice = ['nice', '-n', str(process.nice)] if process.nice else []
    namespace = ['-r', f'__ns:={graph.namespace_of(process.nodes[0])}']
    return [*nice, *head, *process.arguments, '--ros-args', '--params-file', str(parameters), *namespace, *name]


def _find_external(package: str, executable: str) -> str | None:
    for prefix in [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]:
        path = Path(prefix) / 'lib' / package / executable
        if os.access(path, os.X_OK):
            return str(path)
    return None


@dataclass
class Supervisor:
    """Starts, watches and stops the processes of a graph. Single-threaded: call `check` often.

    While they run, `processes.json` in the run's folder says which pid each process has.
    """

    graph: Graph
    report: Callable[[str], None] = print  # lines for a person: restarts, skipped nodes
    clock: Callable[[], float] = time.monotonic
    base_environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    children: dict[str, Child] = field(default_factory=dict)
    _shm: set[Path] = field(default_factory=set)
    _shm_seen: float = float('-inf')

    def start(self) -> None:
        """Write the parameters and start every process."""
        files = self.graph.write_parameters(self.graph.run_dir / 'params')
        logs = self.graph.run_dir / 'logs'
        logs.mkdir(parents=True, exist_ok=True)
        for process in self.graph.processes:
            command = command_of(self.graph, process, files[process.name])
            if command is None:
                node = process.nodes[0]
                self.report(f'not started: {node.name} ({node.package}/{node.executable} is not installed here)')
                continue
            self.add(process, command, logs / f'{process.name}.log')

    def add(self, process: ProcessSpec, command: Sequence[str], log: Path) -> Child:
        """Start one process and watch it."""
        child = Child(process, list(command), log)
        self.children[process.name] = child
        self._launch(child)
        return child

    def _launch(self, child: Child) -> None:
        env = {**environment.of(self.base_environment), environment.PARENT: str(os.getpid()), 'ROS_LOG_DIR': str(child.log.parent / 'ros')}
        child.log_offset = child.log.stat().st_size if child.log.exists() else 0
        with child.log.open('ab') as out:
            child.process = subprocess.Popen(  # own session: a terminal's Ctrl-C reaches the supervisor alone
                child.command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        child.started, child.due = self.clock(), None
        self._write_pids()

    def _write_pids(self) -> None:
        path = self.graph.run_dir / PROCESSES
        temporary = path.with_suffix('.tmp')
        temporary.write_text(json.dumps(self.pids, indent=1) + '\n')
        os.replace(temporary, path)

    @property
    def pids(self) -> dict[str, int]:
        """{process: pid} of what runs now."""
        return {n: c.process.pid for n, c in self.children.items() if c.running and c.process}

    def check(self) -> None:
        """Restart what may be restarted. Raises RunEnded with the reason when the run can't go on."""
        now = self.clock()
        for child in self.children.values():
            if child.due is not None:
                if now >= child.due:
                    self._launch(child)
            elif child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process.returncode, now)
        if now - self._shm_seen >= SHM_PERIOD:
            self._shm_seen = now
            self.remember_shared_memory()

    def _ended(self, child: Child, code: int, now: float) -> None:
        name = child.spec.name
        how = f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
        refusal = self.refusal(child)
        if refusal is not None:
            raise RunEnded(f'{name}: {refusal}')
        if not child.spec.restart:
            raise RunEnded(f'{name} ended ({how}); see {child.log}')
        if now - child.started > HEALTHY_AFTER:
            child.restarts = 0
        if child.restarts >= len(BACKOFF):
            raise RunEnded(f'{name} ended again after {child.restarts} restarts ({how}); see {child.log}')
        wait = BACKOFF[child.restarts]
        child.restarts += 1
        child.due = now + wait
        self._write_pids()
        self.report(f'{name} ended ({how}), starting it again in {wait:g} s; see {child.log}')

    def kill(self, name: str, why: str) -> None:
        """End a process that does not answer; `check` then starts it again as any other that has ended."""
        child = self.children[name]
        if child.running:
            self.report(f'{name}: {why}')
            _kill_group(child.process.pid, signal.SIGKILL)

    def refusal(self, child: Child) -> str | None:
        """The one-line reason with which a node refused to start; None when it did not refuse."""
        if not child.log.exists():
            return None
        with child.log.open('rb') as log:
            log.seek(child.log_offset)
            lines = log.read().decode(errors='replace').splitlines()
        return next((line.removeprefix(REFUSED) for line in reversed(lines) if line.startswith(REFUSED)), None)

    def remember_shared_memory(self) -> None:
        """Note which DDS files the children use, so that `stop` can remove what a killed one leaves behind."""
        self._shm |= shared_memory.used_by([*self.pids.values(), os.getpid()])

    def stop(self) -> dict[str, int | None]:
        """End every process: TERM, TERM, KILL to its group, below 5 s in all; {process: exit code}."""
        self.remember_shared_memory()
        for number, patience in STOP_STEPS:
            if not self._signal_all(number):
                break
            deadline = time.monotonic() + patience
            while self.pids and time.monotonic() < deadline:
                time.sleep(0.02)
        for child in self.children.values():
            child.due = None
            if child.process is not None:
                _kill_group(child.process.pid, signal.SIGKILL)  # grandchildren, if any
        (self.graph.run_dir / PROCESSES).unlink(missing_ok=True)  # its numbers may soon be those of other processes
        shared_memory.remove_unused(self._shm, ignore=[os.getpid()])  # a client in this process is done with them too
        return {n: c.process.poll() if c.process else None for n, c in self.children.items()}

    def _signal_all(self, number: int) -> bool:
        pids = self.pids
        for pid in pids.values():
            _kill_group(pid, number)
        return bool(pids)


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it ended in between
