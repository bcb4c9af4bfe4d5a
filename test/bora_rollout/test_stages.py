"""Stages run once for their inputs, in the right order, and survive being killed."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import stage_toy as toy

from bora_common.errors import BoraError, ConfigError
from bora_rollout import stages
from bora_rollout.stages import Stage, Watcher, digests_of, run_stages


@pytest.fixture(autouse=True)
def same_code(monkeypatch):
    monkeypatch.setattr(stages, 'code_digest', lambda modules: 'code')


def runs(results):
    return {name: (result.folder / 'runs.txt').read_text().count('run') for name, result in results.items()}


class Order(Watcher):
    def __init__(self):
        self.names, self.counts = [], None

    def plan(self, waiting, cached):
        self.counts = (waiting, cached)

    def done(self, name, result):
        self.names.append(name)


def test_every_stage_runs_once_after_what_it_needs_and_a_change_repeats_only_what_follows_from_it(tmp_path):
    first = Order()
    results = run_stages(toy.chain(), tmp_path, 2, first)
    assert {n: r.facts['value'] for n, r in results.items()} == {'a': 1, 'b': 11, 'c': 101, 'd': 1112}
    assert first.names[0] == 'a' and first.names[-1] == 'd' and first.counts == (4, 0)
    again = Order()
    assert run_stages(toy.chain(), tmp_path, 2, again)['d'].cached and again.names == [] and again.counts == (0, 4)
    changed = run_stages(toy.chain(y=20), tmp_path, 2)
    assert {n: r.cached for n, r in changed.items()} == {'a': True, 'b': False, 'c': True, 'd': False}
    assert changed['d'].facts['value'] == 1122 and set(runs(changed).values()) == {1}


def test_the_digest_counts_settings_code_libraries_and_what_is_above(monkeypatch):
    base = digests_of(toy.chain())
    assert digests_of(list(reversed(toy.chain()))) == base
    other = digests_of(toy.chain(x=2))
    assert all(other[name] != base[name] for name in base)  # a is above all of them
    monkeypatch.setattr(stages, 'library_versions', lambda: {'mujoco': 'another'})
    assert all(value != base[name] for name, value in digests_of(toy.chain()).items())
    monkeypatch.undo()
    monkeypatch.setattr(stages, 'code_digest', lambda modules: 'other code')
    assert all(value != base[name] for name, value in digests_of(toy.chain()).items())


@pytest.mark.parametrize(
    ('broken', 'words'),
    [
        ([Stage('a', toy.add, {'x': 1}, ('z',))], '"a" needs "z"'),
        ([Stage('a', toy.add, {'x': 1}), Stage('a', toy.add, {'x': 2})], 'repeats'),
        ([Stage('a', toy.add, {}, ('b',)), Stage('b', toy.add, {}, ('a',))], 'circle a -> b -> a'),
    ],
)
def test_stages_that_can_not_be_run_are_refused(tmp_path, broken, words):
    with pytest.raises(ConfigError, match=words):
        run_stages(broken, tmp_path, 1)


@pytest.mark.parametrize(('run', 'words'), [(toy.refuse, 'stage bad: x: 3, expected 4'), (toy.crash, 'stage bad: exit code -9')])
def test_a_stage_that_fails_is_named_with_its_log_and_the_others_stay(tmp_path, run, words):
    chain = [*toy.chain(), Stage('bad', run, {}, ('a',))]
    with pytest.raises(BoraError, match=words) as error:
        run_stages(chain, tmp_path, 1)
    assert 'log.txt' in str(error.value)
    results = run_stages(toy.chain(), tmp_path, 1)
    assert results['a'].cached and set(runs(results).values()) == {1}


def test_the_longest_chain_is_started_first(tmp_path):
    order = Order()
    alone = [replace(stage, needs=(), minutes=minutes) for stage, minutes in zip(toy.chain(), (1, 2, 9, 1), strict=True)]
    chain = [*alone[:3], replace(alone[3], minutes=3), Stage('after', toy.add, {'x': 0}, ('d',), minutes=20)]
    run_stages(chain, tmp_path, 1, order)
    assert order.names == ['d', 'after', 'b', 'c', 'a']


def test_two_runs_do_not_work_in_one_folder(tmp_path):
    with open(tmp_path / '.lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match='another run'):
            run_stages(toy.chain(), tmp_path, 1)


def test_a_damaged_result_is_named(tmp_path):
    done = run_stages(toy.chain(), tmp_path, 1)['a'].folder / 'done.json'
    done.write_text('{')
    with pytest.raises(ConfigError, match='a/.*done.json: damaged'):
        run_stages(toy.chain(), tmp_path, 1)


def until(condition, what):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f'{what} did not happen'
        time.sleep(0.02)


def test_a_killed_run_leaves_no_process_behind_and_goes_on_where_it_was(tmp_path):
    here, source = Path(toy.__file__), Path(stages.__file__).parents[1]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join((str(here.parent), str(source)))}
    parent = subprocess.Popen([sys.executable, str(here), str(tmp_path)], env=environment)
    pids = []

    def started():
        pids[:] = [int(p.read_text()) for p in tmp_path.glob('hang/*/pid')]
        return bool(pids) or parent.poll() is not None

    until(started, 'the start of the stage')
    assert pids
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not Path(f'/proc/{pids[0]}').exists() or _zombie(pids[0]), 'the end of the stage')
    result = run_stages([Stage('hang', toy.hang, {})], tmp_path, 1)['hang']
    assert result.facts == {'value': pids[0]} and json.loads((result.folder / 'done.json').read_text())['inputs'] == {}


def _zombie(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError:
        return True
