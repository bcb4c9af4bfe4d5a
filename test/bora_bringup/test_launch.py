"""launch/online.launch.py with small stand-ins for launch and launch_ros: the same processes and parameters as `bora up --dry-run`."""

import importlib.util
import json
import sys
from types import ModuleType

import pytest
import yaml

from bora_bringup.cli import run
from bora_common.paths import share

FILE = share() / 'launch' / 'online.launch.py'


class Action:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


class Description(Action):
    @property
    def entities(self):
        return self.args[0]


class Configuration(Action):
    def perform(self, context):
        return context[self.args[0]]


def _module(name, **members):
    module = ModuleType(name)
    module.__dict__.update(members)
    return module


@pytest.fixture
def launch_file(monkeypatch):
    kinds = {
        n: type(n, (Action,), {})
        for n in ('DeclareLaunchArgument', 'OpaqueFunction', 'SetEnvironmentVariable', 'Shutdown', 'UnsetEnvironmentVariable', 'Node')
    }
    node = kinds.pop('Node')
    for module in (
        _module('launch', LaunchDescription=Description),
        _module('launch.actions', **kinds),
        _module('launch.substitutions', LaunchConfiguration=Configuration),
        _module('launch_ros'),
        _module('launch_ros.actions', Node=node),
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location('online_launch', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(launch_file, **arguments):
    """(declared arguments with defaults, actions of the graph)."""
    entities = launch_file.generate_launch_description().entities
    declared = {e.args[0]: e.kwargs['default_value'] for e in entities[:-1]}
    return declared, entities[-1].kwargs['function']({**declared, **arguments})


def nodes_of(actions):
    return [a.kwargs for a in actions if type(a).__name__ == 'Node']


REAL = {'use_sim': 'false', 'device': 'cuda', 'namespace': 'left'}


@pytest.mark.parametrize('arguments', [{}, {'operator': 'skilled', 'rviz': 'true'}, REAL])
def test_it_starts_what_the_dry_run_says(launch_file, arguments, tmp_path, capsys):
    arguments = {**arguments, 'run_dir': str(tmp_path)}
    _, actions = started(launch_file, **arguments)
    assert run(['up', 'online', '--dry-run', '--json', *(f'{k}={v}' for k, v in arguments.items())]) == 0
    expected = {n['name']: n for n in json.loads(capsys.readouterr().out)['nodes']}
    found = {}
    for node in nodes_of(actions):
        (file,) = node['parameters']
        for full, body in yaml.safe_load(open(file).read()).items():
            found[full.rsplit('/', 1)[1]] = (node, full, body['ros__parameters'])
    assert set(found) == set(expected)
    for name, (node, full, parameters) in found.items():
        assert parameters == expected[name]['parameters']
        assert (node['package'], node['executable']) == (expected[name]['package'], expected[name]['executable'])
        assert full == f'{node["namespace"].rstrip("/")}/{name}'
        if node['package'] == 'bora_bringup':
            assert name in node['arguments'] and 'name' not in node
        else:
            assert node['name'] == name


def test_arguments_and_their_defaults_are_those_of_the_graph(launch_file):
    declared, _ = started(launch_file, use_sim='true', run_dir='/tmp/bora-test-launch')
    wanted = {'use_sim', 'robot_config', 'task', 'device', 'rviz', 'record', 'run_dir', 'operator', 'namespace'}
    assert wanted <= set(declared) and declared['use_sim'] == 'true' and declared['rviz'] == 'false'


def test_the_vital_end_the_launch_and_the_others_come_back(launch_file, tmp_path):
    _, actions = started(launch_file, run_dir=str(tmp_path))
    by_first = {n['arguments'][0]: n for n in nodes_of(actions) if n['arguments']}
    assert by_first['hardware']['on_exit'].kwargs['reason'] == 'hardware ended' and 'respawn' not in by_first['hardware']
    assert by_first['trainer']['respawn'] and by_first['trainer']['prefix'] == 'nice -n 10' and 'on_exit' not in by_first['trainer']


def test_every_node_gets_the_environment_of_the_graph(launch_file, tmp_path):
    _, actions = started(launch_file, run_dir=str(tmp_path))
    first_node = next(i for i, a in enumerate(actions) if type(a).__name__ == 'Node')
    variables = {a.args[0]: a.args[1] for a in actions[:first_node] if type(a).__name__ == 'SetEnvironmentVariable'}
    assert variables['FASTRTPS_DEFAULT_PROFILES_FILE'].endswith('fastdds.xml') and 'MALLOC_MMAP_THRESHOLD_' in variables
    removed = [a.args[0] for a in actions[:first_node] if type(a).__name__ == 'UnsetEnvironmentVariable']
    assert removed == ['ROS_AUTOMATIC_DISCOVERY_RANGE']
