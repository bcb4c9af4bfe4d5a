"""What a stage of a long computation is given. Knows nothing of the scheduler, so that a change there leaves results valid."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRESS = 'progress.json'


@dataclass(frozen=True)
class Job:
    """One stage's work. Whatever it writes must appear whole or not at all: it may be killed, and is then started again here."""

    inputs: Mapping[str, Any]
    folder: Path
    needs: Mapping[str, Path]  # folders of the stages it needs, by name
    shared: Path  # for caches that stages share; not a result

    def report(self, done: int, total: int) -> None:
        """How far it is; cheap to call often."""
        file, now = self.folder / PROGRESS, time.time()
        if done == total or not file.is_file() or now - file.stat().st_mtime > 1.0:
            write_whole(file, json.dumps([done, total]))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f'.{path.name}.partial')
    with open(partial, 'w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
