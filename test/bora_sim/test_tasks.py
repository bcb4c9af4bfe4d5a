"""The tasks beside pressing: what counts and what doesn't, experts that can do each from wherever the robot is, and sets that stay."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from bora_common.kinematics import LOWER, PALM, UPPER, fr3_hand12
from bora_sim.conditions import DEPLOYMENT, NOMINAL, Conditions
from bora_sim.expert import HAND, make_expert
from bora_sim.tasks import TASKS, digest, make_task
from bora_sim.tasks.open_box import FULL_ANGLE
from bora_sim.world import SimWorld

GRASPING = ('plush_toy', 'pick_and_place', 'open_box', 'pull_tissue')
DIGESTS = {
    'press_button': '8fd3949da99815ca',
    'plush_toy': '6c53aa7b6eb7a584',
    'pick_and_place': '877e922bdaeff472',
    'open_box': '4ce4493d81b909dd',
    'pull_tissue': '7ffc7219470631a7',
}


def play(world: SimWorld, expert, until=None, steps: int | None = None) -> np.ndarray:
    """Commands [n,19] until the episode ends, `until(world)` holds or `steps` are done."""
    commands = [world.targets]
    for _ in range(steps or world.task.episode_steps):
        commands.append(expert.step(commands[-1], world.task_values))
        world.step_towards(commands[-2], commands[-1])
        if world.success or world.failure or (until is not None and until(world)):
            break
    return np.array(commands)


@pytest.fixture(scope='module')
def worlds() -> dict[str, SimWorld]:
    return {name: SimWorld(name) for name in GRASPING}


@pytest.mark.parametrize('name', TASKS)
def test_sets_of_objects_are_frozen(name):
    assert digest(make_task(name)) == DIGESTS[name], 'results on other sets are not comparable with those before'


@pytest.mark.parametrize('name', GRASPING)
def test_expert_does_the_task_within_the_robot_s_limits(worlds, name):
    world = worlds[name]
    world.reset(3)
    commands = play(world, make_expert(name))
    assert world.success and not world.failure
    assert np.all((commands >= LOWER - 1e-12) & (commands <= UPPER + 1e-12))
    assert np.abs(np.diff(commands[:, HAND], axis=0)).max() <= 0.12 + 1e-9
    assert np.abs(np.diff(commands[:, :7], axis=0)).max() * 15 < 1.7  # rad/s, inside the arm's limits
    assert np.ptp(commands[:, HAND], axis=0).max() > 0.3  # by the hand's joints


@pytest.mark.parametrize('name', TASKS)
def test_expert_does_the_task_with_every_unseen_object(name):
    world, missing, seed = SimWorld(name, objects='unseen'), {i.name for i in make_task(name).unseen}, 0
    while missing:
        world.reset(seed)
        if world.instance.name in missing:
            play(world, make_expert(name, seed=seed))
            assert world.success, world.instance.name
            missing.remove(world.instance.name)
        seed += 1


@pytest.mark.parametrize('name', TASKS)
def test_expert_does_the_task_under_deployment_conditions(name):
    world = SimWorld(name, 1, objects='deployment')
    assert world.instance in world.task.standard
    play(world, make_expert(name))
    assert world.success


@pytest.mark.parametrize('name', GRASPING)
def test_expert_goes_on_from_a_bad_place(worlds, name):
    world = worlds[name]
    world.reset(5)
    sideways = world.start + np.r_[0.3, np.zeros(18)]
    for _ in range(12):
        world.step_towards(world.targets, world.targets + np.clip(sideways - world.targets, -0.05, 0.05))
    play(world, make_expert(name))
    assert world.success


@pytest.mark.parametrize('name', GRASPING)
def test_a_poor_demonstrator_takes_longer(worlds, name):
    world, lengths = worlds[name], {}
    for poor in (False, True):
        lengths[poor] = 0
        for seed in range(2):
            world.reset(seed)
            lengths[poor] += len(play(world, make_expert(name, poor=poor, seed=seed)))
    assert lengths[True] > 1.15 * lengths[False]


@pytest.mark.parametrize('name', GRASPING)
def test_a_seed_is_an_episode(worlds, name):
    world, ends = worlds[name], []
    for _ in range(2):
        world.reset(2)
        play(world, make_expert(name, seed=2), steps=45)
        ends.append((world.get_state().physics, world.task_values))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def lift_off(world: SimWorld, body: str, height: float) -> None:
    world.data.qpos[world.model.joint(body).qposadr[0] + 2] += height
    mujoco.mj_forward(world.model, world.data)


def test_a_toy_in_the_air_without_a_hand_does_not_count(worlds):
    world = worlds['plush_toy']
    world.reset(0)
    lift_off(world, 'toy', 0.3)
    world.step_physics(world.start, 30)
    assert world.task_values['lift'] > 0.1 and world.task_values['held'] == 0.0 and not world.success


def test_a_toy_that_leaves_the_table_is_a_failure(worlds):
    world = worlds['plush_toy']
    world.reset(0)
    world.data.qpos[world.model.joint('toy').qposadr[0]] = 2.0
    world.step_physics(world.start, 150)
    assert world.failure and world.task.failure_ends


def test_a_toy_that_rolls_stays_within_reach(worlds):
    world = worlds['plush_toy']
    world.reset(0)
    world.data.qvel[world.model.joint('toy').dofadr[0]] = 0.5
    world.step_physics(world.start, 900)
    assert not world.failure and world.task_values['x'] < 0.70
    play(world, make_expert('plush_toy'))
    assert world.success


def test_a_package_counts_once_it_lies_wholly_inside(worlds):
    world = worlds['pick_and_place']
    basket, start = world.instance['basket'], world.model.joint('package').qposadr[0]
    for offset, height, success in ((basket[0], 0.05, False), (0.0, 0.10, False), (0.0, 0.035, True)):  # on the wall, above, within
        world.reset(0)
        world.data.qpos[start : start + 3] = world.data.mocap_pos[0] + [offset, 0.0, height]
        mujoco.mj_forward(world.model, world.data)
        world.task.judge(world.model, world.data, world.instance, world.outcome, 1.0)
        assert (bool(world.task_values['inside']), world.success) == (success, success)


def test_a_package_that_the_hand_still_holds_in_the_basket_does_not_count(worlds):
    world = worlds['pick_and_place']
    world.reset(next(seed for seed in range(20) if _instance(world, seed) == 'parcel'))
    play(world, make_expert('pick_and_place'), until=lambda w: w.task_values['inside'] and w.task_values['hand'])
    world.step_physics(world.targets, 150)
    assert world.task_values['inside'] and world.task_values['hand'] and not world.success


def _instance(world: SimWorld, seed: int) -> str:
    world.reset(seed)
    return world.instance.name


def test_a_lid_that_is_let_go_early_falls_shut(worlds):
    world = worlds['open_box']
    world.reset(0)
    play(world, make_expert('open_box'), until=lambda w: w.task_values['angle'] > 0.7)
    aside = world.targets.copy()
    for _ in range(40):  # away from under the lid, towards the far side
        aside = fr3_hand12().solve(aside, PALM, _shifted(aside, (0.012, 0.0, 0.0)), joints=range(7), iterations=3)
        world.step_towards(world.targets, aside)
    assert not world.success and world.task_values['angle'] < 0.1


def _shifted(q: np.ndarray, by: tuple[float, float, float]) -> np.ndarray:
    pose = fr3_hand12().pose(q, PALM)
    pose[:3, 3] += by
    return pose


def test_the_lid_s_edge_is_where_the_truth_says(worlds):
    world = worlds['open_box']
    world.reset(1)
    for angle in (0.0, 1.0, FULL_ANGLE):
        world.data.qpos[world.model.joint('lid').qposadr[0]] = angle
        mujoco.mj_forward(world.model, world.data)
        world.task.judge(world.model, world.data, world.instance, world.outcome, 0.0)
        values, lid = world.task_values, world.data.body('lid')
        out, up = values['length'] * np.cos(values['angle']), values['length'] * np.sin(values['angle'])
        hinge = np.array([values['hinge_x'], values['hinge_y'], values['hinge_z']])
        truth = hinge + [out * np.cos(values['yaw']), out * np.sin(values['yaw']), up]
        np.testing.assert_allclose(truth, lid.xpos + lid.xmat.reshape(3, 3)[:, 0] * values['length'], atol=1e-9)


def test_a_sheet_stays_in_the_box_until_it_is_pulled(worlds):
    world = worlds['pull_tissue']
    world.reset(0)
    for _ in range(200):
        world.step_physics(world.start)
    values = world.task_values
    assert abs(values['pulled']) < 0.004 and not values['free'] and not world.success
    assert values['lowest'] < values['box_z'] < values['z']


def test_a_sheet_that_falls_is_a_failure_and_one_half_out_is_nothing(worlds):
    world = worlds['pull_tissue']
    world.reset(0)
    commands = play(world, make_expert('pull_tissue'), until=lambda w: w.task_values['pulled'] > 0.01)
    opened = commands[-1].copy()
    opened[HAND] = world.start[HAND]
    for _ in range(20):
        world.step_towards(world.targets, world.targets + np.clip(opened - world.targets, -0.1, 0.1))
    assert not world.success and not world.failure and not world.task_values['free']
    world.data.eq_active[:] = 0
    for _ in range(200):
        world.step_physics(world.targets)
    assert world.failure


def test_latency_delays_the_targets_and_travels_with_the_state():
    moved = {}
    for latency in (0, 12):
        world = SimWorld('press_button', 0, conditions=Conditions(latency=latency))
        before = world.qpos
        world.step_physics(world.start + np.r_[0.05, np.zeros(18)], 9)
        moved[latency] = np.abs(world.qpos - before)[0]
        assert world.targets[0] == pytest.approx(world.start[0] + 0.05)
    assert moved[12] < 1e-6 < 1e-4 < moved[0]
    state, twin = world.get_state(), SimWorld('press_button', 0, conditions=Conditions(latency=12))
    twin.set_state(state)
    for other in (world, twin):
        other.step_physics(other.targets, 15)
    np.testing.assert_array_equal(world.qpos, twin.qpos)
    assert world.qpos[0] > before[0] + 1e-4


def test_deployment_differs_in_what_the_robot_sees_and_feels():
    nominal, deployed = SimWorld('plush_toy', 0), SimWorld('plush_toy', 0, objects='deployment')
    assert deployed.conditions == DEPLOYMENT and nominal.conditions == NOMINAL
    np.testing.assert_allclose(deployed.qpos, deployed.start)
    np.testing.assert_allclose(deployed.data.qpos[deployed._qpos_at] - deployed.qpos, DEPLOYMENT.joint_offset)
    values = deployed.task_values
    gap = np.array([values['gap_x'], values['gap_y'], values['gap_z']])
    assert 0.001 < np.linalg.norm(gap) < 0.03 and not any(nominal.task_values[f'gap_{axis}'] for axis in 'xyz')
    assert np.abs(nominal.render()['left'].astype(int) - deployed.render()['left']).max() > 20
    assert deployed.model.geom('table').friction[0] == pytest.approx(0.8 * nominal.model.geom('table').friction[0])
    assert deployed.model.camera('overview').pos == pytest.approx(nominal.model.camera('overview').pos)


def test_hidden_objects_have_the_hand_before_them():
    for name in TASKS:
        world, seed = SimWorld(name, objects='unseen'), 0
        while world.instance.occluding is None:
            seed += 1
            world.reset(seed)
        place = np.array(world.instance.occluding)
        tip = fr3_hand12().pose(world.start, 'hand_middle_tip')[:3, 3]
        assert tip[2] < 0.15 and place[0] > 0.05, name
