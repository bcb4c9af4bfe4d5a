"""`replay_sample_ratio`: time to sample a batch ÷ time to copy the same bytes. `replay_append_ms`: one step of a recorded run (its
proposals, frames and executed commands) written again to a log that is put on disk twice a second, as the replay node does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import emit, times_ms

from bora_bringup.summary import percentiles
from bora_common import topics
from bora_common.codec_record import text_of
from bora_common.paths import resolve
from bora_replay.buffer import TransitionBuffer
from bora_replay.steplog import CUT, SESSION, Session, StepLog, read_entries

COMMIT_STEPS = 8  # of 1/15 s: about half a second


def sample_ratio() -> float:
    buffer = TransitionBuffer.load(resolve('press_button', 'models') / 'offline.safetensors')
    rng = np.random.default_rng(0)
    arrays = [np.asarray(v) for v in buffer.sample(rng, 64).values()]
    sample = np.median(times_ms(lambda: buffer.sample(rng, 64), 200))
    return float(sample / np.median(times_ms(lambda: [a.copy() for a in arrays], 200)))


def append_ms(run_dir: Path, folder: Path) -> list[float]:
    """ms of each step of the run's log."""
    entries = list(read_entries(run_dir))
    session = next(Session.from_json(text_of(e.data)) for e in entries if e.topic == SESSION)
    log, spent, step = StepLog(folder, session), [], 0.0
    for entry in entries:
        if entry.topic in (SESSION, CUT, topics.REPLAY.name):
            continue
        begin = time.perf_counter()
        log.append(entry.topic, entry.data, entry.log_ns, entry.publish_ns)
        if entry.topic == topics.BASE_CHUNK.name and len(spent) % COMMIT_STEPS == 0:
            log.commit()
        step += time.perf_counter() - begin
        if entry.topic == topics.BASE_CHUNK.name:
            spent.append(step * 1e3)
            step = 0.0
    log.close()
    return spent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        emit({
            'replay_sample_ratio': round(sample_ratio(), 2),
            'replay_append_ms': percentiles(append_ms(Path(sys.argv[1]), Path(folder))),
        })  # fmt: skip


if __name__ == '__main__':
    main()
