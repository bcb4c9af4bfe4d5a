"""The demonstration's plan, and when it counts as settled; without a graph."""

from types import SimpleNamespace

import pytest

from bora_bringup import demo
from bora_bringup.demo import LATE_NS, Plan, Run
from bora_bringup.session import EpisodeResult, Follower
from bora_common.errors import ConfigError

ENDED_NS = 10_000_000_000


def status(stamp_ns, transitions):
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), transitions=transitions)


class Script:
    """A session in which each turn brings the next status of the trainer, and the log's answer with it."""

    def __init__(self, *turns, old=None):
        self.follower, self.turns, self.asked = Follower(), list(turns), 0
        self.follower.training = old

    def pump(self, _seconds):
        if self.turns:
            self.follower.training, self.log = self.turns.pop(0)

    def logged(self):
        self.asked += 1
        return self.log


def settle(session):
    run = Run(Plan(), SimpleNamespace(), online=[EpisodeResult('a', 0, False, 1, ended_ns=ENDED_NS)])
    demo._settle(run, session)
    return run


def test_the_end_waits_for_a_status_younger_than_the_last_cut_and_for_all_that_is_logged():
    late = ENDED_NS + LATE_NS
    turns = (status(late - 1, 5), 5), (status(late, 5), 7), (status(late + 1, 5), None), (status(late + 2, 7), 7)
    session = Script(*turns, old=status(late, 7))
    run = settle(session)
    assert not session.turns and session.asked == 3 and run.notes == []  # what was said before the end, by a trainer now dead, is no answer


def test_a_trainer_that_never_comes_back_is_noted(monkeypatch):
    monkeypatch.setattr(demo, 'LOG_TIMEOUT', 0.05)
    run = settle(Script(old=status(ENDED_NS + LATE_NS, 7)))
    assert 'the trainer 7' in run.notes[0] and 'log holds None' in run.notes[0]


class Processes:
    """A supervisor whose list of pids follows a script, one entry a look."""

    def __init__(self, *looks):
        self.looks, self.killed = list(looks), []

    def kill(self, name, why):
        self.killed.append((name, why))

    @property
    def pids(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


class Waiting:
    """A session that hears of the nodes `names`, but not in its first `deaf` waits."""

    def __init__(self, *names, deaf=0):
        self.names, self.deaf, self.waits = names, deaf, 0
        self.follower = Follower(nodes={name: (b'', 'works', {}) for name in ('/bora/critic', '/bora/replay', '/bora/trainer')})

    def wait(self, done, _timeout, _what):
        while not done():
            pass

    def until(self, working, _timeout):
        assert not working()  # what a dead process said does not count
        self.waits += 1
        if self.waits > self.deaf:
            self.follower.nodes |= {name: (b'', 'works', {}) for name in self.names}
        return working()


def test_an_episode_waits_for_processes_that_were_started_again_but_not_for_the_trainer(tmp_path):
    before = {'perception': 1, 'policy': 2, 'replay': 3, 'trainer': 4}
    run, session = Run(Plan(), Plan(run_dir=str(tmp_path)).graph()), Waiting('/bora/base_policy', '/bora/critic', '/bora/residual_actor')
    run.pids = {name: before[name] for name in demo.NEEDED}
    demo._wait_for_needed(run, session, Processes({**before, 'trainer': 9}))
    assert session.waits == 0
    gone = {'perception': 1, 'replay': 3}
    demo._wait_for_needed(run, session, Processes(gone, gone, {**before, 'policy': 8}))
    assert session.waits == 1 and run.pids['policy'] == 8
    assert '/bora/trainer' in session.follower.nodes


def test_a_process_that_came_back_but_is_not_heard_of_is_started_once_more(tmp_path):
    before = {'perception': 1, 'policy': 2, 'replay': 3}
    run, session = Run(Plan(), Plan(run_dir=str(tmp_path)).graph(), pids=before), Waiting('/bora/replay', deaf=1)
    second, third = {**before, 'replay': 8}, {**before, 'replay': 9}
    processes = Processes(second, second, second, third)
    demo._wait_for_needed(run, session, processes)
    assert [name for name, _ in processes.killed] == ['replay'] and 'not heard of' in processes.killed[0][1]
    assert session.waits == 2 and run.pids == third


def test_a_plan_tunes_the_trainer_and_refuses_what_makes_no_sense(tmp_path):
    plan = Plan(episodes=3, updates=40, run_dir=str(tmp_path))
    assert {k: plan.graph().node('trainer').parameters[k] for k in ('episodes_per_round', 'planned_updates')} == {
        'episodes_per_round': 3, 'planned_updates': 40,
    }  # fmt: skip
    assert 'planned_updates' not in Plan(run_dir=str(tmp_path)).graph().node('trainer').parameters
    with pytest.raises(ConfigError, match='updates'):
        Plan(updates=-1).graph()


def test_evaluations_share_their_poses_and_no_round_shares_any():
    plan = Plan(episodes=2, eval_episodes=3)
    assert plan.evaluation_seeds() == plan.evaluation_seeds()
    assert not set(plan.evaluation_seeds()) & set(plan.online_seeds(0)) | set(plan.online_seeds(0)) & set(plan.online_seeds(1))
