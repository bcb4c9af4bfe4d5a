"""Files that DDS leaves in /dev/shm: find the ones that given processes use, remove the ones that nobody uses any more."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path('/dev/shm')
PREFIXES = ('fastrtps_', 'sem.fastrtps_', 'fastdds_', 'sem.fastdds_')


def used_by(pids: Iterable[int]) -> set[Path]:
    """DDS files that the processes have mapped or open. A process that has gone or is not ours counts as using none."""
    found: set[Path] = set()
    for pid in pids:
        found |= _mapped(pid) | _open(pid)
    return found


def _is_ours(path: str) -> bool:
    return path.startswith(f'{FOLDER}/') and os.path.basename(path).startswith(PREFIXES)


def _mapped(pid: int) -> set[Path]:
    try:
        lines = Path(f'/proc/{pid}/maps').read_text().splitlines()
    except OSError:
        return set()
    paths = (line.split(maxsplit=5)[5].removesuffix(' (deleted)') for line in lines if str(FOLDER) in line)
    return {Path(p) for p in paths if _is_ours(p)}


def _open(pid: int) -> set[Path]:
    found = set()
    try:
        for entry in os.scandir(f'/proc/{pid}/fd'):
            target = os.readlink(entry.path).removesuffix(' (deleted)')
            if _is_ours(target):
                found.add(Path(target))
    except OSError:
        pass  # it ended in between: what it held is known from earlier calls
    return found


def companions(path: Path) -> set[Path]:
    """Lock files and named semaphore of a port or segment; DDS opens them for moments only, so nobody is seen to use them."""
    base = path.name.removeprefix('sem.').removesuffix('_mutex').removesuffix('_el').removesuffix('_sl')
    return {path.with_name(name) for name in (base, f'{base}_el', f'{base}_sl', f'sem.{base}_mutex')}


def remove_unused(candidates: Iterable[Path], ignore: Iterable[int] = ()) -> list[Path]:
    """Remove those candidates, with their companions, that no living process uses, `ignore` aside; the removed ones."""
    wanted = {c for path in candidates for c in companions(path)}
    if not wanted:
        return []
    pids = {int(name) for name in os.listdir('/proc') if name.isdigit()} - set(ignore)
    living = {c for path in used_by(pids) for c in companions(path)}
    removed = sorted(path for path in wanted - living if path.exists())
    for path in removed:
        path.unlink(missing_ok=True)
    return removed
