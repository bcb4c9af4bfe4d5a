"""The step log of a run: what the robot did, why, and the transitions cut from it, in durable MCAP segments under `<run>/log`.

Topics: the graph's own (`executed`, `base_chunk`, `chunk`, `episode`, `intervention`, `weights_status`, `replay`), `frames/<camera>`
(one compressed image a step), `session` (what the recorder was told, as JSON) and `cut` (one JSON line for each episode that was cut,
in the same batch as its transitions, so that either both are there or neither). A log of demonstrations also has `/joint_states`, the
proprioception of each frame, which a live run has in its proposals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bora_common import topics
from bora_common.codec_record import (
    IMAGE_TYPE,
    STRING_TYPE,
    decode_entry,
    encode_entry,
    frame_bytes,
    frame_of,
    from_bytes,
    schema_text,
    text_bytes,
    text_of,
    to_bytes,
    transition_bytes,
)
from bora_common.codec_robot import decode_joint_states, encode_joint_states
from bora_common.errors import LogError
from bora_common.types import ArbiterState, EpisodeEvent, ExecutedCommand, JointLayout, Source, Step, StreamId, Transition
from bora_replay.cutter import EpisodeRecord, steps_of
from bora_replay.recorder import ClosedEpisode, Recorder, RecorderSettings
from bora_replay.segments import ChannelSpec, Entry, SegmentReader, SegmentWriter

FOLDER = 'log'
FRAMES = 'frames/'
SESSION = 'session'
CUT = 'cut'
STREAMS = (topics.EXECUTED, topics.BASE_CHUNK, topics.CHUNK, topics.EPISODE, topics.INTERVENTION)
HEAVY = (topics.EXECUTED.name, topics.BASE_CHUNK.name, topics.CHUNK.name)
TOPICS = (*STREAMS, topics.WEIGHTS_STATUS, topics.REPLAY, topics.JOINT_STATES)


def channels(cameras: Sequence[str]) -> dict[str, ChannelSpec]:
    """Every topic of the log."""
    kinds = {t.name: t.type for t in TOPICS} | {SESSION: STRING_TYPE, CUT: STRING_TYPE} | {FRAMES + c: IMAGE_TYPE for c in cameras}
    schemas = {kind: schema_text(kind) for kind in set(kinds.values())}
    return {topic: ChannelSpec(topic, kind, schemas[kind]) for topic, kind in kinds.items()}


@dataclass(frozen=True)
class Session:
    """What reading a log needs to know."""

    robot: str
    joint_names: tuple[str, ...]
    task: str
    episode_steps: int
    dt: float
    cameras: tuple[str, ...]

    @property
    def layout(self) -> JointLayout:
        return JointLayout(self.joint_names)

    @property
    def settings(self) -> RecorderSettings:
        return RecorderSettings(dt=self.dt, episode_steps=self.episode_steps)

    def to_json(self) -> str:
        return json.dumps(self.__dict__)

    @staticmethod
    def from_json(text: str) -> Session:
        facts = json.loads(text)
        return Session(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()})


@dataclass
class Contents:
    """What a scan of the existing segments found."""

    places: dict[int, tuple[str, int, int]] = field(default_factory=dict)  # seq -> segment, chunk offset, index
    cuts: list[dict[str, Any]] = field(default_factory=list)
    corrupt: int = 0
    torn_bytes: int = 0
    segments: int = 0


def segment_paths(run_dir: str | Path) -> list[Path]:
    """Segments of a run in the order in which they were written."""
    return sorted((Path(run_dir) / FOLDER).glob('segment_*.mcap'))


def read_entries(run_dir: str | Path, contents: Contents | None = None) -> Iterator[Entry]:
    """All readable messages of a run in the order of the log; damage is counted in `contents`."""
    contents = Contents() if contents is None else contents
    for path in segment_paths(run_dir):
        reader = SegmentReader(path)
        unknown = 0
        for entry in reader:
            if entry.topic:
                yield entry
            else:
                unknown = 1
        contents.segments += 1
        contents.corrupt += reader.damage.corrupt + unknown
        contents.torn_bytes += reader.damage.torn_bytes


class StepLog:
    """Open log of a run: a new segment a start; goes on numbering transitions where the log ends."""

    def __init__(self, run_dir: str | Path, session: Session, max_segment_bytes: int = 256 * 2**20):
        self.session = session
        self.contents = Contents()
        self._folder = Path(run_dir) / FOLDER
        self._run_dir = Path(run_dir)
        self._max_segment_bytes = max_segment_bytes
        self._channels = channels(session.cameras)
        self._cached: tuple[str, int, list[Entry]] | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(f'step log: {self._folder} can\'t be made: {error.strerror}') from None
        self._layout = session.layout
        self._scan()
        self._next_seq = max(self.contents.places, default=-1) + 1
        self._writer = self._open_segment()

    @property
    def next_seq(self) -> int:
        """Number of the next transition."""
        return self._next_seq

    @property
    def segment(self) -> str:
        """File name of the segment that is written now."""
        return self._writer.path.name

    def _scan(self) -> None:
        for entry in read_entries(self._run_dir, self.contents):
            if entry.topic == topics.REPLAY.name:
                seq = from_bytes(entry.data, entry.type).seq
                self.contents.places.setdefault(seq, (entry.segment, entry.offset, entry.index))
            elif entry.topic == CUT:
                self.contents.cuts.append(json.loads(text_of(entry.data)))
            elif entry.topic == SESSION:
                self._check(Session.from_json(text_of(entry.data)))

    def _check(self, found: Session) -> None:
        for name in ('robot', 'joint_names', 'task', 'episode_steps', 'dt'):
            if getattr(found, name) != getattr(self.session, name):
                raise LogError(f'step log: {self._folder}: {name} is {getattr(found, name)}, expected {getattr(self.session, name)}')

    def _open_segment(self) -> SegmentWriter:
        paths = segment_paths(self._run_dir)
        number = int(paths[-1].stem.split('_')[1]) + 1 if paths else 0
        writer = SegmentWriter(self._folder / f'segment_{number:05d}.mcap', self._channels)
        writer.append(SESSION, text_bytes(self.session.to_json()), 0, 0)
        writer.commit()
        return writer

    def recover(self, recorder: Recorder) -> None:
        """Give a new recorder what the log holds of episodes that were not cut."""
        recorder.mark_closed(c['episode'] for c in self.contents.cuts)
        feed(recorder, read_entries(self._run_dir), self._layout, self.contents.cuts)

    def append(self, topic: str, data: bytes, now_ns: int, stamp_ns: int) -> None:
        """Add a message to the batch."""
        self._writer.append(topic, data, now_ns, stamp_ns)

    def add(self, topic: str, value: Any, now_ns: int) -> None:
        """Add a value of one of the STREAMS to the batch."""
        self.append(topic, encode_entry(topic, value, self._layout), now_ns, value.stamp_ns)

    def add_seen(self, stamp_ns: int, images: Mapping[str, np.ndarray], proprio: np.ndarray) -> str:
        """Add what was seen at an instant: rgb8 [H, W, 3] by camera, without loss, and proprio [P] in rad. The frame's reference."""
        for camera, image in images.items():
            self.append(FRAMES + camera, frame_bytes(image, stamp_ns, camera, 'png', 100), stamp_ns, stamp_ns)
        data = to_bytes(encode_joint_states(stamp_ns, self._layout.names, proprio))
        self.append(topics.JOINT_STATES.name, data, stamp_ns, stamp_ns)
        return frame_reference(self.segment, stamp_ns)

    def append_cut(self, closed: ClosedEpisode, now_ns: int) -> list[Transition]:
        """Write the batch with the transitions of a cut episode and wait until it is on disk. What it returns may be published."""
        event = closed.record.episode
        self.commit()
        for transition in closed.transitions:
            self._writer.append(topics.REPLAY.name, transition_bytes(transition, self._layout), now_ns, transition.stamp_ns)
        line = {
            'episode': event.episode, 'first_seq': closed.transitions[0].seq if closed.transitions else self.next_seq,
            'count': len(closed.transitions), 'evaluation': event.evaluation, 'ended': closed.ended, 'end_ns': closed.record.end_ns,
        }  # fmt: skip
        self._writer.append(CUT, text_bytes(json.dumps(line)), now_ns, closed.record.end_ns)
        segment, offset = self.segment, self._writer.commit()
        self.contents.cuts.append(line)
        for index, transition in enumerate(closed.transitions):
            self.contents.places[transition.seq] = (segment, offset, index)
            self._next_seq = transition.seq + 1
        return closed.transitions

    def commit(self) -> None:
        """Put the batch on disk; begin a new segment where this one is large."""
        self._writer.commit()
        if self._writer.size > self._max_segment_bytes:
            self._writer.close()
            self._writer = self._open_segment()

    def transition(self, seq: int) -> bytes | None:
        """CDR bytes of a transition; None where the log has none of that number."""
        place = self.contents.places.get(seq)
        if place is None:
            return None
        segment, offset, index = place
        if self._cached is None or self._cached[:2] != (segment, offset):
            self._cached = (segment, offset, SegmentReader(self._folder / segment).at(offset))
        return self._cached[2][index].data

    def close(self) -> None:
        """Finish the segment; safe to call twice."""
        self._writer.close()


