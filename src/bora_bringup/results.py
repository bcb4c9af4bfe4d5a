"""Gathers what a demonstration run left behind: its log, the simulated controller's record, the trainer's metrics; counts it."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bora_bringup import summary as counts
from bora_bringup.session import EpisodeResult, Follower
from bora_common.errors import LogError
from bora_common.robot import TaskSpec, load_robot, load_task
from bora_common.types import ExecutedCommand, Proposal, StreamId
from bora_replay import steplog
from bora_replay.cutter import EpisodeRecord, cut, terminal_ns

if TYPE_CHECKING:
    from bora_bringup.demo import Run


RECEIVED_WITHIN_NS = 200_000_000  # between the sending of a command and its arrival at the controllers


@dataclass(frozen=True)
class Results:
    """What the report shows. `logged` and `metrics` are empty where their files are missing or damaged; `notes` says so."""

    summary: dict[str, Any]
    base: list[EpisodeResult]
    online: list[EpisodeResult]
    final: list[EpisodeResult]
    logged: list[steplog.LoggedEpisode]
    metrics: list[dict[str, Any]]
    notes: list[str]


def gather(run: Run, follower: Follower) -> Results:
    """Read the run's files and count."""
    folder, notes = run.graph.run_dir, list(run.notes)
    logged, verified = _log(folder, notes)
    task = load_task(run.graph.node('replay').parameters['task_config'], load_robot(run.graph.node('replay').parameters['robot_config']))
    record = _controller(Path(run.graph.node('simulated_robot').parameters['record']), notes)
    executed = sum(transitions_executed(r, follower, record, logged, task) for r in run.online) if record else None
    summary = {
        'base_success': counts.success(run.base),
        'final_success': counts.success(run.final),
        'rounds': run.plan.rounds,
        'episodes': len(run.online),
        'online_success': counts.success(run.online),
        'interventions': sum(r.takeovers for r in run.online),
        **_human(run.online, logged),
        'transitions_executed': executed,
        'transitions_logged': verified.get('transitions'),
        'transitions_trained': int(follower.training.transitions) if follower.training is not None else 0,
        'log': verified,
        **_weights(follower),
        'frames_dropped': _frames_dropped(follower, run.graph),
        'takeover_latency_ms': counts.percentiles(_latencies(follower, logged, record)),
        'restarts': [n for n in notes if 'starting it again' in n],
        'phases_s': run.wall,
        'wall_s': round(time.monotonic() - run.started, 1),
        **counts.provenance(run.plan.seed),
    }
    return Results(summary, run.base, run.online, run.final, logged, _metrics(folder / 'trainer' / 'metrics.jsonl'), notes)


def _log(folder: Path, notes: list[str]) -> tuple[list[steplog.LoggedEpisode], dict[str, int]]:
    try:
        return steplog.read_episodes(folder), steplog.verify(folder)
    except LogError as error:
        notes.append(str(error))
        return [], {}


def _controller(path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """(t_ns [N], positions [N, D]) that the simulated controllers had in force."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return data['t_ns'], data['positions']
    except (OSError, KeyError, ValueError) as error:
        notes.append(f'record of the simulated controller: {error}')
        return None


def transitions_executed(
    result: EpisodeResult,
    follower: Follower,
    record: tuple[np.ndarray, np.ndarray],
    logged: Sequence[steplog.LoggedEpisode],
    task: TaskSpec,
) -> int:
    """Transitions of an episode cut from what the controller received, at the proposals this client saw, whether logged or not."""
    event, seen = result.event, follower.proposals.get(result.id, [])
    if event is None or not event.started_ns or not seen:
        return 0
    width = record[1].shape[1]
    proposals = [_bare_proposal(i, stamp, steps, width, result.id) for i, (stamp, steps) in enumerate(sorted(set(seen)))]
    ticks: Sequence[ExecutedCommand] = next((e.record.executed for e in logged if e.event.episode == result.id), ())
    end_ns = terminal_ns(event, event.stamp_ns)
    begin = event.started_ns - 10**9
    interventions = [i for i in follower.interventions if begin <= i.stamp_ns <= end_ns + 10**9]
    known = EpisodeRecord(event, end_ns, ticks, proposals, (), interventions, task.episode_steps, proposals_dt(logged))
    return len(cut(steplog.from_controller(known, *record)))


def proposals_dt(logged: Sequence[steplog.LoggedEpisode]) -> float:
    """Step length in s."""
    return logged[0].record.dt if logged else 1 / 15


def _bare_proposal(number: int, stamp_ns: int, steps: int, width: int, episode: str) -> Proposal:
    """A proposal of which only the time and the length count."""
    return Proposal(
        stamp_ns, np.zeros((steps, width)), 1 / 15, np.zeros((1, 1), np.float32), ('cognition',), np.zeros(width), '', 0, episode,
        StreamId(1, number), StreamId(1, number),
    )  # fmt: skip


def _human(online: Sequence[EpisodeResult], logged: Sequence[steplog.LoggedEpisode]) -> dict[str, Any]:
    rounds = {r.id: r.round for r in online}
    human: dict[int, int] = defaultdict(int)
    steps: dict[int, int] = defaultdict(int)
    for episode in logged:
        if episode.event.episode in rounds:
            human[rounds[episode.event.episode]] += episode.human_steps
            steps[rounds[episode.event.episode]] += len(episode.steps)
    return counts.human_time(human, steps)


def _weights(follower: Follower) -> dict[str, int]:
    published = int(follower.training.published) if follower.training is not None else 0
    return {'weights_published': published, 'weights_applied': follower.accepted, 'weights_refused': follower.refused}


def _frames_dropped(follower: Follower, graph: Any) -> int:
    """Camera frames that perception could not use in time, by its own count."""
    _, _, values = follower.nodes.get(f'{graph.namespace_of(graph.node("perception"))}/perception', (b'', '', {}))
    return sum(int(v) for k, v in values.items() if k.startswith(('dropped', 'lost')) and v.isdigit())


def _latencies(
    follower: Follower, logged: Sequence[steplog.LoggedEpisode], record: tuple[np.ndarray, np.ndarray] | None
) -> list[float]:
    """ms of ROS time from the device's message that engages to the first command with beta > 0 that the controllers took over."""
    if record is None:
        return []
    executed = [e for episode in logged for e in episode.record.executed if e.beta > 0]
    return counts.takeover_latencies(follower.engaged_ns, received_ns(executed, *record))


def received_ns(executed: Sequence[ExecutedCommand], t_ns: np.ndarray, positions: np.ndarray) -> list[int]:
    """When the controllers (record: `t_ns` [N], `positions` [N, D]) had each command in force; those they never had are left out.

    A trajectory says nothing of beta: it is known by its positions, at or after the time at which its record says that it was sent.
    """
    found = []
    for command in executed:
        first = int(np.searchsorted(t_ns, command.stamp_ns))
        last = int(np.searchsorted(t_ns, command.stamp_ns + RECEIVED_WITHIN_NS, side='right'))
        same = np.flatnonzero(np.abs(positions[first:last] - command.positions).max(axis=1, initial=0.0) < 1e-9)
        if len(same):
            found.append(int(t_ns[first + same[0]]))
    return found


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the last line of a trainer that was killed
    return rows


def write_json(path: Path, value: Any) -> None:
    """Atomically."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(value, indent=1) + '\n')
    os.replace(temporary, path)
