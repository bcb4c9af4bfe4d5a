"""The graph's description: arguments, tuning, processes, parameters, and that every node knows the parameters it is given."""

import json
from importlib.metadata import entry_points

import pytest
import yaml

from bora_bringup.cli import run
from bora_bringup.graph import BORA_NODES, Graph, load_tuning, online, parse_arguments
from bora_bringup.host import GROUP
from bora_common import topics
from bora_common.errors import ConfigError
from bora_common.parameters import resolve
from bora_common.topics import TopicSpec

VARIANTS = (
    [],
    ['operator=skilled'],
    ['operator=none', 'rviz=true'],
    ['use_sim=false', 'rviz=true', 'device=cuda:0'],
    ['use_sim=false', 'operator=none'],
)
# Outside the description: topics that standard nodes of ROS bring along.
FOREIGN_SUBSCRIBERS = {topics.MARKERS, topics.TF}


def graph(*pairs: str) -> Graph:
    return online(parse_arguments([*pairs, 'run_dir=/tmp/bora-test-run']))


@pytest.mark.parametrize('pairs', VARIANTS)
def test_every_node_knows_the_parameters_it_is_given(pairs):
    classes = {e.name: e for e in entry_points(group=GROUP)}
    for node in graph(*pairs).nodes:
        if node.external:
            continue
        given = {k: v for k, v in node.parameters.items() if k != 'use_sim_time'}
        resolve(node.name, classes[node.name].load().PARAMETERS, given)  # raises ConfigError naming what is unknown


def test_every_node_of_the_graph_is_installed():
    assert set(BORA_NODES) == {e.name for e in entry_points(group=GROUP)}


@pytest.mark.parametrize('pairs', VARIANTS)
def test_names_are_unique_and_every_process_holds_nodes_of_one_kind(pairs):
    g = graph(*pairs)
    names = [n.name for n in g.nodes]
    assert len(set(names)) == len(names)
    for process in g.processes:
        assert len({n.external for n in process.nodes}) == 1
        assert len({g.namespace_of(n) for n in process.nodes}) == 1
    assert sorted(n.name for p in g.processes for n in p.nodes) == sorted(names)


def test_processes_are_those_of_the_architecture():
    processes = {p.name: p for p in graph().processes}
    assert [n.name for n in processes['hardware'].nodes] == ['hardware']
    assert [n.name for n in processes['operator'].nodes] == ['teleop', 'arbiter', 'episode_keeper']
    assert [n.name for n in processes['policy'].nodes] == ['base_policy', 'residual_actor', 'critic']
    assert processes['trainer'].nice == 10 and not processes['hardware'].restart and not processes['operator'].restart
    assert all(processes[p].restart for p in ('perception', 'policy', 'replay', 'trainer', 'monitor'))


def _publishers(g: Graph, spec: TopicSpec) -> list[str]:
    return [n.name for n in g.nodes if spec in n.publishes]


@pytest.mark.parametrize('pairs', [['operator=skilled'], []])
def test_in_simulation_nobody_waits_for_a_topic_or_service_that_nobody_offers(pairs):
    g = graph(*pairs)
    served = {s for n in g.nodes for s in n.serves}
    for node in g.nodes:
        for spec in node.subscribes:
            outside = spec == topics.JOY and 'joy_node' not in {n.name for n in g.nodes}  # a joystick may come at any time
            assert outside or _publishers(g, spec), f'{node.name} subscribes to {spec.name}, which nobody publishes'
        for service in node.calls:
            assert service in served, f'{node.name} calls {service.name}, which nobody serves'


def test_every_stream_has_one_publisher_and_someone_who_listens():
    g = graph('operator=skilled')
    for spec in {s for n in g.nodes for s in n.publishes}:
        devices = 2 if spec == topics.HUMAN_COMMAND else 1  # a joystick beside the scripted operator; the arbiter takes one at a time
        assert len(_publishers(g, spec)) == devices
        heard = any(spec in n.subscribes for n in g.nodes)
        outside = spec in FOREIGN_SUBSCRIBERS or spec.name.endswith('camera_info') or spec == topics.CLOCK
        assert heard or outside, f'nobody subscribes to {spec.name}'


