"""Counts of a demonstration run: what goes into summary.json. Pure."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bora_bringup.session import EpisodeResult
from bora_common.types import Outcome


def wilson95(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval at 95 %."""
    if trials == 0:
        return (0.0, 1.0)
    z, p = 1.959963984540054, successes / trials
    centre, spread = p + z * z / (2 * trials), z * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (float((centre - spread) / (1 + z * z / trials)), float((centre + spread) / (1 + z * z / trials)))


def success(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """{"successes", "trials", "wilson95"} of evaluation episodes."""
    count = sum(r.outcome == Outcome.SUCCESS for r in results)
    return {'successes': count, 'trials': len(results), 'wilson95': list(wilson95(count, len(results)))}


def percentiles(values: Sequence[float]) -> dict[str, Any]:
    """{"p50", "p99", "n"}; both null where nothing was measured."""
    if not len(values):
        return {'p50': None, 'p99': None, 'n': 0}
    return {'p50': float(np.percentile(values, 50)), 'p99': float(np.percentile(values, 99)), 'n': len(values)}


def human_time(human_steps: Mapping[int, int], steps: Mapping[int, int]) -> dict[str, Any]:
    """Share of the online steps with beta > 0 at any tick, in all and by round. Arguments are {round: steps}."""
    total = sum(steps.values())
    return {
        'human_time_fraction': sum(human_steps.values()) / total if total else 0.0,
        'per_round': [human_steps.get(r, 0) / n if n else 0.0 for r, n in sorted(steps.items())],
    }


def takeover_latencies(engaged_ns: Sequence[int], human_ns: Sequence[int], limit: float = 1.0) -> list[float]:
    """ms from each engaging message to the first command with beta > 0; one that found none within `limit` s is left out."""
    human = np.sort(np.asarray(human_ns, dtype=np.int64))
    found = []
    for stamp in engaged_ns:
        i = int(np.searchsorted(human, stamp))
        if i < len(human) and human[i] - stamp <= limit * 1e9:
            found.append((int(human[i]) - stamp) / 1e6)
    return found


def provenance(seed: int) -> dict[str, Any]:
    """Machine, date, commit and seed beside every figure."""
    return {'machine': machine(), 'date': time.strftime('%Y-%m-%dT%H:%M:%S%z'), 'commit': commit(), 'seed': seed}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ''
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), '')
    except OSError:
        pass  # not Linux: the rest is enough
    return {'system': platform.platform(), 'cpu': model, 'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version()}


def commit() -> str:
    """The commit of the source tree; "unknown" for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    try:
        command = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 'unknown'
    return done.stdout.strip() or 'unknown'
