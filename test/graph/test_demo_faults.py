"""`bora demo` while its processes are killed: the robot goes on or holds, who died comes back, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from bora_bringup import environment
from bora_bringup.cli import run as bora
from bora_common import topics
from bora_common.codec import decode_episode
from bora_common.types import EpisodeState

DEADLINE = 150.0  # s, of every wait; a busy machine takes its time to start a process
DEMO = 'from bora_bringup.cli import main; main()'


class Demo:
    """A small demonstration in a process of its own, seen through its topics and its list of processes."""

    def __init__(self, graph, *options):
        self.graph, self.folder = graph, graph.folder / 'run'
        command = [sys.executable, '-c', DEMO, 'demo', '--run-dir', str(self.folder), *options, f'namespace={graph.namespace}']
        self.log = graph.folder / 'demo.log'
        with self.log.open('wb') as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment.of(os.environ))
        self.episodes: list = []
        graph.on(topics.EPISODE, lambda m: self.episodes.append(decode_episode(m)))
        self.training, self.executed = graph.record(topics.TRAINING), graph.record(topics.EXECUTED)

    def wait(self, condition, what):
        """As Graph.wait, and fails at once when the demonstration has ended."""

        def met():
            assert self.process.poll() is None, f'{what}: the demonstration has ended\n{self.log.read_text()}'
            return condition()

        return self._wait(met, what)

    def _wait(self, condition, what):
        """As Graph.wait; a failure tells what all processes said."""
        try:
            return self.graph.wait(condition, what, DEADLINE)
        except pytest.fail.Exception as failure:
            logs = [self.log, *sorted((self.folder / 'logs').glob('*.log'))]
            said = '\n'.join(f'--- {log.stem}\n{log.read_text(errors="replace")}' for log in logs)
            pytest.fail(f'{failure}\n{said}')

    def pid(self, name):
        """Pid of a process, as a user finds it; None while it does not run."""
        path = self.folder / 'processes.json'
        return json.loads(path.read_text()).get(name) if path.exists() else None

    def kill(self, name):
        """SIGKILL; the pid."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, name, old):
        return self.wait(lambda: self.pid(name) not in (None, old), f'the restart of {name}')

    def wait_learning_episode(self):
        self.wait(
            lambda: self.episodes and self.episodes[-1].state == EpisodeState.RUNNING and not self.episodes[-1].evaluation,
            'an episode that is learnt from',
        )

    def wait_moving(self, count, what):
        """So many more ticks in which the robot is not held; on a busy machine its watchdog may hold it in between, and lets go again."""
        begin = len(self.executed)
        self.wait(lambda: sum(not m.held for m in self.executed[begin:]) >= count, what)

    def end(self):
        """(exit code, summary), when it has ended by itself."""
        self._wait(lambda: self.process.poll() is not None, 'the end of the demonstration')
        path = self.folder / 'summary.json'
        assert path.exists(), self.log.read_text()
        return self.process.returncode, json.loads(path.read_text())

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15.0)
            except subprocess.TimeoutExpired:
                self.process.kill()


@pytest.fixture
def demo(graph):
    made = []

    def start(*options):
        made.append(Demo(graph, *options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def _whole(demo, capsys):
    """The log says that nothing is missing, twice or damaged."""
    code = bora(['replay', 'verify', str(demo.folder), '--json'])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0 and (found['lost'], found['duplicated'], found['corrupt']) == (0, 0, 0), found
    return found['transitions']


@pytest.mark.timeout(400)
def test_a_trainer_that_is_killed_again_and_again_loses_nothing(demo, capsys):
    run = demo('--episodes', '2', '--rounds', '1', '--eval-episodes', '1', '--updates', '120')
    run.wait_learning_episode()
    first = run.kill('trainer')
    run.wait_moving(30, 'commands without a trainer')
    run.wait_restarted('trainer', first)
    second = run.kill('trainer')  # while it starts
    run.wait_restarted('trainer', second)
    run.wait(lambda: run.training and run.training[-1].published > 0 and run.training[-1].round_update < 110, 'a published residual')
    published = run.training[-1]
    third = run.kill('trainer')  # with a checkpoint
    seen = len(run.training)
    run.wait_restarted('trainer', third)
    run.wait(lambda: len(run.training) > seen + 1, 'a status of the restarted trainer')
    resumed = next(m for m in run.training[seen:] if m.id.source != published.id.source)
    assert resumed.round_update >= 50 and resumed.published >= published.published  # from its checkpoint, not from nothing
    code, summary = run.end()
    assert code == 0 and len(summary['restarts']) == 3
    assert summary['transitions_executed'] == summary['transitions_logged'] == summary['transitions_trained'] == _whole(run, capsys) > 0
    assert not (run.folder / 'processes.json').exists()


@pytest.mark.timeout(400)
def test_the_robot_holds_while_the_policy_is_gone_and_a_killed_recorder_goes_on(demo, capsys):
    run = demo('--episodes', '3', '--rounds', '1', '--eval-episodes', '0', '--updates', '50', '--operator', 'none')
    chunks = run.graph.record(topics.CHUNK)
    run.wait_learning_episode()
    policy = run.kill('policy')
    run.wait_restarted('policy', policy)
    seen = len(chunks)
    run.wait(lambda: np.ptp([m.positions for m in run.executed[-20:]], axis=0).max() < 1e-6, 'the robot to stand still')
    assert len(chunks) == seen  # the last command stays in force, which is not a fault
    run.wait(lambda: len(chunks) > seen, 'proposals of the restarted policy')
    run.wait_learning_episode()
    replay = run.kill('replay')
    run.wait_restarted('replay', replay)
    run.wait_moving(30, 'commands without a recorder')
    code, summary = run.end()
    assert code == 0 and {line.split()[0].rstrip(':') for line in summary['restarts']} == {'policy', 'replay'}
    assert summary['transitions_logged'] == summary['transitions_trained'] == _whole(run, capsys) > 0
