"""`bora demo`: the base alone, rounds of online learning with a scripted operator, the same poses again; ends by itself."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bora_bringup import environment, shared_memory
from bora_bringup.graph import Arguments, Graph, online, parse_arguments
from bora_bringup.session import EpisodeResult, Session
from bora_bringup.supervisor import Supervisor
from bora_common.errors import BoraError, ConfigError
from bora_common.types import Outcome

EVALUATION_SEED = 1_000_000  # evaluation poses and online poses never share a seed
ONLINE_SEED = 2_000_000
SEED_STRIDE = 10_000
START_TIMEOUT = 180.0  # s of wall time, also below
SILENCE = 60.0  # of the nodes of a process that was started again, after which it is started once more
EPISODE_TIMEOUT = 120.0
TRAINING_TIMEOUT = 240.0
LOG_TIMEOUT = 60.0
NEEDED = ('perception', 'policy', 'replay')  # may be started again, but an episode without one of them would be wasted
Play = Callable[[int, bool, int], EpisodeResult]  # an episode: round, evaluation, seed
LATE_NS = 3_000_000_000  # of ROS time from the end of an episode until it is cut: 2 s for late marks, and a margin


@dataclass(frozen=True)
class Plan:
    """What to run."""

    episodes: int = 10
    rounds: int = 2
    eval_episodes: int = 40
    updates: int = 0  # of the residual in a round; 0: as the trainer's parameter says
    seed: int = 0
    realtime_factor: float = 0.0
    operator: str = 'skilled'
    run_dir: str = ''
    arguments: tuple[str, ...] = ()

    def graph(self) -> Graph:
        """The graph of this plan, tuned to its rounds."""
        if min(self.episodes, self.rounds, self.eval_episodes, self.updates, self.seed) < 0:
            raise ConfigError('demo: episodes, rounds, eval-episodes, updates and seed must not be negative')
        pairs = {
            'operator': self.operator, 'seed': self.seed, 'realtime_factor': self.realtime_factor, 'run_dir': self.run_dir,
        }  # fmt: skip
        arguments: Arguments = parse_arguments([*(f'{k}={v}' for k, v in pairs.items()), *self.arguments])
        if not arguments.use_sim:
            raise ConfigError('demo: needs use_sim=true')
        updates = {'planned_updates': self.updates} if self.updates else {}
        return online(arguments, {'trainer': {'episodes_per_round': self.episodes, **updates}})

    def evaluation_seeds(self) -> list[int]:
        base = EVALUATION_SEED + SEED_STRIDE * self.seed
        return list(range(base, base + self.eval_episodes))

    def online_seeds(self, round: int) -> list[int]:
        base = ONLINE_SEED + SEED_STRIDE * self.seed + self.episodes * round
        return list(range(base, base + self.episodes))


@dataclass
class Run:
    """What a demonstration has gathered so far."""

    plan: Plan
    graph: Graph
    started: float = field(default_factory=time.monotonic)
    base: list[EpisodeResult] = field(default_factory=list)
    online: list[EpisodeResult] = field(default_factory=list)
    final: list[EpisodeResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # restarts, skipped nodes, time-outs that did not end the run
    wall: dict[str, float] = field(default_factory=dict)  # s of each phase
    pids: dict[str, int] = field(default_factory=dict)  # of the needed processes when they were last seen to work

    def names_of(self, *processes: str) -> list[str]:
        """Full names of the nodes in these processes."""
        return [f'{self.graph.namespace_of(n)}/{n.name}' for n in self.graph.nodes if n.process in processes and not n.external]

    def phase(self, name: str, since: float) -> None:
        self.wall[name] = round(time.monotonic() - since, 1)


class Interrupted(BaseException):
    """A signal asked for the end; not an error of the run."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def run_demo(plan: Plan) -> int:
    """Run the plan; 0 = done, 1 = a node failed or a deadline passed, 128 + signal when interrupted."""
    graph = plan.graph()
    environment.apply()
    _own_domain()
    graph.run_dir.mkdir(parents=True, exist_ok=True)
    _link_latest(graph.run_dir)
    run = Run(plan, graph)
    supervisor = Supervisor(graph, report=run.notes.append)
    previous = {n: signal.signal(n, _raise_interrupted) for n in (signal.SIGINT, signal.SIGTERM)}
    session: Session | None = None
    code = 0
    try:
        supervisor.start()
        session = Session(graph.namespace_of(graph.nodes[0]), supervisor.check)
        _phases(run, session, supervisor)
    except BoraError as error:
        print(f'error: {error}', file=sys.stderr)
        code = 1
    except Interrupted as interrupted:
        print(f'\n{interrupted}: ending all processes', file=sys.stderr)
        code = interrupted.code
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not break the tear-down
        if session is not None:
            session.close()
        supervisor.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if session is not None and (code == 0 or run.online):
        return _conclude(run, session, code)
    return code


def _raise_interrupted(number: int, _frame: object) -> None:
    raise Interrupted(number)


def _own_domain() -> None:
    """A DDS domain of its own, unless the caller chose one: a demonstration must not meet another graph of this machine."""
    if 'ROS_DOMAIN_ID' not in os.environ:
        os.environ['ROS_DOMAIN_ID'] = str(free_domain(shared_memory.FOLDER, random.SystemRandom()))


def free_domain(folder: Path, chance: random.Random) -> int:
    """A domain of which no port file is in the shared-memory folder, neither in use nor left behind."""
    domains = [d for d in range(1, 101) if not any(folder.glob(f'fastrtps_port{7400 + 250 * d + offset}*') for offset in (0, 10, 11))]
    return chance.choice(domains or range(1, 101))


