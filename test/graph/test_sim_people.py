"""The simulated people in a loop without a policy: the robot stands still, the operator takes over and finishes, the referee marks it."""

from __future__ import annotations

import pytest

from bora_common import topics
from bora_common.codec import decode_episode, decode_human, decode_intervention
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import ArbiterState, EpisodeState, Outcome

pytestmark = pytest.mark.timeout(150)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
SIM_TIME = {'use_sim_time': True}


def start(graph):
    graph.start('simulated_robot', parameters={'simulated_robot': {'realtime_factor': 0.0, 'camera_rate': 1.0}})
    graph.start('hardware', parameters={'hardware': SIM_TIME})
    graph.start(
        'arbiter', 'episode_keeper', parameters={'arbiter': SIM_TIME, 'episode_keeper': {**SIM_TIME, 'scene_reset': 'simulator'}}
    )
    graph.start('scripted_operator', 'referee', parameters={'scripted_operator': SIM_TIME, 'referee': SIM_TIME})


def begin(graph, *, evaluation):
    request = graph.request(topics.START_EPISODE)
    request.task, request.seed, request.evaluation = 'press_button', 5, evaluation
    answer = graph.call(topics.START_EPISODE, request)
    assert answer.success, answer.message
    return answer.episode


def ended(episodes, name):
    return next((e for e in map(decode_episode, episodes) if e.episode == name and e.state == EpisodeState.ENDED), None)


def test_operator_presses_the_button_and_the_referee_marks_it(graph):
    start(graph)
    episodes, events = graph.record(topics.EPISODE), graph.record(topics.INTERVENTION)
    human = graph.record(topics.HUMAN_COMMAND)
    graph.wait(lambda: human, 'the operator')
    name = begin(graph, evaluation=False)
    end = graph.wait(lambda: ended(episodes, name), 'the end of the episode', 60.0)
    assert (end.outcome, end.state) == (Outcome.SUCCESS, EpisodeState.ENDED), end
    states = [decode_intervention(m).state for m in events]
    assert ArbiterState.HUMAN in states
    assert any(m.engaged and len(m.joint_names) == len(ROBOT.layout) for m in human)
    assert not decode_human(human[0], ROBOT.layout).engaged


def test_operator_keeps_its_hands_off_an_evaluation(graph):
    start(graph)
    episodes, human = graph.record(topics.EPISODE), graph.record(topics.HUMAN_COMMAND)
    graph.wait(lambda: human, 'the operator')
    name = begin(graph, evaluation=True)
    end = graph.wait(lambda: ended(episodes, name), 'the end of the episode', 60.0)
    assert end.outcome == Outcome.TIMEOUT
    assert not any(m.engaged for m in human)
