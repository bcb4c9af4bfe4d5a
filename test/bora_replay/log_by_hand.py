"""Writes a step log as the replay node does, without the graph."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
from by_hand import Episode

from bora_common.codec_record import frame_bytes
from bora_common.types import Outcome, StreamId
from bora_replay.recorder import NS, Recorder
from bora_replay.steplog import FRAMES, Session, StepLog, frame_reference

SESSION = Session('robot', ('joint0', 'joint1', 'joint2'), 'task', 90, 1 / 15, ('left', 'front'))


def scene(number: int) -> Episode:
    outcome = (Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.FAILURE)[number % 3]
    episode = Episode((0, 4, 8)).ends(outcome, 10 + number % 4)
    episode.evaluation = number % 5 == 4
    return episode


def messages(count: int, first: int = 0) -> list:
    """Messages of `count` episodes, one after another in time, from publishers that number them through."""
    everything = [m for n in range(first, first + count) for m in scene(n).messages(f'e-{n:04d}', n * 10 * NS)]
    numbers, proposals, out = {}, {}, []
    for topic, value, now in everything:
        number = numbers.get(topic, first * 10_000)
        numbers[topic] = number + 1
        changes = {'id': StreamId(sum(map(ord, topic)), number)}
        if topic == 'base_chunk':
            proposals[value.id] = changes['id']
        elif topic == 'chunk':
            changes['base_id'] = proposals[value.base_id]
        out.append((topic, dataclasses.replace(value, **changes), now))
    return out


class Writer:
    """Recorder and log of one process."""

    def __init__(self, run_dir: Path, commit_every: int = 20):
        self.log = StepLog(run_dir, SESSION)
        self.recorder = Recorder(SESSION.settings)
        self.log.recover(self.recorder)
        self.commit_every = commit_every
        self.published = []
        self._count = self._now = 0

    def write(self, topic, value, now) -> None:
        if not self.recorder.add(topic, value, now):
            return
        self.log.add(topic, value, now)
        if topic == 'base_chunk':
            self._write_frames(value.stamp_ns, now)
        self._count += 1
        self._now = now
        if self._count % self.commit_every == 0:
            self.log.commit()
        self.close_due(now)

    def _write_frames(self, stamp_ns, now) -> None:
        for camera in SESSION.cameras:
            self.log.append(FRAMES + camera, frame_bytes(picture(stamp_ns), stamp_ns, camera, 'png', 90), now, stamp_ns)
        self.recorder.add_frame(stamp_ns, frame_reference(self.log.segment, stamp_ns))

    def close_due(self, now) -> None:
        for name in self.recorder.due(now):
            closed = self.recorder.close(name, self.log.next_seq)
            self.published += self.log.append_cut(closed, now)

    def finish(self) -> None:
        for name in self.recorder.ended():
            self.published += self.log.append_cut(self.recorder.close(name, self.log.next_seq), self._now)
        self.log.close()


def picture(stamp_ns: int) -> np.ndarray:
    return np.full((8, 8, 3), stamp_ns // 7 % 251, np.uint8)


def main() -> None:
    """Write the same run for ever, as a process that is going to be killed: it goes on where the log ends."""
    writer = Writer(Path(sys.argv[1]), commit_every=7)
    print('ready', flush=True)
    for n, message in enumerate(messages(int(sys.argv[2]))):
        writer.write(*message)
        if n % 50 == 0:
            print(n, flush=True)
    writer.finish()
    print('done', flush=True)


if __name__ == '__main__':
    main()
