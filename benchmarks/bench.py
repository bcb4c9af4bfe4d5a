"""Timings of this machine, written to build/bench.json: `make bench`. Each group of figures is a script of its own, run alone.

Timings are {"p50", "p99", "n"} in ms of the steady clock; a ratio is against a baseline measured in the same run. What each figure is
from and to stands in the script that measures it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bora_bringup import environment
from bora_bringup.summary import provenance

OUT = Path('build/bench.json')
HERE = Path(__file__).resolve().parent
TIMEOUT = 480.0  # s, of one script; it is far less unless the machine is overloaded


def measure(script: str, *arguments: str) -> dict[str, object]:
    """Figures of one script."""
    print(f'{script} …', file=sys.stderr, flush=True)
    command = [sys.executable, str(HERE / f'{script}.py'), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.terminate()  # a script that runs a graph ends it then
    if process.returncode:
        raise SystemExit(f'error: benchmarks/{script}.py ended with exit code {process.returncode}')
    return json.loads(output.splitlines()[-1])


def derive(figures: dict) -> dict[str, object]:
    """Figures that set those of two scripts against each other."""
    latency, alone = figures['chunk_latency_ms'], figures['proposal_ms']['p50']
    bare = figures['trainer_bare_updates_per_s']
    return {
        'chunk_overhead_ms': {**latency, **{k: latency[k] - alone for k in ('p50', 'p99')}},
        'trainer_ratio': round(figures['trainer_updates_per_s'] / bare, 3),
    }


def main() -> None:
    environment.apply()
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / 'run')
        figures = {**measure('simulation'), **measure('proposal'), **measure('graph', run)}
        figures |= {**measure('replay', run), **measure('training', run), **measure('offline')}
    figures |= {**derive(figures), **provenance(0)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=1) + '\n')
    print(json.dumps(figures, indent=1))


if __name__ == '__main__':
    main()
