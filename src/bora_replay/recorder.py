"""Gathers what belongs to an episode from the streams, in whatever order they come, and says when the episode can be cut.

Event-sourced: what `close` returns depends only on the values that were added before it, so the log replayed through a new
recorder gives the same transitions. Time matters only to `due`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bora_common import topics
from bora_common.types import (
    ActionChunk,
    EpisodeEvent,
    EpisodeState,
    ExecutedCommand,
    InterventionEvent,
    Proposal,
    StreamMonitor,
    Transition,
)
from bora_replay.cutter import EpisodeRecord, cut, grid_of, terminal_ns

NS = 1_000_000_000
MAX_UNANNOUNCED = 8  # episodes of which something came before their first event


@dataclass(frozen=True)
class RecorderSettings:
    """Times in s of ROS time."""

    dt: float = 1 / 15
    episode_steps: int = 90
    late_mark_time: float = 2.0  # between the end of an episode and its cut
    in_flight_time: float = 0.5  # at least, even when the next episode begins at once: for proposals that are still being made
    tick_wait: float = 2.0  # at most, beyond it, for executed ticks that are still missing
    abandon_time: float = 30.0  # beyond its limit, after which an episode that never ended is cut as interrupted
    keep_time: float = 5.0  # of ticks before an episode starts


@dataclass
class _Draft:
    """An episode that is not cut yet."""

    event: EpisodeEvent | None = None
    said_ns: int = 0  # when its end was heard
    superseded: bool = False  # another episode has begun
    proposals: list[Proposal] = field(default_factory=list)
    chunks: list[ActionChunk] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.event is not None and self.event.state in (EpisodeState.ENDED, EpisodeState.AMENDED)


@dataclass(frozen=True)
class ClosedEpisode:
    """A cut episode. Evaluation episodes have no transitions: they are never trained on."""

    record: EpisodeRecord
    ended: bool  # False: interrupted, its end was never announced
    transitions: list[Transition]


class Recorder:
    """Assembles episodes of one robot and task."""

    def __init__(self, settings: RecorderSettings = RecorderSettings()):
        self.settings = settings
        self._drafts: dict[str, _Draft] = {}
        self._closed: dict[str, None] = {}  # ordered set
        self._ticks: list[ExecutedCommand] = []
        self._interventions: list[InterventionEvent] = []
        self._images: dict[int, str] = {}
        self._add = {
            topics.EXECUTED.name: self._add_executed,
            topics.BASE_CHUNK.name: self._add_proposal,
            topics.CHUNK.name: self._add_chunk,
            topics.EPISODE.name: self._add_episode,
            topics.INTERVENTION.name: self._add_intervention,
        }
        self.monitors = {topic: StreamMonitor() for topic in self._add}

    @property
    def open_episodes(self) -> list[str]:
        """Announced episodes that are not cut yet."""
        return [name for name, draft in self._drafts.items() if draft.event is not None]

    @property
    def running(self) -> str:
        """Episode that runs now; empty where none does."""
        found = [n for n, d in self._drafts.items() if d.event is not None and d.event.state == EpisodeState.RUNNING]
        return found[-1] if found else ''

    def mark_closed(self, episodes: Iterable[str]) -> None:
        """Episodes that were cut before this recorder was made."""
        self._closed |= dict.fromkeys(episodes)

    def add(self, topic: str, value: Any, now_ns: int = 0) -> bool:
        """Take a value of a topic. False where it was seen before (a publisher's history, delivered again) or comes too late."""
        if value.id and not self.monitors[topic].accept(value.id):
            return False
        return self._add[topic](value, now_ns)

    def add_frame(self, stamp_ns: int, reference: str) -> None:
        """Images of the observation of that stamp are in the log, under `reference`."""
        self._images[stamp_ns] = reference

    def has_frame(self, stamp_ns: int) -> bool:
        return stamp_ns in self._images

    # --- streams -----------------------------------------------------------------------------------------------------------------

    def _add_executed(self, tick: ExecutedCommand, now_ns: int) -> bool:
        if self._ticks and tick.stamp_ns < self._ticks[-1].stamp_ns - NS:
            self._clock_went_back(tick.stamp_ns)
        self._ticks.append(tick)
        if len(self._ticks) % 256 == 0:
            self._forget(tick.stamp_ns)
        return True

    def _add_proposal(self, proposal: Proposal, now_ns: int) -> bool:
        draft = self._draft(proposal.episode)
        if draft is not None:
            draft.proposals.append(proposal)
        return draft is not None

    def _add_chunk(self, chunk: ActionChunk, now_ns: int) -> bool:
        draft = self._draft(chunk.episode)
        if draft is not None:
            draft.chunks.append(chunk)
        return draft is not None

    def _add_intervention(self, event: InterventionEvent, now_ns: int) -> bool:
        self._interventions.append(event)
        return True

    def _add_episode(self, event: EpisodeEvent, now_ns: int) -> bool:
        draft = self._draft(event.episode)
        if draft is None:
            return False
        if draft.event is None:
            for other in self._drafts.values():
                other.superseded |= other is not draft and other.event is not None
        draft.event = event
        if draft.ended and not draft.said_ns:
            draft.said_ns = max(now_ns, 1)
        return True

    def _draft(self, episode: str) -> _Draft | None:
        """Draft of an episode, made where it is new; None for none and for one that is cut already."""
        if not episode or episode in self._closed:
            return None
        if episode not in self._drafts:
            unannounced = [n for n, d in self._drafts.items() if d.event is None]
            for name in unannounced[: len(unannounced) - MAX_UNANNOUNCED + 1]:
                del self._drafts[name]
            self._drafts[episode] = _Draft()
        return self._drafts[episode]

    # --- closing -----------------------------------------------------------------------------------------------------------------

    def due(self, now_ns: int) -> list[str]:
        """Episodes that can be cut now, oldest first; none before those that ran before it, so that numbers follow time."""
        announced = {name: draft for name, draft in self._drafts.items() if draft.event is not None}
        order = sorted(announced, key=lambda name: announced[name].event.started_ns or announced[name].event.stamp_ns)
        return list(itertools.takewhile(lambda name: self._is_due(name, announced[name], now_ns), order))

    def ended(self) -> list[str]:
        """Episodes whose end was announced, oldest first: what a recorder that stops can still cut."""
        return [name for name, draft in self._drafts.items() if draft.ended]

    def _is_due(self, name: str, draft: _Draft, now_ns: int) -> bool:
        if not draft.ended:
            limit = self._limit_ns(draft.event) + round(self.settings.abandon_time * NS)
            return draft.superseded or (draft.event.started_ns > 0 and now_ns > limit)
        late = draft.said_ns + round(self.settings.late_mark_time * NS)
        settled = draft.said_ns + round(self.settings.in_flight_time * NS)
        if now_ns < (settled if draft.superseded else late):
            return False
        return self._ticks_complete(name) or now_ns >= late + round(self.settings.tick_wait * NS)

    def _ticks_complete(self, name: str) -> bool:
        record = self._record(name)
        grid = grid_of(record)
        return grid is None or (bool(self._ticks) and self._ticks[-1].stamp_ns >= grid.end_ns(grid.step_at(record.end_ns)))

    def close(self, name: str, first_seq: int) -> ClosedEpisode:
        """Cut an episode; what still comes for it is ignored from now on."""
        record, draft = self._record(name), self._drafts.pop(name)
        self._closed[name] = None
        transitions = [] if record.episode.evaluation else cut(record, first_seq)
        return ClosedEpisode(record, draft.ended, transitions)

    def _record(self, name: str) -> EpisodeRecord:
        draft = self._drafts[name]
        event, limit = draft.event, self._limit_ns(draft.event)
        end_ns = terminal_ns(event, event.stamp_ns)
        if not draft.ended:  # interrupted: it ran as long as commands were seen, and not beyond its limit
            end_ns = min(self._ticks[-1].stamp_ns if self._ticks else 0, limit)
        begin = min([event.started_ns or end_ns, *(p.stamp_ns for p in draft.proposals)]) - NS
        return EpisodeRecord(
            episode=event,
            end_ns=end_ns,
            executed=[t for t in self._ticks if begin <= t.stamp_ns <= end_ns + NS],
            proposals=draft.proposals,
            chunks=draft.chunks,
            interventions=[i for i in self._interventions if begin <= i.stamp_ns <= end_ns + NS],
            episode_steps=self.settings.episode_steps,
            dt=self.settings.dt,
            image_refs={p.stamp_ns: self._images[p.stamp_ns] for p in draft.proposals if p.stamp_ns in self._images},
        )

    def _limit_ns(self, event: EpisodeEvent) -> int:
        return event.started_ns + round(self.settings.episode_steps * self.settings.dt * NS)

    # --- memory ------------------------------------------------------------------------------------------------------------------

    def _forget(self, now_ns: int) -> None:
        """Drop what no episode can need any more."""
        keep = now_ns - round(self.settings.keep_time * NS)
        for draft in self._drafts.values():
            begin = [draft.event.started_ns] if draft.event is not None and draft.event.started_ns else []
            keep = min([keep, *begin, *(p.stamp_ns for p in draft.proposals)])
        keep -= NS
        self._ticks = [t for t in self._ticks if t.stamp_ns >= keep]
        self._interventions = [i for i in self._interventions if i.stamp_ns >= keep]
        self._images = {stamp: ref for stamp, ref in self._images.items() if stamp >= keep}

    def _clock_went_back(self, now_ns: int) -> None:
        """A new simulation, or a clock set back: what lies ahead of now belongs to the past and would be mixed with what comes."""
        latest = now_ns + NS
        self._ticks = [t for t in self._ticks if t.stamp_ns <= latest]
        self._interventions = [i for i in self._interventions if i.stamp_ns <= latest]
        self._images = {stamp: ref for stamp, ref in self._images.items() if stamp <= latest}
