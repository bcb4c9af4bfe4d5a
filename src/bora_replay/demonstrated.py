"""Demonstrations (one .npz an episode) as a step log, in the records of a live run.

What a demonstration has, it has as a live episode with a person in control from the first step to the last: `executed` with source
HUMAN and beta 1 (one tick at the end of each step, all that the file knows; `requested` is the label, which a disturbance may have
changed on its way to the robot), frames of each camera before each step (png, so that training data lose nothing), the proprioception
beside them, the arbiter's HUMAN and HOLD, and the episode's events: named <task>_<seed>, +1 at the step of a success.

What it lacks is a proposal: no model was asked. A transition holds what a model saw and proposed (z, A_vla, z'), and the grid of steps
begins at the first proposal, so that without one there is nothing to cut. Nothing is invented in its place:
  * without a model, the log has steps and frames and no transitions. `observations` gives later what a model needs to propose, and
    `proposed` the record to cut then.
  * with a model, it proposes afterwards from the recorded frames. These proposals, and the chunks that a residual of zero would have made
    of them at once (as cutter.record_from_demo has it), are logged as a live run's, and the transitions that the recorder cuts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bora_common import topics
from bora_common.errors import BoraError, ConfigError, LogError
from bora_common.robot import TaskSpec
from bora_common.types import (
    ActionChunk,
    ArbiterState,
    EpisodeEvent,
    EpisodeState,
    ExecutedCommand,
    InterventionEvent,
    JointLayout,
    Observation,
    Outcome,
    Proposal,
    RewardEvent,
    Source,
    StreamId,
    WeightsVersion,
)
from bora_replay.cutter import EpisodeRecord, Grid
from bora_replay.recorder import NS, ClosedEpisode, Recorder
from bora_replay.steplog import LoggedEpisode, Session, StepLog, read_seen

GAP_NS = 10 * NS  # between episodes; a recorder looks one second beyond an episode's ends
MOTION = ('proprio', 'executed', 'intended')
BATCH = 32  # observations that a model is given at once
Propose = Callable[[Sequence[Observation], int, Sequence[StreamId]], list[Proposal]]  # bora_policy.policy.Policy.propose_batch
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Demonstration:
    """One episode of N steps, joints in layout order. C cameras in the order of `cameras`."""

    task: str
    seed: int
    poor: bool
    success: bool
    failure: bool  # it ended in a failure
    images: np.ndarray  # uint8 [N,C,S,S,3], RGB, before each step
    proprio: np.ndarray  # float64 [N,P] rad, before each step
    executed: np.ndarray  # float64 [N,D] rad, command in force at the end of each step
    intended: np.ndarray  # float64 [N,D] rad, the label
    start: np.ndarray  # float64 [D] rad, command in force before the first step
    cameras: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its episode."""
        return f'{self.task}_{self.seed:06d}'


@dataclass(frozen=True)
class Written:
    """What one demonstration became."""

    name: str
    success: bool
    steps: int
    transitions: int


def task_of(path: Path) -> str:
    """Task of a demonstration file. Raises ConfigError naming a file that is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file['task'])
    except _UNREADABLE as error:
        raise ConfigError(f'{path}: not a demonstration: {error}') from None


def load(path: Path, session: Session, task: TaskSpec) -> Demonstration:
    """A demonstration file, mapped to the session's joints and cameras by name. Raises ConfigError naming the file and what is wrong."""
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = {'task': str(file['task']), 'seed': int(file['seed'])} | {n: bool(file[n]) for n in ('poor', 'success')}
            facts['failure'] = 'failure' in file and bool(file['failure'])  # an older file does not say
            seen, joints, images = [str(c) for c in file['cameras']], [str(j) for j in file['joints']], file['images']
            motion = {n: session.layout.reorder(joints, file[n], f'{path}: {n}') for n in (*MOTION, 'start')}
    except BoraError as error:
        raise ConfigError(str(error)) from None
    except _UNREADABLE as error:
        raise ConfigError(f'{path}: not a demonstration: {error}') from None
    missing = [c for c in session.cameras if c not in seen]
    if missing:
        raise ConfigError(f'{path}: camera "{missing[0]}" is missing, it has {seen}')
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[1] != len(seen) or images.shape[4] != 3 or not images.size:
        raise ConfigError(f'{path}: images {images.dtype} {images.shape}, expected uint8 frames of {len(seen)} RGB pictures')
    for name, values in motion.items():
        expected = (len(session.joint_names),) if name == 'start' else (len(images), len(session.joint_names))
        if values.shape != expected:
            raise ConfigError(f'{path}: {name} of shape {values.shape}, expected {expected}')
    if facts['task'] != task.name:
        raise ConfigError(f'{path}: task "{facts["task"]}", the log is of {task.name}')
    return Demonstration(images=images[:, [seen.index(c) for c in session.cameras]], cameras=session.cameras, **motion, **facts)


