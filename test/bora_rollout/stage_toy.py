"""Stages that count how often they run."""

import json
import os
import signal
import sys
from pathlib import Path

from bora_common.errors import ConfigError
from bora_rollout import stages
from bora_rollout.stages import Stage, run_stages


def add(job):
    """The sum of `x` and of what the needed stages gave; one line in runs.txt each time it runs."""
    with open(job.folder / 'runs.txt', 'a') as file:
        file.write('run\n')
    above = [json.loads((folder / 'done.json').read_text())['facts']['value'] for folder in job.needs.values()]
    job.report(1, 1)
    return {'value': job.inputs['x'] + sum(above)}


def refuse(job):
    """Fails with a named error."""
    print('before it')
    raise ConfigError('x: 3, expected 4')


def crash(job):
    """Dies."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang(job):
    """The first time: leaves its process number behind and never ends. The next time: done."""
    file = job.folder / 'pid'
    if file.is_file():
        return {'value': int(file.read_text())}
    file.with_suffix('.new').write_text(str(os.getpid()))
    file.with_suffix('.new').rename(file)
    signal.pause()


def chain(x=1, y=10):
    """a -> b, c -> d."""
    b, c = Stage('b', add, {'x': y}, ('a',)), Stage('c', add, {'x': 100}, ('a',))
    return [Stage('d', add, {'x': 1000}, ('b', 'c')), Stage('a', add, {'x': x}), b, c]


if __name__ == '__main__':
    stages.code_digest = lambda modules: 'code'
    from stage_toy import hang as importable  # by its own name, not __main__: the stage's process looks it up

    run_stages([Stage('hang', importable, {})], Path(sys.argv[1]), 1)
