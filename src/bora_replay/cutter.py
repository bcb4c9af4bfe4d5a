"""Cuts an episode into transitions: one pure function for live, simulated and demonstrated data.

Grid: the first proposal's observation stamp t0 is the origin; step j covers (t0 + j dt, t0 + (j + 1) dt] and its executed position is
the last one sent at or before its end. Stamps are rounded to nanoseconds by their publishers, so an instant within TOLERANCE_NS behind
a boundary still belongs to it.

A segment is a run of steps that the robot followed without a hold. A transition starts at each proposal that lies in a segment and
holds the `n` steps up to the furthest proposal within k, or up to the segment's end where that is within k. A segment ends with
  * a true terminal (success, failure): its last step is done,
  * a truncation (time-out, abort, hold, fault, a step nobody recorded): never done; it bootstraps from the last proposal before it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bora_common.types import (
    ActionChunk,
    ArbiterState,
    EpisodeEvent,
    EpisodeState,
    ExecutedCommand,
    InterventionEvent,
    Outcome,
    Proposal,
    RewardEvent,
    Source,
    Step,
    StreamId,
    Transition,
    WeightsVersion,
)

TOLERANCE_NS = 1000
STOPPED = (ArbiterState.HOLD, ArbiterState.FAULT, ArbiterState.RESET)
MARKS = {Outcome.SUCCESS: 'success', Outcome.FAILURE: 'failure'}


@dataclass(frozen=True)
class EpisodeRecord:
    """Everything that was recorded of one episode. `episode` is its newest event: names, outcome, rewards, `started_ns`."""

    episode: EpisodeEvent
    end_ns: int  # terminal or truncating instant; the step that contains it is the last
    executed: Sequence[ExecutedCommand]  # by stamp
    proposals: Sequence[Proposal]
    chunks: Sequence[ActionChunk] = ()
    interventions: Sequence[InterventionEvent] = ()
    episode_steps: int = 1  # limit of the episode; each step costs 1 / episode_steps
    dt: float = 1 / 15
    image_refs: Mapping[int, str] = field(default_factory=dict)  # by observation stamp
    intended: np.ndarray | None = None  # [N, D] rad, where the label differs from what was executed


@dataclass(frozen=True)
class Grid:
    """The steps of an episode."""

    t0_ns: int
    dt: float

    def end_ns(self, step: int) -> int:
        """Last instant of a step."""
        return self.t0_ns + round((step + 1) * self.dt * 1e9)

    def step_at(self, stamp_ns: int) -> int:
        """Step that covers an instant; -1 for the origin itself."""
        return math.ceil((stamp_ns - TOLERANCE_NS - self.t0_ns) / (self.dt * 1e9)) - 1

    def index(self, stamp_ns: int) -> int:
        """Grid instant nearest to a stamp: step `index` is the first after it."""
        return round((stamp_ns - self.t0_ns) / (self.dt * 1e9))


def terminal_ns(episode: EpisodeEvent, ended_ns: int) -> int:
    """Instant at which an ended episode was over: its success or failure mark, or its end, whichever is earlier."""
    mark = MARKS.get(episode.outcome)
    return min([ended_ns, *(r.stamp_ns for r in episode.rewards if r.name == mark)])


def grid_of(record: EpisodeRecord) -> Grid | None:
    """The episode's grid; None without a proposal."""
    if not record.proposals:
        return None
    return Grid(min(p.stamp_ns for p in record.proposals), record.dt)


def steps_of(record: EpisodeRecord) -> list[Step]:
    """Steps of the episode up to its end. A step without a single tick is marked as held: what happened in it is unknown."""
    grid = grid_of(record)
    if grid is None or record.end_ns <= grid.t0_ns:
        return []
    ticks = sorted(record.executed, key=lambda e: e.stamp_ns)
    stamps = [t.stamp_ns for t in ticks]
    stops = _stops(record)
    steps: list[Step] = []
    begin = bisect.bisect_right(stamps, grid.t0_ns + TOLERANCE_NS)
    for j in range(grid.step_at(record.end_ns) + 1):
        end = bisect.bisect_right(stamps, grid.end_ns(j) + TOLERANCE_NS)
        if end == 0:
            return []  # nothing was ever sent before the end of the first step: there is no position to start from
        steps.append(_step(record, grid, j, ticks[begin:end], ticks[end - 1], stops))
        begin = end
    return steps


