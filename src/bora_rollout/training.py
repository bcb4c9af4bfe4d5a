"""`bora train offline`: the offline phase from the command line, every setting an option, with progress and time left.

Many processes: `torchrun --nproc-per-node N -m bora_rollout.training --config …`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from bora_common.errors import BoraError
from bora_trainer.offline_config import OfflineConfig, load_config
from bora_trainer.offline_run import train_offline

DESCRIPTION = (
    'The offline phase: behaviour cloning with a critic at its side, then gated policy improvement; and its controls. '
    '--config FILE|NAME (bora-offline, bc-consistency, bc-diffusion, bc-longer, bc-filtered, decoupled-critic, or a YAML file) '
    'gives the settings that the options below override.'
)
SHOWN = ('bc_loss', 'critic_loss', 'advantage', 'gate_open')


def parse(arguments: Sequence[str]) -> OfflineConfig:
    """Settings from a command line: the file or name after --config, then options that override it."""
    try:
        import tyro
    except ImportError:
        raise BoraError('bora train offline: package "tyro" is not installed (requirements.txt)') from None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--config', default='bora-offline')
    known, rest = parser.parse_known_args(arguments)
    return tyro.cli(OfflineConfig, default=load_config(known.config), args=rest, prog='bora train offline', description=DESCRIPTION)


def train(arguments: Sequence[str]) -> int:
    """Train as a command line says; 0. Raises BoraError with one line that says what was wrong."""
    config = parse(arguments)
    with _Bars(shown=int(os.environ.get('RANK', '0')) == 0) as bars:
        facts = train_offline(config, bars.report)
    bars.say(f'{config.out}: model {facts.get("model_digest", "")[:12]}, {facts["updates_per_s"]:.1f} updates/s{_gate(facts)}')
    return 0


def _gate(facts: dict[str, Any]) -> str:
    share = facts['gate_open_fraction']
    return '' if share is None else f', gate open {share:.0%} of the second stage'


class _Bars:
    """A progress bar a stage, in the first process only."""

    def __init__(self, shown: bool):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn('{task.description:<10}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn('{task.fields[info]}'), disable=not shown)
        self._stages: dict[str, Any] = {}
        self._shown = shown

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int, info: dict[str, float]) -> None:
        """How far a stage is."""
        text = '  '.join(f'{n} {info[n]:.3g}' for n in SHOWN if math.isfinite(info.get(n, math.nan)))
        if stage not in self._stages:
            self._progress.start()
            self._stages[stage] = self._progress.add_task(stage, total=total, info=text)
        self._progress.update(self._stages[stage], completed=done, info=text)

    def say(self, line: str) -> None:
        if self._shown:
            print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `python -m bora_rollout.training`: exit code 1 with one line for a named error."""
    try:
        return train(sys.argv[1:] if arguments is None else arguments)
    except BoraError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    raise SystemExit(main())