def test_the_real_robot_has_no_simulated_node_and_no_simulated_time():
    g = graph('use_sim=false')
    names = {n.name for n in g.nodes}
    assert not names & {'simulated_robot', 'referee', 'scripted_operator'}
    assert {'camera_left', 'camera_front', 'camera_right', 'joy_node', 'robot_state_publisher'} <= names
    assert not any(n.parameters['use_sim_time'] for n in g.nodes)
    assert g.node('episode_keeper').parameters['scene_reset'] == 'manual'


def test_parameter_files_are_keyed_by_full_names(tmp_path):
    g = online(parse_arguments(['namespace=left_arm', f'run_dir={tmp_path}']))
    files = g.write_parameters(tmp_path / 'params')
    content = yaml.safe_load(files['operator'].read_text())
    assert set(content) == {'/left_arm/teleop', '/left_arm/arbiter', '/left_arm/episode_keeper'}
    assert content['/left_arm/arbiter']['ros__parameters']['use_sim_time'] is True
    assert set(yaml.safe_load(files['robot_state_publisher'].read_text())) == {'/robot_state_publisher'}


@pytest.mark.parametrize(
    ('pair', 'message'),
    [
        ('oprator=none', 'did you mean "operator"'),
        ('operator=skiled', 'did you mean "skilled"'),
        ('use_sim=maybe', 'expected true or false'),
        ('seed=x', 'expected int'),
        ('task', 'expected name=value'),
        ('robot_config=nobody', 'does not exist'),
        ('namespace=/', 'must not be empty'),
        ('device=tpu', 'expected cpu'),
    ],
)
def test_a_wrong_argument_is_named(pair, message):
    with pytest.raises(ConfigError, match=message):
        online(parse_arguments([pair]))


def test_the_scripted_operator_needs_the_simulation():
    with pytest.raises(ConfigError, match='use_sim=true'):
        online(parse_arguments(['use_sim=false', 'operator=skilled']))


def test_tuning_goes_over_the_file_and_a_misspelt_node_is_named():
    g = online(parse_arguments(['operator=skilled']), {'simulated_robot': {'camera_rate': 30.0}})
    assert g.node('simulated_robot').parameters['camera_rate'] == 30.0
    with pytest.raises(ConfigError, match='did you mean "trainer"'):
        online(parse_arguments([]), {'trianer': {}})


def test_a_tuning_file_that_is_none_is_named(tmp_path):
    path = tmp_path / 'sim.yaml'
    path.write_text('- 1\n')
    with pytest.raises(ConfigError, match='must map node names'):
        load_tuning(path)
    with pytest.raises(ConfigError, match='unusable'):
        load_tuning(tmp_path / 'absent.yaml')


def test_dry_run_prints_the_graph_and_starts_nothing(capsys, tmp_path):
    assert run(['up', 'online', '--dry-run', '--json', 'operator=late', f'run_dir={tmp_path / "run"}']) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {n['name'] for n in printed['nodes']} >= {'hardware', 'scripted_operator'}
    assert all(set(n) == {'name', 'package', 'executable', 'process', 'parameters'} for n in printed['nodes'])
    assert not (tmp_path / 'run').exists()


def test_a_named_error_is_one_line_and_exit_code_1(capsys):
    assert run(['up', 'online', '--dry-run', 'tusk=press_button']) == 1
    assert capsys.readouterr().err == 'error: unknown argument "tusk", did you mean "task"?\n'


@pytest.mark.parametrize('arguments', [['verify', 'RUN'], ['verify', '--json', 'RUN'], ['verify', 'RUN', '--json']])
def test_a_log_that_is_none_is_named_wherever_the_folder_stands(arguments, tmp_path, capsys):
    assert run(['replay', *(str(tmp_path) if a == 'RUN' else a for a in arguments)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_what_no_command_knows_is_a_usage_error(capsys):
    for arguments in (['up', 'online', '--fast'], ['graph', 'a=b'], ['replay', 'verify', 'a', 'b']):
        with pytest.raises(SystemExit) as stopped:
            run(arguments)
        assert stopped.value.code == 2
