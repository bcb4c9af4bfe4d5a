"""package.xml, setup.py and the pins agree with each other and with what the code imports."""

import re
import runpy
import tomllib
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points
from pathlib import Path

import setuptools

ROOT = Path(__file__).parents[1]
NEEDED = {
    'bora_msgs', 'rclpy', 'sensor_msgs', 'trajectory_msgs', 'diagnostic_msgs', 'visualization_msgs', 'tf2_msgs', 'cv_bridge', 'joy',
    'realsense2_camera', 'controller_manager', 'joint_trajectory_controller', 'joint_state_broadcaster', 'robot_state_publisher', 'rviz2',
    'python3-torch', 'python3-transformers-pip', 'python3-opencv', 'python3-numpy',
}  # fmt: skip


def manifest(path):
    return ElementTree.parse(ROOT / path).getroot()


def unpinned(requirements, constraints):
    """Requirements that a constraints file leaves open."""
    wanted = [line for line in (ROOT / requirements).read_text().splitlines() if line and line[0] not in '#-']
    pins = [line.split('==')[0] for line in (ROOT / constraints).read_text().splitlines() if '==' in line]
    normal = {name.lower().replace('_', '-') for name in pins}
    return [name for name in wanted if name.lower().replace('_', '-') not in normal]


def test_package_xml_declares_what_a_ros_machine_needs():
    declared = {element.text for element in manifest('package.xml').iter('exec_depend')}
    assert declared >= NEEDED


def test_versions_agree():
    versions = {manifest(p).findtext('version') for p in ('package.xml', 'bora_msgs/package.xml')}
    versions.add(re.search(r"version='([^']+)'", (ROOT / 'setup.py').read_text()).group(1))
    versions.add(tomllib.loads((ROOT / 'bora_msgs/pyproject.toml').read_text())['project']['version'])
    assert len(versions) == 1


def test_every_requirement_is_pinned():
    assert unpinned('requirements.txt', 'constraints/jazzy-wheels.txt') == []
    assert unpinned('requirements-wheels.txt', 'constraints/jazzy-wheels.txt') == []
    assert unpinned('requirements.txt', 'constraints/ros-numpy1.txt') == []


def test_node_entry_points_load(monkeypatch):
    captured = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: captured.update(kwargs))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    declared = dict(entry.split(' = ') for entry in captured['entry_points']['bora.nodes'])
    installed = {e.name: e for e in entry_points(group='bora.nodes')}
    assert set(declared) == set(installed)
    for name, entry in installed.items():
        assert entry.value == declared[name]
        assert entry.load().__name__.endswith('Node')
