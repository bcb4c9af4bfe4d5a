"""The Gymnasium environment obeys the interface's contract."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bora_sim.env import BoraEnv
from bora_sim.expert import make_expert
from bora_sim.tasks import TASKS


@pytest.fixture(scope='module')
def env() -> BoraEnv:
    return BoraEnv()


@pytest.mark.parametrize('task', TASKS)
def test_contract(task):
    check_env(BoraEnv(task), skip_render_check=True)


@pytest.mark.parametrize('task', TASKS)
def test_a_seed_repeats_an_episode(task):
    ends = []
    for _ in range(2):
        env = BoraEnv(task, objects='unseen')
        env.reset(seed=11)
        actions = np.random.default_rng(0).uniform(-0.03, 0.03, (6, 19))
        rewards = [env.step(env.world.targets + action)[1] for action in actions]
        ends.append((env.step(env.world.targets)[0], rewards, env.world.task_values))
    np.testing.assert_array_equal(ends[0][0]['images'], ends[1][0]['images'])
    np.testing.assert_array_equal(ends[0][0]['proprio'], ends[1][0]['proprio'])
    assert ends[0][1:] == ends[1][1:]


def test_a_seed_repeats_a_scene(env):
    first, info = env.reset(seed=3)
    again, info_again = env.reset(seed=3)
    assert info['scene'] == info_again['scene']
    np.testing.assert_array_equal(first['images'], again['images'])


def test_success_terminates_with_its_reward_and_the_limit_truncates(env):
    env.reset(seed=0, options={'scene': 7})
    expert, total, steps = make_expert('press_button'), 0.0, 0
    while True:
        _, reward, terminated, truncated, info = env.step(expert.step(env.world.targets, env.world.task_values))
        total, steps = total + reward, steps + 1
        if terminated or truncated:
            break
    assert terminated and not truncated and info['success']
    assert total == pytest.approx(1 - steps / 90)
    env.reset(seed=0)
    env._steps = 89
    _, reward, terminated, truncated, _ = env.step(env.world.targets)
    assert truncated and not terminated and reward == pytest.approx(-1 / 90)