# --- writing ----------------------------------------------------------------------------------------------------------------------


def write(
    run_dir: str | Path,
    session: Session,
    task: TaskSpec,
    files: Sequence[Path],
    propose: Propose | None = None,
    stride: int = 8,
    written: Callable[[Written], None] = lambda one: None,
) -> list[Written]:
    """Write demonstration files as the step log of a new run folder; it appears whole or not at all.

    `propose`: a model that proposes at every `stride`-th frame. Raises ConfigError naming a file that is none of this task, or a
    folder that is in use.
    """
    target = Path(run_dir).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f'{target}: not empty; a log of demonstrations takes a new folder')
    if not files:
        raise ConfigError('step log: no demonstrations')
    if stride < 1:
        raise ConfigError(f'step log: stride {stride}, expected at least 1')
    partial = target.with_name(f'.{target.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        done = _write(partial, session, task, files, propose, stride, written)
        os.rename(partial, target)
    except OSError as error:
        raise LogError(f'step log: {target} can\'t be written: {error.strerror}') from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done


def _write(
    folder: Path, session: Session, task: TaskSpec, files: Sequence[Path], propose: Propose | None, stride: int,
    written: Callable[[Written], None],
) -> list[Written]:  # fmt: skip
    log, recorder = StepLog(folder, session), Recorder(session.settings)
    names: dict[str, Path] = {}
    done: list[Written] = []
    begin = GAP_NS
    try:
        for path in files:
            demo = load(Path(path), session, task)
            if demo.name in names:
                raise ConfigError(f'{path}: episode {demo.name} again, it is also in {names[demo.name]}')
            names[demo.name] = Path(path)
            grid = Grid(begin, session.dt)
            proposals = [] if propose is None else _proposals(propose, _observed(demo, task, grid), stride, session.dt)
            closed = _log(log, recorder, demo, task, grid, proposals, session.robot)
            done.append(Written(demo.name, demo.success, len(demo.executed), len(closed.transitions)))
            written(done[-1])
            begin = closed.record.end_ns + GAP_NS
    finally:
        log.close()
    return done


def _observed(demo: Demonstration, task: TaskSpec, grid: Grid) -> list[Observation]:
    """What a model would have seen before each step."""
    ids = _ids(demo.name, topics.OBSERVATION.name, len(demo.images))
    return [
        Observation(grid.end_ns(j - 1), demo.images[j], demo.cameras, demo.proprio[j], task.instruction, demo.name, id=each)
        for j, each in enumerate(ids)
    ]


def _proposals(propose: Propose, observations: Sequence[Observation], stride: int, dt: float) -> list[Proposal]:
    """Proposals at every `stride`-th observation of an episode."""
    some = observations[::stride]
    ids = _ids(some[0].episode, topics.BASE_CHUNK.name, len(some))
    found = [p for i in range(0, len(some), BATCH) for p in propose(some[i : i + BATCH], 0, ids[i : i + BATCH])]
    for proposal in found:
        if abs(proposal.dt - dt) > 1e-9:
            raise ConfigError(f'step log: the model proposes steps of {proposal.dt:g} s, the demonstrations have {dt:g} s')
        if stride > len(proposal.positions):
            raise ConfigError(f'step log: a proposal every {stride} steps, but it holds {len(proposal.positions)}: the rest would be lost')
    return found


def _log(
    log: StepLog, recorder: Recorder, demo: Demonstration, task: TaskSpec, grid: Grid, proposals: Sequence[Proposal], robot: str
) -> ClosedEpisode:
    """Record one episode as the replay node does, its frames first and the rest by stamp, and cut it."""
    for j in range(len(demo.images)):
        stamp = grid.end_ns(j - 1)
        recorder.add_frame(stamp, log.add_seen(stamp, dict(zip(demo.cameras, demo.images[j], strict=True)), demo.proprio[j]))
    streams: dict[str, Sequence[Any]] = {
        topics.EXECUTED.name: _ticks(demo, grid),
        topics.EPISODE.name: _events(demo, task, grid, robot),
        topics.INTERVENTION.name: _interventions(demo, grid),
        topics.BASE_CHUNK.name: proposals,
        topics.CHUNK.name: _chunks(proposals),
    }
    values = [(topic, value) for topic, stream in streams.items() for value in stream]
    for topic, value in sorted(values, key=lambda v: v[1].stamp_ns):
        recorder.add(topic, value, value.stamp_ns)
        log.add(topic, value, value.stamp_ns)
    closed = recorder.close(demo.name, log.next_seq)
    log.append_cut(closed, closed.record.end_ns)
    return closed


def _ids(episode: str, stream: str, count: int) -> list[StreamId]:
    """Numbers of an episode's messages in one stream: each episode was a start of its own. The same ones whenever they are made."""
    source = int.from_bytes(hashlib.sha256(f'{episode}/{stream}'.encode()).digest()[:8], 'little')
    return [StreamId(source, number) for number in range(count)]


def _events(demo: Demonstration, task: TaskSpec, grid: Grid, robot: str) -> list[EpisodeEvent]:
    outcome, end = _outcome(demo), grid.end_ns(len(demo.executed) - 1)
    marks = {Outcome.SUCCESS: ('success', 1.0), Outcome.FAILURE: ('failure', 0.0)}
    rewards = (RewardEvent(end, *marks[outcome]),) if outcome in marks else ()
    first, second = _ids(demo.name, topics.EPISODE.name, 2)
    running = EpisodeEvent(
        grid.t0_ns, demo.name, demo.task, task.instruction, robot, 0, False, demo.seed, EpisodeState.RUNNING, started_ns=grid.t0_ns,
        reason='poor demonstration' if demo.poor else 'demonstration', id=first,
    )  # fmt: skip
    return [running, replace(running, stamp_ns=end, state=EpisodeState.ENDED, outcome=outcome, rewards=rewards, id=second)]


def _outcome(demo: Demonstration) -> Outcome:
    return Outcome.SUCCESS if demo.success else Outcome.FAILURE if demo.failure else Outcome.TIMEOUT


def _ticks(demo: Demonstration, grid: Grid) -> list[ExecutedCommand]:
    """The command before the first step, then the one at the end of each."""
    first, *ids = _ids(demo.name, topics.EXECUTED.name, 1 + len(demo.executed))
    before = ExecutedCommand(grid.t0_ns, demo.start, demo.start, (), Source.HOLD, 0.0, 0, StreamId(), -1, id=first)
    return [before] + [
        ExecutedCommand(grid.end_ns(j), sent, label, (), Source.HUMAN, 1.0, 0, StreamId(), -1, id=each)
        for j, (sent, label, each) in enumerate(zip(demo.executed, demo.intended, ids, strict=True))
    ]


def _interventions(demo: Demonstration, grid: Grid) -> list[InterventionEvent]:
    """A person has the robot while the episode runs. No takeover: there was no policy to take over from."""
    first, second = _ids(demo.name, topics.INTERVENTION.name, 2)
    end = grid.end_ns(len(demo.executed) - 1)
    return [
        InterventionEvent(grid.t0_ns, ArbiterState.HUMAN, ArbiterState.HOLD, 1.0, 0, 'demonstration', id=first),
        InterventionEvent(end, ArbiterState.HOLD, ArbiterState.HUMAN, 0.0, 0, 'end of the demonstration', id=second),
    ]


def _chunks(proposals: Sequence[Proposal]) -> list[ActionChunk]:
    """What a residual of zero makes of proposals, at once: they decide from their first step on."""
    ids = _ids(proposals[0].episode, topics.CHUNK.name, len(proposals)) if proposals else []
    return [
        ActionChunk(
            p.stamp_ns, p.stamp_ns, p.positions, p.positions, p.dt, 0.0, WeightsVersion(), p.model_id, episode=p.episode,
            observation_id=p.observation_id, base_id=p.id, id=each,
        )
        for p, each in zip(proposals, ids, strict=True)
    ]  # fmt: skip


# --- reading ----------------------------------------------------------------------------------------------------------------------


def observations(episode: LoggedEpisode, layout: JointLayout, cameras: Sequence[str]) -> list[Observation]:
    """What a model would have seen before each step of a logged demonstration, bit for bit as it was recorded."""
    event, everything, found = episode.event, read_seen(episode, layout), []
    ids = _ids(event.episode, topics.OBSERVATION.name, len(everything))
    for (stamp, seen), each in zip(everything.items(), ids, strict=True):
        missing = [c for c in cameras if c not in seen.images]
        if missing or seen.proprio is None:
            raise LogError(f'step log: {event.episode}: {f"frames/{missing[0]}" if missing else topics.JOINT_STATES.name} has no {stamp}')
        images = np.stack([seen.images[c] for c in cameras])
        found.append(Observation(stamp, images, tuple(cameras), seen.proprio, event.instruction, event.episode, id=each))
    return found


def proposed(episode: LoggedEpisode, proposals: Sequence[Proposal]) -> EpisodeRecord:
    """The record of a logged demonstration with proposals that were made afterwards; the first must be at its first frame.

    bora_replay.cutter cuts it. Its steps know the label: what the demonstrator intended.
    """
    record = episode.record
    if min((p.stamp_ns for p in proposals), default=-1) != episode.event.started_ns:
        raise LogError(f'step log: {episode.event.episode}: no proposal at its first frame')
    intended = np.stack([t.requested for t in record.executed if t.stamp_ns > episode.event.started_ns])
    return replace(record, proposals=list(proposals), chunks=_chunks(proposals), intended=intended)