def _step(
    record: EpisodeRecord, grid: Grid, j: int, ticks: Sequence[ExecutedCommand], last: ExecutedCommand, stops: list[tuple[int, int]]
) -> Step:
    begin, end = grid.end_ns(j - 1), min(grid.end_ns(j), record.end_ns)
    stopped = any(a <= end + TOLERANCE_NS and b > begin + TOLERANCE_NS for a, b in stops)
    held = stopped or not ticks or any(t.held for t in ticks if t.stamp_ns <= record.end_ns)
    beta = max((t.beta for t in ticks), default=0.0)
    intended = last.positions if record.intended is None else record.intended[min(j, len(record.intended) - 1)]
    return Step(
        index=j, stamp_ns=grid.end_ns(j), executed=last.positions, intended=np.asarray(intended, dtype=np.float64), source=last.source,
        beta=beta, human=beta > 0, held=held, limits=tuple(sorted({x for t in ticks for x in t.limits})), chunk_id=last.chunk_id,
    )  # fmt: skip


def _stops(record: EpisodeRecord) -> list[tuple[int, int]]:
    """Intervals [from, until) in which the arbiter held the robot. A hold that began before the start or with the end is the normal rest
    between episodes."""
    events = sorted(record.interventions, key=lambda e: e.stamp_ns)
    until = [*(e.stamp_ns for e in events), record.end_ns + 1][1:]
    within = ((e, b) for e, b in zip(events, until, strict=False) if record.episode.started_ns < e.stamp_ns < record.end_ns)
    return [(e.stamp_ns, b) for e, b in within if e.state in STOPPED]


def cut(record: EpisodeRecord, first_seq: int = 0) -> list[Transition]:
    """Transitions of an episode in the order of their proposals, numbered from `first_seq`."""
    steps = steps_of(record)
    grid = grid_of(record)
    if not steps or grid is None:
        return []
    rewards = _rewards(record, grid, len(steps))
    proposals = sorted(record.proposals, key=lambda p: (p.stamp_ns, p.id.seq))
    indices = [grid.index(p.stamp_ns) for p in proposals]
    chunks = _chunks_by_base(record.chunks)
    transitions: list[Transition] = []
    for proposal, i in zip(proposals, indices, strict=True):
        span = _span(record, steps, i, indices, len(proposal.positions))
        if span is None:
            continue
        n, ends, following = span
        chunk = chunks.get(proposal.id) or chunks.get(proposal.observation_id)
        fields = _fields(record, proposal, chunk, proposals[following], steps[i : i + n], rewards[i : i + n], ends)
        transitions.append(Transition(seq=first_seq + len(transitions), **fields))
    return transitions


def _span(record: EpisodeRecord, steps: Sequence[Step], i: int, indices: Sequence[int], k: int) -> tuple[int, bool, int] | None:
    """Of the transition that starts at step i: number of steps, whether the segment ends with them, and which proposal follows.

    None where there is no step to take, or nothing to bootstrap from within k.
    """
    if i >= len(steps):
        return None
    end = next((s.index for s in steps[i:] if s.held), len(steps))  # of the segment, exclusive
    reach = bisect.bisect_right(indices, min(i + k, end)) - 1  # furthest proposal; among those at one instant, the newest
    if end - i <= k:
        return (end - i, True, reach) if end > i else None
    n = indices[reach] - i
    return (n, False, reach) if n > 0 else None


def _fields(
    record: EpisodeRecord, proposal: Proposal, chunk: ActionChunk | None, following: Proposal, steps: Sequence[Step], reward: np.ndarray,
    ends: bool,
) -> dict[str, Any]:  # fmt: skip
    """Everything of a transition but its number; `ends`: its segment ends with these steps."""
    k, n = len(proposal.positions), len(steps)
    terminal = ends and record.episode.outcome.terminal and steps[-1].stamp_ns >= record.end_ns - TOLERANCE_NS
    done = np.zeros(k, dtype=bool)
    done[n - 1] = terminal
    executed = np.stack([s.executed for s in steps])
    return {
        'stamp_ns': proposal.stamp_ns, 'episode': record.episode.episode, 'round': record.episode.round, 'task': record.episode.task,
        'robot': record.episode.robot, 'tokens': proposal.tokens, 'token_names': proposal.token_names, 'proprio': proposal.proprio,
        'vla': proposal.positions, 'executed': np.concatenate([executed, np.repeat(executed[-1:], k - n, axis=0)]),
        'reward': _padded(reward, k, np.float32), 'done': done, 'mask': np.arange(k) < n,
        'human': _padded([s.human for s in steps], k, bool), 'beta': _padded([s.beta for s in steps], k, np.float32),
        'truncated': ends and not terminal, 'first': _first(proposal, chunk), 'next_tokens': following.tokens,
        'next_proprio': following.proprio, 'success': record.episode.outcome == Outcome.SUCCESS, 'dt': record.dt,
        'model_id': proposal.model_id, 'image_ref': record.image_refs.get(proposal.stamp_ns, ''),
        **({'version': chunk.version, 'alpha': chunk.alpha} if chunk is not None else {}),
    }  # fmt: skip