def _link_latest(run_dir: Path) -> None:
    link = run_dir.parent / 'latest'
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(run_dir.name)


# --- phases --------------------------------------------------------------------------------------------------------------------------


def _phases(run: Run, session: Session, supervisor: Supervisor) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    label, note = TextColumn('{task.description:26s}'), TextColumn('{task.fields[note]}')
    with Progress(label, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), note) as progress:
        since = time.monotonic()
        waiting = progress.add_task('starting the graph', total=1, note='')
        session.wait_until_working(run.names_of(*supervisor.children), START_TIMEOUT)
        run.pids = _needed(supervisor)
        progress.update(waiting, completed=1)
        run.phase('startup', since)

        def play(round: int, evaluation: bool, seed: int) -> EpisodeResult:
            _wait_for_needed(run, session, supervisor)
            return session.run_episode(round, evaluation, seed, EPISODE_TIMEOUT)

        _evaluate(run, play, progress, 'base', run.base, 0)
        for round in range(run.plan.rounds):
            _learn(run, session, play, progress, round)
        _evaluate(run, play, progress, 'final', run.final, max(run.plan.rounds - 1, 0))
        _settle(run, session)


def _needed(supervisor: Supervisor) -> dict[str, int]:
    return {name: pid for name, pid in supervisor.pids.items() if name in NEEDED}


def _wait_for_needed(run: Run, session: Session, supervisor: Supervisor) -> None:
    """Wait for the processes that were started again since the last episode; what their nodes said before is forgotten.

    One that is not heard of is started once more, as often as the supervisor allows.
    """
    follower = session.follower
    while _needed(supervisor) != run.pids:
        session.wait(lambda: len(_needed(supervisor)) == len(NEEDED), START_TIMEOUT, lambda: f'all of {", ".join(NEEDED)} to be started')
        now = _needed(supervisor)
        fresh = {name: run.names_of(name) for name in NEEDED if now.get(name) != run.pids.get(name)}
        nodes = [node for names in fresh.values() for node in names]
        follower.forget(nodes)
        if session.until(lambda nodes=nodes: not follower.working(nodes), SILENCE):
            run.pids = now
        for name, names in fresh.items():
            if follower.working(names):
                supervisor.kill(name, f'not heard of for {SILENCE:g} s')


def _evaluate(run: Run, play: Play, progress: Any, name: str, results: list[EpisodeResult], round: int) -> None:
    since, seeds = time.monotonic(), run.plan.evaluation_seeds()
    bar = progress.add_task(f'evaluation: {name}', total=len(seeds), note='')
    for seed in seeds:
        results.append(play(round, True, seed))
        progress.update(bar, advance=1, note=f'{_successes(results)} successes')
    run.phase(f'evaluation_{name}', since)


def _learn(run: Run, session: Session, play: Play, progress: Any, round: int) -> None:
    since, results = time.monotonic(), []
    seeds = run.plan.online_seeds(round)
    bar = progress.add_task(f'round {round + 1}: episodes', total=len(seeds), note='')
    for seed in seeds:
        results.append(play(round, False, seed))
        run.online.append(results[-1])
        takeovers = sum(r.takeovers for r in results)
        progress.update(bar, advance=1, note=f'{_successes(results)} successes, {takeovers} takeovers')
    if seeds:
        _train(session, progress, round)
    run.phase(f'round_{round + 1}', since)


def _train(session: Session, progress: Any, round: int) -> None:
    bar = progress.add_task(f'round {round + 1}: training', total=None, note='')
    deadline, follower = time.monotonic() + TRAINING_TIMEOUT, session.follower

    def done() -> bool:
        status = follower.training
        if status is not None:
            note = f'{status.transitions} transitions, {follower.accepted} weights accepted'
            progress.update(bar, total=status.planned_updates, completed=status.round_update, note=note)
        return follower.idle(round)

    session.wait(done, deadline - time.monotonic(), lambda: f'the end of the training of round {round} ({_training(follower.training)})')


def _training(status: Any) -> str:
    if status is None:
        return 'the trainer never reported'
    return f'state {status.state}, round {status.round}, {status.round_update} of {status.planned_updates} updates'


def _settle(run: Run, session: Session) -> None:
    """Wait until the trainer holds what the log holds: the last episodes are cut only after the time for late marks.

    Only a status younger than that counts, so a trainer that has just been killed does not pass for one that is done.
    """
    since, follower = time.monotonic(), session.follower
    due_ns = max((r.ended_ns for r in run.online), default=0) + LATE_NS
    asked, logged = follower.training, None
    while time.monotonic() - since < LOG_TIMEOUT:
        session.pump(0.2)
        status = follower.training
        if status is asked or stamp_ns(status) < due_ns:
            continue
        asked, logged = status, session.logged()
        if logged == status.transitions:
            break
    else:
        run.notes.append(f'after {LOG_TIMEOUT:g} s the log holds {logged} transitions, the trainer {asked.transitions if asked else None}')
    run.phase('settle', since)


def stamp_ns(message: Any) -> int:
    """ROS time of a message in ns."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def _successes(results: list[EpisodeResult]) -> int:
    return sum(r.outcome == Outcome.SUCCESS for r in results)


# --- conclusion ----------------------------------------------------------------------------------------------------------------------


def _conclude(run: Run, session: Session, code: int) -> int:
    """Write summary.json and report.html, print the table; the exit code."""
    from bora_bringup import report
    from bora_bringup.results import gather, write_json

    results = gather(run, session.follower)
    summary = results.summary
    write_json(run.graph.run_dir / 'summary.json', summary)
    report.write(run.graph.run_dir / 'report.html', results)
    report.print_summary(summary, run.graph.run_dir)
    return code
