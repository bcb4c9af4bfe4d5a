"""Online learning in one process: what an episode records, and a run from end to end, with an untrained base model."""

import os

os.environ.setdefault('MUJOCO_GL', 'egl')

import numpy as np
import pytest
import torch

from bora_common.paths import resolve
from bora_common.robot import load_robot, load_task
from bora_common.types import ArbiterState, Normalizer, Outcome, WeightsVersion
from bora_policy.policy import Policy
from bora_policy.vla import build, small_vlm
from bora_replay.cutter import cut, steps_of
from bora_rollout.batch import zero_chain
from bora_rollout.online import Workcell
from bora_sim.operator import ScriptedOperator
from bora_sim.world import SimWorld

torch.set_num_threads(1)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
TASK = load_task(resolve('press_button', 'config/tasks'), ROBOT)


@pytest.fixture(scope='module')
def policy():
    torch.manual_seed(0)
    vlm = small_vlm(64, 80, width=16, layers=1)
    model = build(ROBOT.layout, ROBOT.cameras, Normalizer(TASK.start_pose, np.full(19, 0.05)), vlm=vlm, knots=4, hidden=16, blocks=1)
    model.requires_grad_(False).eval().model_id = 'm' * 64
    return Policy(model)


def play(policy, operator):
    cell = Workcell(SimWorld('press_button', 0), ROBOT, TASK, policy, operator)
    return cell.play(zero_chain(policy, ROBOT.residual_bound), 'e', 2_000_000, 1, WeightsVersion())


@pytest.fixture(scope='module')
def helped(policy):
    return play(policy, ScriptedOperator('press_button', 'skilled', 0))


def test_a_person_rescues_an_episode_and_the_record_says_where(helped):
    record = helped.record
    assert helped.success and helped.takeovers >= 1 and record.episode.outcome == Outcome.SUCCESS
    states = [e.state for e in record.interventions]
    assert states.count(ArbiterState.BLEND_IN) == helped.takeovers
    names = [r.name for r in record.episode.rewards]
    assert names.count('success') == 1 and 'intervention' in names
    assert all(b.stamp_ns > a.stamp_ns for a, b in zip(record.executed, record.executed[1:], strict=False))


def test_its_transitions_are_those_of_the_live_cutter(helped):
    transitions, steps = cut(helped.record), steps_of(helped.record)
    assert len(transitions) == len(steps) == len(helped.record.proposals), 'a proposal a step, a transition a proposal'
    assert not any(s.held for s in steps) and any(s.human for s in steps) and not all(s.human for s in steps)
    assert transitions[-1].done[transitions[-1].n - 1] and transitions[0].first == 0
    np.testing.assert_allclose(transitions[0].executed[0], steps[0].executed)
    assert [t.human[0] for t in transitions] == [s.human for s in steps]


def test_alone_the_same_scene_times_out(policy):
    alone = play(policy, None)
    assert not alone.success and alone.takeovers == 0 and alone.record.episode.outcome == Outcome.TIMEOUT
    assert len(steps_of(alone.record)) == TASK.episode_steps and not any(s.human for s in steps_of(alone.record))


def test_an_episode_can_be_repeated(policy, helped):
    again = play(policy, ScriptedOperator('press_button', 'skilled', 0))
    np.testing.assert_array_equal([e.positions for e in again.record.executed], [e.positions for e in helped.record.executed])