def _padded(values: Sequence, k: int, dtype: type) -> np.ndarray:
    out = np.zeros(k, dtype=dtype)
    out[: len(values)] = values
    return out


def _first(proposal: Proposal, chunk: ActionChunk | None) -> int:
    """First step that the chunk could decide: due after the chunk was published; k where there never was one."""
    k = len(proposal.positions)
    if chunk is None:
        return k
    return next((i for i in range(k) if chunk.due_ns(i) > chunk.published_ns), k)


def _chunks_by_base(chunks: Sequence[ActionChunk]) -> dict[StreamId, ActionChunk]:
    """The first chunk published for each proposal, by the proposal's id and by its observation's."""
    found: dict[StreamId, ActionChunk] = {}
    for chunk in sorted(chunks, key=lambda c: c.published_ns):
        for key in (chunk.base_id, chunk.observation_id):
            if key:
                found.setdefault(key, chunk)
    return found


def _rewards(record: EpisodeRecord, grid: Grid, count: int) -> np.ndarray:
    """Reward of each step [count]: the penalty of a step plus the events it covers; what falls outside goes to the nearest step."""
    rewards = np.full(count, -1.0 / record.episode_steps)
    for event in record.episode.rewards:
        rewards[min(max(grid.step_at(event.stamp_ns), 0), count - 1)] += event.value
    return rewards


def record_from_demo(
    *,
    episode: str,
    task: str,
    robot: str,
    executed: np.ndarray,
    frames: Sequence[int],
    tokens: np.ndarray,
    token_names: Sequence[str],
    vla: np.ndarray,
    proprio: np.ndarray,
    outcome: Outcome,
    episode_steps: int,
    dt: float = 1 / 15,
    model_id: str = '',
    intended: np.ndarray | None = None,
    round: int = 0,
    t0_ns: int = 0,
) -> EpisodeRecord:
    """Record of a demonstration that was taken at the step rate.

    `executed` [N, D] is the command in force at the end of each step, `intended` [N, D] its label. At each of the M `frames` (indices
    of steps, the frame is seen before its step; the first must be 0) the model gave `tokens` [M, T, W] and `vla` [M, k, D] from `proprio`
    [M, D]. A success counts +1 at the last step; a demonstration that just stops is a TIMEOUT.
    """
    grid = Grid(t0_ns, dt)
    end_ns = grid.end_ns(len(executed) - 1)
    rewards = (RewardEvent(end_ns, 'success', 1.0),) if outcome == Outcome.SUCCESS else ()
    event = EpisodeEvent(
        stamp_ns=end_ns, episode=episode, task=task, instruction='', robot=robot, round=round, evaluation=False, seed=-1,
        state=EpisodeState.ENDED, outcome=outcome, started_ns=t0_ns, rewards=rewards,
    )  # fmt: skip
    proposals = [
        Proposal(
            stamp_ns=grid.end_ns(frame - 1), positions=vla[m], dt=dt, tokens=tokens[m], token_names=tuple(token_names), proprio=proprio[m],
            model_id=model_id, episode=episode, id=StreamId(1, m),
        )
        for m, frame in enumerate(frames)
    ]  # fmt: skip
    ticks = [
        ExecutedCommand(
            stamp_ns=grid.end_ns(j), positions=position, requested=position, limits=(), source=Source.POLICY, beta=0.0, epoch=0,
            chunk_id=StreamId(), step=-1,
        )
        for j, position in enumerate(np.asarray(executed, dtype=np.float64))
    ]  # fmt: skip
    # A demonstration's proposals are made afterwards, for every frame: they decide from their first step on.
    chunks = [
        ActionChunk(p.stamp_ns, p.stamp_ns, p.positions, p.positions, dt, 0.0, WeightsVersion(), model_id, episode=episode, base_id=p.id)
        for p in proposals
    ]
    return EpisodeRecord(event, end_ns, ticks, proposals, chunks, (), episode_steps, dt, intended=intended)