def feed(recorder: Recorder, entries: Iterator[Entry], layout: JointLayout, cuts: Sequence[dict[str, Any]] = ()) -> None:
    """Replay logged messages into a recorder. Of the streams that end with the last of the `cuts` only the newest message is decoded."""
    to_come = len(cuts)
    skipped: dict[str, Entry] = {}
    for entry in entries:
        to_come -= entry.topic == CUT
        if entry.topic.startswith(FRAMES):
            recorder.add_frame(entry.publish_ns, frame_reference(entry.segment, entry.publish_ns))
        elif entry.topic in HEAVY and to_come > 0 and entry.publish_ns < cuts[-1]['end_ns']:
            skipped[entry.topic] = entry
        elif entry.topic in recorder.monitors:
            for each in (skipped.pop(entry.topic, None), entry):
                _add(recorder, each, layout)
    for entry in skipped.values():
        _add(recorder, entry, layout)


def _add(recorder: Recorder, entry: Entry | None, layout: JointLayout) -> None:
    if entry is not None:
        recorder.add(entry.topic, decode_entry(entry.topic, entry.type, entry.data, layout), entry.log_ns)


def frame_reference(segment: str, stamp_ns: int) -> str:
    """What a transition calls the images it was decided from: segment and observation stamp."""
    return f'{segment}:{stamp_ns}'


