"""The supervisor with small processes of its own: restarts, refusals, escalation, logs, shared memory."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from bora_bringup import shared_memory
from bora_bringup import supervisor as supervisor_module
from bora_bringup.graph import NodeSpec, ProcessSpec, online, parse_arguments
from bora_bringup.supervisor import BACKOFF, HEALTHY_AFTER, RunEnded, Supervisor, command_of

DEADLINE = 20.0  # s; nothing here takes a second on an idle machine


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def supervised(tmp_path):
    lines = []
    s = Supervisor(SimpleNamespace(run_dir=tmp_path), report=lines.append, clock=Clock())
    s.lines = lines
    yield s
    s.stop()


def add(s, code, name='monitor', restart=True):
    spec = ProcessSpec(name, (NodeSpec(name, name),), restart=restart)
    return s.add(spec, [sys.executable, '-S', '-c', code], s.graph.run_dir / f'{name}.log')


def until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, 'deadline passed'
        time.sleep(0.01)


def ended(child):
    until(lambda: not child.running)


def test_a_crashed_process_is_started_again_after_the_back_off(supervised):
    child = add(supervised, 'import os; os.abort()')
    ended(child)
    first = child.process.pid
    supervised.check()
    assert child.due == BACKOFF[0] and 'signal SIGABRT' in supervised.lines[0] and str(child.log) in supervised.lines[0]
    supervised.check()
    assert child.process.pid == first  # not before its time
    supervised.clock.now = BACKOFF[0]
    supervised.check()
    assert child.process.pid != first and child.due is None


def test_a_process_that_does_not_answer_is_killed_and_started_again(supervised):
    child = add(supervised, 'import time; time.sleep(60)')
    first = child.process.pid
    supervised.kill('monitor', 'not heard of')
    ended(child)
    assert supervised.lines == ['monitor: not heard of']
    supervised.check()
    supervised.kill('monitor', 'not heard of')  # it waits for its restart already
    supervised.clock.now = BACKOFF[0]
    supervised.check()
    assert child.running and child.process.pid != first and len(supervised.lines) == 2


def test_the_back_off_grows_and_ends_the_run_at_last(supervised):
    child = add(supervised, 'raise SystemExit(3)')
    for wait in BACKOFF:
        ended(child)
        supervised.check()
        assert child.due == supervised.clock.now + wait
        supervised.clock.now = child.due
        supervised.check()
    ended(child)
    with pytest.raises(RunEnded, match=rf'after {len(BACKOFF)} restarts \(exit code 3\)'):
        supervised.check()


def test_a_long_life_makes_the_back_off_short_again(supervised):
    child = add(supervised, 'raise SystemExit(3)')
    child.restarts = 3
    supervised.clock.now = HEALTHY_AFTER + 1
    ended(child)
    supervised.check()
    assert child.restarts == 1 and child.due == supervised.clock.now + BACKOFF[0]


def test_the_death_of_a_vital_process_ends_the_run(supervised):
    child = add(supervised, 'raise SystemExit(0)', name='hardware', restart=False)
    ended(child)
    with pytest.raises(RunEnded, match=r'hardware ended \(exit code 0\)'):
        supervised.check()


def test_a_refusal_is_passed_on_and_not_tried_again(supervised):
    child = add(supervised, 'print("error: trainer: parameter \\"batch\\" is unknown"); raise SystemExit(1)', name='trainer')
    ended(child)
    with pytest.raises(RunEnded, match='^trainer: trainer: parameter "batch" is unknown$'):
        supervised.check()


def test_a_refusal_of_an_earlier_start_does_not_count(supervised):
    (supervised.graph.run_dir / 'monitor.log').write_text('error: of yesterday\n')
    child = add(supervised, 'raise SystemExit(3)')
    ended(child)
    supervised.check()
    assert child.due is not None


def test_logs_are_whole_and_appended(supervised):
    child = add(supervised, 'import sys; print("out"); print("err", file=sys.stderr)')
    ended(child)
    supervised.check()
    supervised.clock.now = 1.0
    supervised.check()
    ended(child)
    assert sorted(child.log.read_text().split()) == ['err', 'err', 'out', 'out']


def test_the_pids_are_on_disk_while_the_processes_run(supervised):
    path = supervised.graph.run_dir / 'processes.json'
    child = add(supervised, 'import time; time.sleep(60)', name='trainer')
    assert json.loads(path.read_text()) == {'trainer': child.process.pid}
    child.process.kill()
    ended(child)
    supervised.check()
    assert json.loads(path.read_text()) == {}
    supervised.clock.now = child.due
    supervised.check()
    assert json.loads(path.read_text()) == {'trainer': child.process.pid}
    supervised.stop()
    assert not path.exists()


def test_stop_ends_a_process_that_ignores_term_and_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, 'STOP_STEPS', ((signal.SIGTERM, 0.2), (signal.SIGTERM, 0.1), (signal.SIGKILL, 2.0)))
    s = Supervisor(SimpleNamespace(run_dir=tmp_path))
    stubborn = (
        'import os, signal, subprocess, sys, time\n'
        'signal.signal(signal.SIGTERM, lambda *_: print("term", flush=True))\n'
        'child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])\n'
        'print(child.pid, flush=True)\n'
        'while True: time.sleep(1)'
    )
    child = add(s, stubborn)
    until(lambda: child.log.exists() and child.log.read_text().strip())
    grandchild = int(child.log.read_text().split()[0])
    codes = s.stop()
    assert codes == {'monitor': -signal.SIGKILL}
    assert child.log.read_text().count('term') == 2
    until(lambda: not os.path.exists(f'/proc/{grandchild}') or _zombie(grandchild))


def _zombie(pid):
    try:
        with open(f'/proc/{pid}/stat') as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError:
        return True


def test_the_whole_escalation_fits_in_five_seconds():
    assert sum(wait for _, wait in supervisor_module.STOP_STEPS) < 5.0


def test_stop_lets_a_process_end_by_itself_and_is_safe_twice(supervised):
    code = 'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print("up", flush=True); time.sleep(60)'
    child = add(supervised, code)
    until(lambda: child.log.read_text())
    assert supervised.stop() == {'monitor': 7}
    assert supervised.stop() == {'monitor': 7}


def test_a_process_gets_the_environment_of_the_graph(supervised, monkeypatch):
    supervised.base_environment = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'PATH': os.environ['PATH']}
    child = add(supervised, 'import os, json; print(json.dumps(dict(os.environ)))')
    ended(child)
    text = child.log.read_text()
    assert 'ROS_AUTOMATIC_DISCOVERY_RANGE' not in text
    assert 'fastdds.xml' in text and 'MALLOC_TRIM_THRESHOLD_' in text and f'"BORA_PARENT_PID": "{os.getpid()}"' in text


def test_commands_name_nodes_parameters_namespace_and_nice(tmp_path):
    graph = online(parse_arguments([f'run_dir={tmp_path}']))
    processes = {p.name: p for p in graph.processes}
    policy = command_of(graph, processes['policy'], tmp_path / 'policy.yaml')
    assert policy[1:] == [
        '-m', 'bora_bringup.host', 'base_policy', 'residual_actor', 'critic', '--ros-args', '--params-file', str(tmp_path / 'policy.yaml'),
        '-r', '__ns:=/bora',
    ]  # fmt: skip
    assert command_of(graph, processes['trainer'], tmp_path / 'x')[:3] == ['nice', '-n', '10']


def test_a_node_of_another_package_is_started_where_it_is_installed(tmp_path, monkeypatch):
    graph = online(parse_arguments([f'run_dir={tmp_path}']))
    joy = next(p for p in graph.processes if p.name == 'joy_node')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    assert command_of(graph, joy, tmp_path / 'joy.yaml') is None
    executable = tmp_path / 'lib' / 'joy' / 'joy_node'
    executable.parent.mkdir(parents=True)
    executable.write_text('#!/bin/sh\n')
    executable.chmod(0o755)
    command = command_of(graph, joy, tmp_path / 'joy.yaml')
    assert command[0] == str(executable) and command[-2:] == ['-r', '__node:=joy_node']


def test_shared_memory_of_a_killed_process_is_removed_and_that_of_others_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, 'FOLDER', tmp_path)
    ours, theirs, foreign = (tmp_path / n for n in ('fastrtps_ours', 'fastrtps_theirs', 'unrelated'))
    for path in (ours, theirs, foreign):
        path.write_bytes(b'\0' * 4096)
    code = (
        'import mmap, sys\n'
        'files = [open(p, "r+b") for p in sys.argv[1:]]\n'
        'maps = [mmap.mmap(f.fileno(), 0) for f in files]\n'
        'print("up", flush=True); input()'
    )
    command = [sys.executable, '-S', '-c', code]
    a = subprocess.Popen([*command, str(ours), str(theirs), str(foreign)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    b = subprocess.Popen([*command, str(theirs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert a.stdout.readline() and b.stdout.readline()
        used = shared_memory.used_by([a.pid])
        assert used == {ours, theirs}
        a.kill()
        a.wait()
        locks = [tmp_path / n for n in ('fastrtps_ours_el', 'fastrtps_theirs_el', 'sem.fastrtps_ours_mutex')]
        for path in locks:
            path.touch()
        assert shared_memory.remove_unused(used) == [ours, locks[0], locks[2]]
        assert not ours.exists() and theirs.exists() and foreign.exists()
    finally:
        for process in (a, b):
            process.kill()
            process.communicate()
