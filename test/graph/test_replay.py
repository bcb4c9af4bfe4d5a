"""The replay node as a process: what it is told becomes a log, transitions on the wire and on request, also over a kill."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bora_common import topics
from bora_common.codec import (
    decode_transition,
    encode_chunk,
    encode_episode,
    encode_executed,
    encode_intervention,
    encode_observation,
    encode_proposal,
)
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import Observation, Outcome, StreamId
from bora_replay.steplog import read_episodes, same_transition, verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'bora_replay'))  # for by_hand

from by_hand import T0, Episode

pytestmark = pytest.mark.timeout(120)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
SPECS = {s.name: s for s in (topics.EXECUTED, topics.BASE_CHUNK, topics.CHUNK, topics.EPISODE, topics.INTERVENTION)}
ENCODE = {
    'executed': encode_executed,
    'base_chunk': encode_proposal,
    'chunk': encode_chunk,
    'episode': lambda value, layout: encode_episode(value),
    'intervention': lambda value, layout: encode_intervention(value),
}


class Surroundings:
    """Everything that a replay node listens to."""

    def __init__(self, graph, run_dir):
        self.graph, self.run_dir = graph, run_dir
        self.publishers = {name: graph.publisher(spec) for name, spec in SPECS.items()}
        self.observation = graph.publisher(topics.OBSERVATION)
        self.received = graph.record(topics.REPLAY)
        self.numbers, self.proposals, self.episodes = {}, {}, 0

    def start(self, **parameters):
        values = {'run_dir': str(self.run_dir), 'late_mark_time': 0.2, 'commit_period': 0.1, **parameters}
        process = self.graph.start('replay', parameters={'replay': values})
        for publisher in (*self.publishers.values(), self.observation):
            self.graph.wait_matched(publisher)
        return process

    def messages(self, name, evaluation=False):
        """Messages of one episode, ten seconds behind the one before it, numbered through."""
        self.episodes += 1
        scene = Episode((0, 4, 8), joints=19).ends(Outcome.SUCCESS, 12)
        scene.evaluation = evaluation
        out = []
        for topic, value, _ in scene.messages(name, time.time_ns() - T0 + self.episodes * 10**10):
            self.numbers[topic] = self.numbers.get(topic, -1) + 1
            changes = {'id': StreamId(sum(map(ord, topic)), self.numbers[topic])}
            if topic == 'base_chunk':
                self.proposals[value.id] = changes['id']
            elif topic == 'chunk':
                changes['base_id'] = self.proposals[value.base_id]
            out.append((topic, replace(value, **changes)))
        return out

    def send(self, messages):
        for topic, value in messages:
            if topic == 'base_chunk':
                self.observation.publish(encode_observation(seen(value), ROBOT.layout))
            self.publishers[topic].publish(ENCODE[topic](value, ROBOT.layout))

    def wait_transitions(self, count):
        self.graph.wait(lambda: len(self.received) >= count, f'{count} transitions')
        return [decode_transition(m, ROBOT.layout) for m in self.received]

    def page(self, from_seq, count):
        request = self.graph.request(topics.GET_TRANSITIONS)
        request.from_seq, request.max_count = from_seq, count
        return self.graph.call(topics.GET_TRANSITIONS, request)


def seen(proposal):
    """Observation behind a proposal."""
    images = np.full((3, 64, 64, 3), 90, np.uint8)
    return Observation(proposal.stamp_ns, images, ROBOT.cameras, proposal.proprio, 'do it', proposal.episode, id=proposal.observation_id)


def test_an_episode_is_logged_cut_published_and_served(graph, tmp_path):
    around = Surroundings(graph, tmp_path / 'run')
    process = around.start()
    around.send(around.messages('a'))
    around.wait_transitions(3)  # topics keep no order among each other: a burst of episodes would be a puzzle no robot poses
    around.send(around.messages('test', evaluation=True))
    around.send(around.messages('b'))
    transitions = around.wait_transitions(6)
    assert [t.seq for t in transitions] == list(range(6)) and [t.episode for t in transitions] == ['a'] * 3 + ['b'] * 3
    assert transitions[2].done[3] and transitions[2].success and transitions[2].version.update == 50
    page = around.page(1, 2)
    assert (page.next_seq, page.end_seq, [t.seq for t in page.transitions]) == (3, 6, [1, 2])
    assert same_transition(decode_transition(page.transitions[0], ROBOT.layout), transitions[1])
    assert list(around.page(6, 10).transitions) == []
    assert process.stop() == 0
    assert verify(tmp_path / 'run') == {'transitions': 6, 'lost': 0, 'duplicated': 0, 'corrupt': 0, 'segments': 1}
    episodes = read_episodes(tmp_path / 'run')
    assert [(e.event.episode, e.logged, e.event.evaluation) for e in episodes] == [('a', 3, False), ('test', 0, True), ('b', 3, False)]
    frames = episodes[0].strip('front', 8)
    assert len(frames) == 3 and abs(int(frames[0].image().mean()) - 90) < 3
    assert transitions[1].image_ref == f'segment_00000.mcap:{transitions[1].stamp_ns}'


def test_a_recorder_killed_within_an_episode_loses_nothing(graph, tmp_path):
    around = Surroundings(graph, tmp_path / 'run')
    process = around.start()
    around.send(around.messages('a'))
    around.wait_transitions(3)
    messages = around.messages('b')
    half = len(messages) * 2 // 3
    around.send(messages[:half])
    graph.wait(lambda: len(read_episodes(tmp_path / 'run')) == 2, 'the second episode in the log')
    process.kill()
    around.send(messages[half:])
    around.start()
    transitions = around.wait_transitions(6)
    assert [t.seq for t in transitions] == list(range(6))
    page = around.page(0, 64)
    assert [t.seq for t in page.transitions] == list(range(6))
    for process in graph.processes:
        process.stop()
    assert verify(tmp_path / 'run') == {'transitions': 6, 'lost': 0, 'duplicated': 0, 'corrupt': 0, 'segments': 2}
    assert [t.n for t in transitions[3:]] == [8, 8, 4] and transitions[5].done[3]


def test_a_node_without_a_run_folder_refuses_by_name(graph):
    process = graph.start('replay', parameters={'replay': {}})
    assert process.wait() == 1
    assert 'error: replay: parameter "run_dir" must name the folder of the run' in process.output
