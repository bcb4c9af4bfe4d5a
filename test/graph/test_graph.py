"""The whole graph on real DDS: what runs is what graph.py says; it plays an episode, survives a crash, and leaves nothing behind."""

import os
import signal
import time

import pytest

from bora_bringup import discovery, shared_memory
from bora_bringup.graph import Graph, online, parse_arguments
from bora_bringup.session import Session, SessionError
from bora_bringup.supervisor import Supervisor
from bora_common.types import Outcome

START = 170.0  # s; torch is imported twice, on a machine that may be busy
EPISODE = 120.0
OBSERVER = '/bora/session'
IMPLICIT = ('/rosout', '/parameter_events', '/clock')


class Running:
    """The graph, started by the supervisor, with a client."""

    def __init__(self, folder):
        self.graph: Graph = online(parse_arguments(['operator=skilled', f'run_dir={folder}', 'realtime_factor=0']))
        self.lines: list[str] = []
        self.supervisor = Supervisor(self.graph, report=self.lines.append)
        self.supervisor.start()
        self.session = Session('/bora', self.supervisor.check)
        self.nodes = {f'{self.graph.namespace_of(n)}/{n.name}': n for n in self.graph.nodes if not n.external}


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    made = Running(tmp_path_factory.mktemp('run'))
    try:
        made.session.wait_until_working(made.nodes, START)
        yield made
    finally:
        made.session.close()
        made.supervisor.stop()


def _resolved(graph, node, spec):
    return spec.name if spec.name.startswith('/') else f'{graph.namespace_of(node)}/{spec.name}'


def test_what_runs_is_what_the_description_says(running):
    found = {}

    def complete():
        found.update(discovery.snapshot(running.session.node))
        return set(running.nodes) <= set(found['nodes'])

    running.session.wait(complete, 30.0, lambda: 'discovery')
    topics = {t['name']: t for t in found['topics']}
    for full, node in running.nodes.items():
        for kind, specs in (('publishers', node.publishes), ('subscribers', node.subscribes)):
            for spec in specs:
                ends = {e['node']: e for e in topics[_resolved(running.graph, node, spec)][kind]}
                assert full in ends, f'{full} is not among the {kind} of {spec.name}'
                assert ends[full]['type'] == spec.type
                if kind == 'publishers':
                    assert ends[full]['qos']['reliability'] == ('reliable' if spec.reliable else 'best_effort')
                    assert ends[full]['qos']['durability'] == ('transient_local' if spec.transient_local else 'volatile')
    _nothing_undeclared(running, topics)


def _nothing_undeclared(running, topics):
    declared = {
        kind: {(full, _resolved(running.graph, n, s)) for full, n in running.nodes.items() for s in specs(n)}
        for kind, specs in (('publishers', lambda n: n.publishes), ('subscribers', lambda n: n.subscribes))
    }
    for name, topic in topics.items():
        if name in IMPLICIT or name == '/diagnostics' or name.endswith('transition_event'):
            continue
        for kind, known in declared.items():
            for end in topic[kind]:
                assert end['node'] == OBSERVER or (end['node'], name) in known, f'{end["node"]} is an undeclared one of {kind} of {name}'


def test_it_plays_an_evaluation_episode_to_its_end(running):
    result = running.session.run_episode(0, True, 1_000_003, EPISODE)
    assert result.outcome in (Outcome.SUCCESS, Outcome.TIMEOUT)
    assert result.evaluation and result.seed == 1_000_003 and 0 < result.duration < 7.0
    assert result.takeovers == 0  # nobody interferes with an evaluation


def test_an_unknown_task_is_refused_by_name(running):
    with pytest.raises(SessionError, match='press_button'):
        running.session.run_episode(0, True, 1, EPISODE, task='juggle')


def test_a_killed_perception_comes_back_and_the_next_episode_runs(running):
    pid = running.supervisor.pids['perception']
    os.kill(pid, signal.SIGKILL)
    running.session.wait(lambda: running.supervisor.pids.get('perception', pid) != pid, 30.0, lambda: 'the restart of perception')
    assert any('perception ended (signal SIGKILL)' in line for line in running.lines)
    result = running.session.run_episode(0, True, 1_000_004, EPISODE)
    assert result.outcome in (Outcome.SUCCESS, Outcome.TIMEOUT)


def test_it_stops_in_time_and_leaves_nothing(running):
    pids = running.supervisor.pids
    running.session.pump()
    used = shared_memory.used_by(pids.values())
    assert used
    began = time.monotonic()
    codes = running.supervisor.stop()
    assert time.monotonic() - began < 5.5
    assert set(codes) == set(pids) and all(code is not None for code in codes.values())
    mine = shared_memory.used_by([os.getpid()])
    assert not [path for path in used - mine if path.exists()]