# --- reading a finished run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameRef:
    """One logged image."""

    camera: str
    stamp_ns: int
    path: Path
    offset: int
    index: int

    def image(self) -> np.ndarray:
        """rgb8 [H, W, 3]."""
        return frame_of(SegmentReader(self.path).at(self.offset)[self.index].data)


@dataclass(frozen=True)
class LoggedEpisode:
    """One episode of a run, with what the log says about it."""

    record: EpisodeRecord
    steps: tuple[Step, ...]
    frames: tuple[FrameRef, ...]  # within the episode, by stamp
    logged: int  # transitions in the log
    cut: bool  # False: the recorder has not cut it (yet)
    ended: bool  # False: interrupted

    @property
    def event(self) -> EpisodeEvent:
        """Newest event: id, task, round, evaluation, seed, outcome, reason."""
        return self.record.episode

    @property
    def human_steps(self) -> int:
        return sum(s.human for s in self.steps)

    @property
    def takeovers(self) -> int:
        """How often a person took over while the episode ran."""
        began, ended = self.event.started_ns, self.record.end_ns
        return sum(
            i.state == ArbiterState.BLEND_IN and i.previous != ArbiterState.BLEND_IN and began <= i.stamp_ns < ended
            for i in self.record.interventions
        )

    @property
    def reward(self) -> float:
        """Sum of the episode's reward events and step penalties."""
        return sum(r.value for r in self.event.rewards) - len(self.steps) / self.record.episode_steps

    def strip(self, camera: str, count: int) -> list[FrameRef]:
        """`count` frames of a camera, evenly spread over the episode."""
        frames = [f for f in self.frames if f.camera == camera]
        if len(frames) <= count:
            return frames
        return [frames[round(i * (len(frames) - 1) / max(count - 1, 1))] for i in range(count)]


