"""What the benchmarks share: timing a call, and handing figures to `bench.py` as one line of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable


def times_ms(work: Callable[[], object], n: int, warm_up: int = 3) -> list[float]:
    """Milliseconds of `n` calls."""
    for _ in range(warm_up):
        work()
    spent = []
    for _ in range(n):
        begin = time.perf_counter()
        work()
        spent.append((time.perf_counter() - begin) * 1e3)
    return spent


def emit(figures: dict[str, object]) -> None:
    """Print the figures as the last line."""
    print(json.dumps(figures), flush=True)
