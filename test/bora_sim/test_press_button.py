"""Pressing: what counts, what doesn't, and that the expert can do it from wherever the robot is."""

from __future__ import annotations

import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_common.kinematics import LOWER, UPPER
from bora_sim.demos import Disturbance, is_poor, load, record
from bora_sim.expert import GOOD, HAND, POOR, Skill, make_expert
from bora_sim.world import SimWorld


def play(world: SimWorld, expert, steps: int = 90) -> list[np.ndarray]:
    """Commands [n,19] until success or `steps`."""
    command = world.targets
    commands = [command]
    for _ in range(steps):
        after = expert.step(command, world.task_values)
        world.step_towards(command, after)
        command = after
        commands.append(command)
        if world.success:
            break
    return commands


@pytest.mark.parametrize('seed', range(8))
def test_expert_presses(world, seed):
    world.reset(seed)
    commands = np.array(play(world, make_expert('press_button', seed=seed)))
    assert world.success and not world.failure
    assert np.all((commands >= LOWER - 1e-12) & (commands <= UPPER + 1e-12))
    assert np.abs(np.diff(commands[:, HAND], axis=0)).max() <= 0.12 + 1e-9
    assert np.abs(np.diff(commands[:, :7], axis=0)).max() * 15 < 1.5  # rad/s, well inside the arm's limits


def test_expert_goes_on_from_a_bad_place(world):
    sideways = world.start.copy()
    sideways[0] += 0.35
    for _ in range(20):
        world.step_towards(world.targets, world.targets + np.clip(sideways - world.targets, -0.05, 0.05))
    play(world, make_expert('press_button'))
    assert world.success


def test_a_finger_beside_the_cap_does_not_count(world):
    aside = make_expert('press_button', skill=Skill(bias=(0.022, 0.022), patience=1e9))
    play(world, aside, 60)
    assert not world.success


def test_a_cap_that_is_down_without_a_finger_does_not_count(world):
    joint = world.model.joint('cap')
    world.data.qpos[joint.qposadr[0]] = -0.018
    world.step_physics(world.start, 1)
    assert world.task_values['depth'] > 0.9 and world.task_values['held'] == 0.0


def test_a_touch_that_is_let_go_does_not_count(world):
    expert = make_expert('press_button')
    command = world.targets
    while world.task_values['held'] == 0.0:
        after = expert.step(command, world.task_values)
        world.step_towards(command, after)
        command = after
        assert world.time < 6
    up = world.start
    for _ in range(20):
        after = command + np.clip(up - command, -0.05, 0.05)
        world.step_towards(command, after)
        command = after
    assert not world.success and world.task_values['depth'] < 0.1 and world.task_values['held'] == 0.0


def test_unseen_buttons_can_be_pressed():
    world = SimWorld('press_button', 3, objects='unseen')
    play(world, make_expert('press_button'))
    assert world.success


def test_a_poor_demonstrator_takes_longer(world):
    lengths = {}
    for name, skill in (('good', GOOD), ('poor', POOR)):
        total = 0
        for seed in range(3):
            world.reset(seed)
            total += len(play(world, make_expert('press_button', skill=skill, seed=seed)))
        lengths[name] = total
    assert lengths['poor'] > 1.4 * lengths['good']


def test_a_poor_demonstrator_errs_to_one_side():
    expert = make_expert('press_button', skill=POOR)
    errors = np.array([expert._misjudge() for _ in range(200)])
    size, heading = np.linalg.norm(errors, axis=1), np.arctan2(errors[:, 1], errors[:, 0])
    assert (POOR.bias[0] <= size).all() and (size <= POOR.bias[1]).all()
    assert (POOR.heading[0] <= heading).all() and (heading <= POOR.heading[1]).all()


def test_a_demonstrator_is_not_timed(world, monkeypatch):
    monkeypatch.setattr('bora_sim.demos.observe', lambda world, size: np.zeros((3, 4, 4, 3), np.uint8))
    demos = [record(world, seed, poor=True) for seed in range(4)]
    late = [d for d in demos if len(d.proprio) > world.task.episode_steps]
    assert any(d.success for d in late) and not any(d.failure for d in demos)


def test_unknown_task_has_no_expert():
    with pytest.raises(ConfigError, match='press_button'):
        make_expert('press_buttn')


def test_demonstration_has_a_frame_each_step_and_a_clean_label(world, tmp_path):
    demo = record(world, 5, poor=False)
    n = len(demo.proprio)
    assert demo.success and demo.images.shape == (n, 3, 64, 64, 3) and demo.images.dtype == np.uint8
    assert demo.executed.shape == demo.intended.shape == (n, 19)
    assert not np.array_equal(demo.executed, demo.intended)
    np.testing.assert_allclose(demo.proprio[0], demo.start, atol=1e-6)
    np.testing.assert_allclose(demo.proprio[1:], demo.executed[:-1], atol=0.15)  # the robot follows the executed command
    demo.save(tmp_path / 'demo.npz')
    again = load(tmp_path / 'demo.npz')
    for name in demo.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(demo, name), err_msg=name)
    assert [p.name for p in tmp_path.iterdir()] == ['demo.npz']
    same = record(world, 5, poor=False)
    np.testing.assert_array_equal(same.executed, demo.executed)


def test_disturbance_is_smaller_where_precision_matters():
    sizes = []
    for near in (False, True):
        noise = Disturbance(np.random.default_rng(0))
        sizes.append(np.std([noise.step(near) for _ in range(200)]))
    assert sizes[1] < 0.5 * sizes[0]


def test_poor_share_does_not_depend_on_where_one_starts():
    flags = [is_poor(seed, 0.2) for seed in range(1000)]
    assert 150 < sum(flags) < 250
    assert not any(is_poor(seed, 0.0) for seed in range(50)) and all(is_poor(seed, 1.0) for seed in range(50))
