"""The house rules: which way imports may go, and what a core may know."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / 'src'
CORES = {'perception', 'policy', 'critic', 'hil', 'hw', 'replay', 'sim'}
MAY_IMPORT = {
    'common': set(),
    **{core: {'common'} for core in CORES},
    'trainer': {'common', 'policy', 'critic', 'replay'},
    'rollout': CORES | {'common', 'trainer'},
    'bringup': {'common', 'rollout', 'replay'},  # replay: to read and verify the logs of a run
}
ROS = {
    'rclpy', 'bora_msgs', 'sensor_msgs', 'std_msgs', 'trajectory_msgs', 'visualization_msgs', 'diagnostic_msgs',
    'geometry_msgs', 'tf2_msgs',
}  # fmt: skip
DECODES = {'bora_replay/steplog.py'}  # reads recorded messages back by the codecs of the live graph
FILES = sorted(SRC.rglob('*.py'))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, at any depth of its code."""
    return {name.split('.')[0] for name in modules(path)}


def modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return found


def package(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removeprefix('bora_')


def may_know_ros(path: Path) -> bool:
    name = path.relative_to(SRC).as_posix()
    if name.startswith('bora_common/'):
        return path.name == 'node.py' or path.name.startswith('codec')
    return path.name.endswith('_node.py') or package(path) == 'bringup'


def test_there_is_something_to_check():
    assert {package(p) for p in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_imports_never_point_back(path):
    bora = {name.removeprefix('bora_') for name in imported(path) if name.startswith('bora_') and name != 'bora_msgs'}
    assert bora <= MAY_IMPORT[package(path)] | {package(path)}


@pytest.mark.parametrize('path', [p for p in FILES if not may_know_ros(p)], ids=lambda p: p.relative_to(SRC).as_posix())
def test_cores_know_no_ros(path):
    names = imported(path)
    assert not names & ROS
    assert 'bora_common.node' not in modules(path)
    if package(path) != 'common' and path.relative_to(SRC).as_posix() not in DECODES:
        assert not any(name.startswith('bora_common.codec') for name in modules(path))


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_nothing_loads_pickles(path):
    text = path.read_text()
    assert 'pickle' not in imported(path)
    assert 'torch.load(' not in text and 'allow_pickle=True' not in text
