"""The simulated robot: same shape as the kinematics, repeatable, driven through its actuators only."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_common.kinematics import FRAMES, JOINTS, LOWER, UPPER, forward
from bora_common.robot import load_robot, load_task
from bora_sim.mjcf import quaternion
from bora_sim.tasks import TASKS, make_task
from bora_sim.world import SimWorld

CONFIG = Path(__file__).parents[2] / 'config'


@pytest.mark.parametrize('seed', range(5))
def test_frames_are_where_the_kinematics_has_them(world, seed):
    q = np.random.default_rng(seed).uniform(LOWER, UPPER)
    world.teleport(q)
    for name, pose in forward(q).items():
        site = mujoco.mj_name2id(world.model, mujoco.mjtObj.mjOBJ_SITE, name) >= 0
        item = world.data.site(name) if site else world.data.body(name)
        np.testing.assert_allclose(item.xpos, pose[:3, 3], atol=1e-8, err_msg=name)
        np.testing.assert_allclose(item.xmat.reshape(3, 3), pose[:3, :3], atol=1e-8, err_msg=name)
    assert len(FRAMES) == 9 + 1 + 12 + 5


def test_quaternion_of_every_branch_is_its_rotation():
    for axis in np.eye(3):
        for angle in (0.0, 0.3, np.pi, -2.5):
            expected = np.r_[np.cos(angle / 2), np.sin(angle / 2) * axis]
            k = np.cross(axis, np.eye(3)).T
            rotation = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
            assert abs(expected @ quaternion(rotation)) == pytest.approx(1)


def test_contact_settings_that_make_fingers_hold(world):
    assert world.model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC and world.model.opt.impratio >= 10
    assert world.model.opt.timestep == pytest.approx(1 / 300)


def test_a_seed_is_a_scene(world):
    first = world.get_state(), world.start.copy(), world.task_values
    world.reset(1)
    assert world.task_values['cap_x'] != first[2]['cap_x']
    world.reset(0)
    np.testing.assert_array_equal(world.get_state().physics, first[0].physics)
    np.testing.assert_array_equal(world.start, first[1])


def test_the_robot_stands_still_under_its_own_weight(world):
    for _ in range(100):
        world.step_physics(world.start)
    np.testing.assert_allclose(world.qpos, world.start, atol=2e-3)
    assert world.time == pytest.approx(1.0)


def test_a_target_is_reached_but_not_at_once(world):
    target = world.start + np.r_[0.1, np.zeros(18)]
    world.step_physics(target, 3)
    assert world.qpos[0] < world.start[0] + 0.05
    for _ in range(100):
        world.step_physics(target)
    np.testing.assert_allclose(world.qpos, target, atol=3e-3)


def test_a_target_that_is_not_finite_is_counted_and_does_not_move_the_joint(world):
    bad = world.start.copy()
    bad[3] = np.nan
    before = world.nonfinite_targets
    world.step_physics(bad, 30)
    assert world.nonfinite_targets == before + 1
    np.testing.assert_allclose(world.qpos, world.start, atol=2e-3)


def test_state_can_be_taken_up_again(world):
    target = world.start + 0.05
    world.step_physics(target, 10)
    state = world.get_state()
    world.step_physics(target, 30)
    expected, ticks = world.qpos, world.ticks
    world.set_state(state)
    world.step_physics(target, 30)
    np.testing.assert_allclose(world.qpos, expected, atol=1e-9)
    assert world.ticks == ticks


def test_a_step_lasts_a_fifteenth_of_a_second_and_ends_at_its_command(world):
    command = world.start + 0.02
    world.step_towards(world.targets, command)
    assert world.ticks == 20
    np.testing.assert_allclose(world.targets, command)


def test_joint_offset_is_seen_neither_in_readings_nor_in_targets():
    offset = np.r_[0.03, np.zeros(18)]
    world = SimWorld('press_button', 0, joint_offset=offset)
    np.testing.assert_allclose(world.qpos, world.start)
    np.testing.assert_allclose(world.targets, world.start)
    assert world.data.qpos[world.model.joint(JOINTS[0]).qposadr[0]] == pytest.approx(world.start[0] + 0.03)


def test_cameras_see_different_pictures_of_the_asked_size(world):
    frames = world.render(80, 60)
    assert list(frames) == ['left', 'front', 'right']
    assert all(f.shape == (60, 80, 3) and f.dtype == np.uint8 and f.std() > 10 for f in frames.values())
    assert np.abs(frames['left'].astype(int) - frames['right']).mean() > 1


def test_the_red_cap_is_seen(world):
    frame = world.render()['front'].astype(int)
    assert ((frame[..., 0] > 120) & (frame[..., 1] < 70) & (frame[..., 2] < 70)).sum() > 5


@pytest.mark.parametrize('name', TASKS)
def test_task_agrees_with_its_description(name):
    task, described = make_task(name), load_task(CONFIG / 'tasks' / f'{name}.yaml', load_robot(CONFIG / 'robots' / 'fr3_hand12.yaml'))
    assert (task.name, task.instruction, task.episode_steps, task.failure_ends) == (
        described.name, described.instruction, described.episode_steps, described.failure_ends,
    )  # fmt: skip
    np.testing.assert_allclose(task.start_pose, described.start_pose)


@pytest.mark.parametrize('name', TASKS)
def test_unseen_objects_are_others(name):
    task = make_task(name)
    assert task.standard and task.unseen
    assert not {i.name for i in task.standard} & {i.name for i in task.unseen}
    for seed in range(4):
        assert SimWorld(name, seed, objects='unseen').instance in task.unseen


def test_wrong_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match='press_button'):
        SimWorld('press_buton')
    with pytest.raises(ConfigError, match='unseen'):
        SimWorld('press_button', objects='unsen')


def test_targets_of_another_size_are_refused(world):
    with pytest.raises(ConfigError, match='19'):
        world.step_physics(np.zeros(7))
