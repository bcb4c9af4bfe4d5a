"""config/controllers against config/robots and the parameters that ros2_control and ros2_controllers know in Jazzy (4.18 to 4.42).

ros2_control reads a misspelt parameter without a word, so every name is held against the tables below.
"""

from pathlib import Path

import pytest
import yaml

from bora_common.paths import share
from bora_common.robot import load_robot

FILES = sorted((share() / 'config' / 'controllers').glob('*_controllers.yaml'))
JTC, JSB = 'joint_trajectory_controller/JointTrajectoryController', 'joint_state_broadcaster/JointStateBroadcaster'

EVERY_CONTROLLER = {'update_rate': int, 'is_async': bool}
PARAMETERS = {
    JTC: {
        **EVERY_CONTROLLER, 'joints': list, 'command_joints': list, 'command_interfaces': list, 'state_interfaces': list,
        'allow_partial_joints_goal': bool, 'open_loop_control': bool, 'interpolate_from_desired_state': bool,
        'allow_integration_in_goal_trajectories': bool, 'set_last_command_interface_value_as_state_on_activation': bool,
        'action_monitor_rate': float, 'interpolation_method': str, 'allow_nonzero_velocity_at_trajectory_end': bool,
        'cmd_timeout': float, 'constraints.stopped_velocity_tolerance': float, 'constraints.goal_time': float,
    },
    JSB: {
        **EVERY_CONTROLLER, 'use_local_topics': bool, 'joints': list, 'extra_joints': list, 'interfaces': list,
        'use_urdf_to_filter': bool, 'frame_id': str, 'map_interface_to_joint_state.position': str,
        'map_interface_to_joint_state.velocity': str, 'map_interface_to_joint_state.effort': str,
    },
}  # fmt: skip
MANAGER = {'update_rate': int, 'thread_priority': int, 'lock_memory': bool, 'overruns.manage': bool}


def flat(parameters, prefix=''):
    """{dotted name: value}, as rcl's parameter files are read."""
    pairs = {}
    for name, value in parameters.items():
        pairs.update(flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {f'{prefix}{name}': value})
    return pairs


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def robot(request):
    """(the robot's description, the manager's parameters, {controller: type}, {controller: parameters})."""
    content = {name: flat(body['ros__parameters']) for name, body in yaml.safe_load(request.param.read_text()).items()}
    manager = content.pop('controller_manager')
    types = {n.removesuffix('.type'): manager.pop(n) for n in list(manager) if n.endswith('.type')}
    spec = load_robot(share() / 'config' / 'robots' / Path(request.param.name.replace('_controllers', '')))
    return spec, manager, types, content


def trajectory_controllers(robot):
    _, _, types, content = robot
    return {name: content[name] for name, kind in types.items() if kind == JTC}


def test_every_robot_has_its_controllers():
    robots = {p.stem for p in (share() / 'config' / 'robots').glob('*.yaml')}
    assert {p.stem.removesuffix('_controllers') for p in FILES} == robots


def test_every_name_is_one_that_ros2_control_reads(robot):
    _, manager, types, content = robot
    assert set(content) == set(types)
    for known, parameters in [(MANAGER, manager), *((PARAMETERS[types[n]], content[n]) for n in content)]:
        assert set(parameters) <= set(known)
        for name, value in parameters.items():
            assert type(value) is known[name], name


def test_a_controller_for_each_group_with_its_joints_in_its_order(robot):
    spec, _, types, _ = robot
    assert {g.controller: list(g.joints) for g in spec.groups} == {n: p['joints'] for n, p in trajectory_controllers(robot).items()}
    assert JSB in types.values()


def test_interfaces_are_a_valid_combination(robot):
    for parameters in trajectory_controllers(robot).values():
        assert parameters['command_interfaces'] == ['position'] and parameters['state_interfaces'] == ['position', 'velocity']


def test_a_stream_of_single_points_is_followed_as_the_simulated_controller_follows_it(robot):
    for parameters in trajectory_controllers(robot).values():
        assert parameters['interpolate_from_desired_state'] and parameters['open_loop_control']
        assert parameters['allow_nonzero_velocity_at_trajectory_end'] and parameters['interpolation_method'] == 'splines'
        assert not parameters['allow_partial_joints_goal']


def test_the_second_line_of_defence_is_armed(robot):
    """The controller ignores a cmd_timeout that is not above goal_time."""
    for parameters in trajectory_controllers(robot).values():
        assert parameters['cmd_timeout'] > parameters['constraints.goal_time']


def test_joint_states_are_frequent_enough_and_divide_the_managers_rate(robot):
    _, manager, types, content = robot
    (broadcaster,) = (n for n, kind in types.items() if kind == JSB)
    rate = content[broadcaster]['update_rate']
    assert rate >= 100 and manager['update_rate'] % rate == 0