@dataclass
class _Replay:
    """Recorder fed from a log, and what it cut beside what the log holds."""

    recorder: Recorder
    layout: JointLayout
    logged: list[Transition] = field(default_factory=list)
    closed: list[tuple[ClosedEpisode, bool]] = field(default_factory=list)  # with: was cut by the recorder
    frames: list[FrameRef] = field(default_factory=list)


def _replay(run_dir: str | Path, contents: Contents) -> _Replay | None:
    """Cut every episode of a log again, at the places where it was cut; None for an empty log."""
    state: _Replay | None = None
    for entry in read_entries(run_dir, contents):
        if entry.topic == SESSION:
            session = Session.from_json(text_of(entry.data))
            if state is None:
                state = _Replay(Recorder(session.settings), session.layout)
        elif state is not None:
            _take(state, entry, Path(run_dir) / FOLDER / entry.segment)
    if state is not None:
        for name in state.recorder.open_episodes:
            ended = name in state.recorder.ended()
            closed = state.recorder.close(name, 0)
            state.closed.append((replace(closed, transitions=closed.transitions if ended else []), False))
    return state


def _take(state: _Replay, entry: Entry, path: Path) -> None:
    if entry.topic.startswith(FRAMES):
        state.recorder.add_frame(entry.publish_ns, frame_reference(entry.segment, entry.publish_ns))
        state.frames.append(FrameRef(entry.topic[len(FRAMES) :], entry.publish_ns, path, entry.offset, entry.index))
    elif entry.topic in state.recorder.monitors:
        _add(state.recorder, entry, state.layout)
    elif entry.topic == topics.REPLAY.name:
        state.logged.append(decode_entry(entry.topic, entry.type, entry.data, state.layout))
    elif entry.topic == CUT:
        line = json.loads(text_of(entry.data))
        if line['episode'] in state.recorder.open_episodes:
            state.closed.append((state.recorder.close(line['episode'], line['first_seq']), True))


def verify(run_dir: str | Path) -> dict[str, int]:
    """Cut the transitions again from the logged steps and compare them with the logged ones.

    `transitions`: distinct ones in the log; `lost`: cut again (or numbered) but not logged; `duplicated`: logged more than once;
    `corrupt`: damaged places before the tail of a segment, and transitions that differ from what the steps say; `segments`: files.
    """
    contents = Contents()
    if not segment_paths(run_dir):
        raise LogError(f'step log: {Path(run_dir) / FOLDER} holds no segment')
    state = _replay(run_dir, contents)
    logged: dict[int, Transition] = {}
    places: set[tuple[str, int]] = set()
    duplicated = 0
    for transition in state.logged if state else ():
        duplicated += transition.seq in logged
        logged.setdefault(transition.seq, transition)
        places.add((transition.episode, transition.stamp_ns))
    expected = [t for closed, _ in (state.closed if state else ()) for t in closed.transitions]
    lost = max(sum((t.episode, t.stamp_ns) not in places for t in expected), len(range(max(logged, default=-1) + 1)) - len(logged))
    by_place = {(t.episode, t.stamp_ns, t.seq): t for t in expected}
    differing = sum(
        not same_transition(t, by_place[key]) for t in logged.values() if (key := (t.episode, t.stamp_ns, t.seq)) in by_place
    )
    return {
        'transitions': len(logged), 'lost': lost, 'duplicated': duplicated, 'corrupt': contents.corrupt + differing,
        'segments': contents.segments,
    }  # fmt: skip


