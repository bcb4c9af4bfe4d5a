"""The scripted person: leaves a good policy alone, repairs a bad one early, takes their hands off when the episode ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_sim.expert import Skill, make_expert
from bora_sim.operator import SKILLS, ScriptedOperator
from bora_sim.world import SimWorld

TICK = 10_000_000  # ns


def run(world, seed, skill, bias):
    """(operator, events, ticks): a scripted policy at 100 Hz that aims `bias` m beside, with the person watching at 50 Hz."""
    world.reset(seed)
    policy = make_expert('press_button', seed=seed, skill=Skill(bias=(bias, bias), patience=1e9))
    operator = ScriptedOperator('press_button', skill)
    operator.begin(seed, 0)
    sent, goal, events, tick = world.targets, world.targets, [], 0
    while tick < 600 and not world.success:
        if tick % 2 == 0:
            answer = operator.update(tick * TICK, sent, world.qpos, world.task_values)
            if answer.reason:
                events.append((tick, answer.engaged, answer.reason))
                if answer.engaged:
                    np.testing.assert_array_equal(answer.targets, sent)  # a takeover begins at the last sent command
                policy.restart()
            goal = answer.targets if answer.engaged else None
        after = policy.step(sent, world.task_values, 0.01) if goal is None else sent + 0.5 * (goal - sent)
        assert np.abs(after - sent)[:7].max() < 0.03
        sent = after
        world.step_physics(sent)
        tick += 1
    return operator, events, tick


@pytest.mark.parametrize('skill', SKILLS)
@pytest.mark.parametrize('seed', range(2))
def test_a_good_policy_is_left_alone(world, skill, seed):
    operator, events, _ = run(world, seed, skill, 0.0)
    assert world.success and not events and operator.takeovers == 0


@pytest.mark.parametrize('skill', SKILLS)
def test_a_policy_that_misses_is_repaired(world, skill):
    operator, events, _ = run(world, 1, skill, 0.016)
    assert world.success and operator.takeovers >= 1
    assert events[0][1] and events[0][2] == 'the finger misses the cap'


def test_a_skilled_person_acts_earlier_than_a_late_one(world):
    first = {skill: run(world, 2, skill, 0.016)[1][0][0] for skill in ('skilled', 'late')}
    assert first['skilled'] + 20 < first['late']


def test_a_policy_that_does_nothing_is_noticed(world):
    operator = ScriptedOperator('press_button')
    operator.begin(0, 0)
    reasons = [operator.update(t * 2 * TICK, world.targets, world.qpos, world.task_values).reason for t in range(100)]
    assert [r for r in reasons if r] == ['no progress']
    assert operator.engaged


def test_hands_off_when_the_episode_ends(world):
    operator = ScriptedOperator('press_button')
    operator.begin(0, 0)
    for t in range(80):
        operator.update(t * 2 * TICK, world.targets, world.qpos, world.task_values)
    assert operator.engaged
    operator.end()
    answer = operator.update(81 * 2 * TICK, world.targets, world.qpos, world.task_values)
    assert not answer.engaged and not operator.engaged


def test_a_person_who_hands_back_does_so_when_the_hand_is_well_placed(world, monkeypatch):
    monkeypatch.setitem(SKILLS, 'skilled', replace(SKILLS['skilled'], hand_back=1.0))
    _, events, _ = run(world, 1, 'skilled', 0.016)
    assert events[1][1:] == (False, 'well placed')
    assert all(engaged for _, engaged, _ in events[::2]) and not any(engaged for _, engaged, _ in events[1::2])


def test_a_repeated_time_moves_nothing(world):
    operator = ScriptedOperator('press_button')
    operator.begin(0, 0)
    for t in range(80):
        operator.update(t * 2 * TICK, world.targets, world.qpos, world.task_values)
    again = [operator.update(79 * 2 * TICK, world.targets, world.qpos, world.task_values).targets for _ in range(3)]
    np.testing.assert_array_equal(again[0], again[2])


def test_unknown_skills_and_tasks_are_named():
    with pytest.raises(ConfigError, match='skilled'):
        ScriptedOperator('press_button', 'skiled')
    with pytest.raises(ConfigError, match='press_button'):
        ScriptedOperator('pres_button')


@pytest.mark.parametrize(
    ('task', 'bias', 'taken'),
    [('plush_toy', 0.035, True), ('pick_and_place', 0.035, True), ('open_box', 0.035, True), ('pull_tissue', 0.035, True),
     ('plush_toy', 0.0, False), ('open_box', 0.0, False), ('pull_tissue', 0.0, False)],
)  # fmt: skip
def test_every_task_is_repaired_and_a_good_policy_left_alone(task, bias, taken):
    world = SimWorld(task, 1)
    operator, policy = ScriptedOperator(task), make_expert(task, skill=Skill(bias=(bias, bias)), seed=1)
    operator.begin(1, 0)
    sent, goal, tick = world.targets, None, 0
    while tick < world.task.episode_steps * 20 // 3 and not (world.success or world.failure):
        if tick % 2 == 0:
            answer = operator.update(tick * TICK, sent, world.qpos, world.task_values)
        if answer.engaged:
            sent, goal = sent + 0.5 * (answer.targets - sent), None
        elif goal is None or tick % 6 == 0:  # a step of a chunk, played in a straight line
            goal = policy.step(sent, world.task_values, 0.06)
        if goal is not None:
            sent = sent + (goal - sent) / (6 - tick % 6)
        world.step_physics(sent)
        tick += 1
    assert world.success and (operator.takeovers > 0) == taken


@pytest.mark.parametrize('task', ('plush_toy', 'pick_and_place', 'open_box', 'pull_tissue'))
def test_a_policy_that_stands_still_is_noticed_in_every_task(task):
    world = SimWorld(task)
    operator = ScriptedOperator(task)
    operator.begin(0, 0)
    reasons = [operator.update(t * 2 * TICK, world.targets, world.qpos, world.task_values).reason for t in range(120)]
    assert [r for r in reasons if r] == ['no progress']