def same_transition(logged: Transition, cut_again: Transition) -> bool:
    """True when two transitions say the same; tokens to the precision in which they are logged."""
    for name, value in logged.__dict__.items():
        other = getattr(cut_again, name)
        if name in ('tokens', 'next_tokens'):
            value, other = np.asarray(value, np.float16), np.asarray(other, np.float16)
        if isinstance(value, np.ndarray):
            if not np.array_equal(value, np.asarray(other, dtype=value.dtype)):
                return False
        elif isinstance(value, float):
            if abs(value - other) > 1e-9:
                return False
        elif value != other:
            return False
    return True


def read_episodes(run_dir: str | Path) -> list[LoggedEpisode]:
    """Every episode of a run in the order of the log, cut or not."""
    state = _replay(run_dir, Contents())
    if state is None:
        return []
    counts: dict[str, int] = {}
    for transition in {t.seq: t for t in state.logged}.values():
        counts[transition.episode] = counts.get(transition.episode, 0) + 1
    episodes = []
    for closed, was_cut in state.closed:
        record = closed.record
        frames = tuple(f for f in state.frames if record.episode.started_ns <= f.stamp_ns <= record.end_ns)
        episodes.append(
            LoggedEpisode(
                record, tuple(steps_of(record)), frames if record.episode.started_ns else (), counts.get(record.episode.episode, 0),
                was_cut, closed.ended,
            )  # fmt: skip
        )
    return episodes


@dataclass
class Seen:
    """What a log holds of one instant."""

    images: dict[str, np.ndarray] = field(default_factory=dict)  # rgb8 [H, W, 3] by camera
    proprio: np.ndarray | None = None  # [P] rad; None where the log has no joint states


def read_seen(episode: LoggedEpisode, layout: JointLayout) -> dict[int, Seen]:
    """Frames of an episode, and the joint states in the same batches, by stamp."""
    seen = {stamp: Seen() for stamp in sorted({f.stamp_ns for f in episode.frames})}
    for path, offset in sorted({(f.path, f.offset) for f in episode.frames}):
        for entry in SegmentReader(path).at(offset):
            if entry.publish_ns not in seen:
                continue
            if entry.topic.startswith(FRAMES):
                seen[entry.publish_ns].images[entry.topic[len(FRAMES) :]] = frame_of(entry.data)
            elif entry.topic == topics.JOINT_STATES.name:
                _, seen[entry.publish_ns].proprio, _ = decode_joint_states(from_bytes(entry.data, entry.type), layout)
    return seen


def from_controller(record: EpisodeRecord, stamps_ns: np.ndarray, positions: np.ndarray) -> EpisodeRecord:
    """The same episode with a controller's own record of the positions in force [N, D] in place of the logged ticks.

    Cutting it counts what was executed, whether or not the log holds it. Whose command it was is still taken from the log.
    """
    stamps_ns = np.asarray(stamps_ns)
    logged = sorted(record.executed, key=lambda e: e.stamp_ns)
    known = np.array([t.stamp_ns for t in logged], dtype=np.int64)
    ticks, seen = [], 0
    for i in np.flatnonzero((stamps_ns >= record.episode.started_ns - 10**9) & (stamps_ns <= record.end_ns + 10**9)):
        stamp, position = int(stamps_ns[i]), np.asarray(positions[i], dtype=np.float64)
        heard = int(np.searchsorted(known, stamp, side='right'))
        if heard:
            # A hold and the command that ends it may be of one instant, of which the controller keeps the latter alone.
            told = next((t for t in logged[seen:heard] if t.held), logged[heard - 1])
            ticks.append(replace(told, stamp_ns=stamp, positions=position))
        else:
            ticks.append(ExecutedCommand(stamp, position, position, (), Source.HOLD, 0.0, 0, StreamId(), -1))
        seen = heard
    return replace(record, executed=ticks)
