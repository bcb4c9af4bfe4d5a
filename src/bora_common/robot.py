"""Description of a robot and of a task, read from YAML: the one place where joints, limits, controllers and cameras are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bora_common.errors import ConfigError, nearest
from bora_common.types import JointLayout


@dataclass(frozen=True)
class JointGroup:
    """Joints that one joint_trajectory_controller drives."""

    name: str  # "arm" or "hand"
    controller: str
    joints: tuple[str, ...]


@dataclass(frozen=True)
class RobotSpec:
    """A robot. Arrays are in layout order [D]."""

    name: str
    groups: tuple[JointGroup, ...]
    layout: JointLayout
    lower: np.ndarray  # rad
    upper: np.ndarray  # rad
    velocity: np.ndarray  # rad/s
    acceleration: np.ndarray  # rad/s^2
    jerk: np.ndarray  # rad/s^3
    residual_bound: np.ndarray  # rad, b of method section 6
    position_velocity: str  # law that narrows the arm's velocity near its ends: "fr3" or "none"
    cameras: tuple[str, ...]
    workspace_low: np.ndarray  # [3] m, of the hand's palm in the robot's base frame
    workspace_high: np.ndarray  # [3] m
    table_clearance: float  # m, lowest allowed height of any finger tip above the base frame's z = 0
    tracking_error: np.ndarray  # rad, latched fault beyond it

    def group_indices(self, group: str) -> np.ndarray:
        """Layout indices of a group's joints."""
        for g in self.groups:
            if g.name == group:
                return self.layout.indices(g.joints, f'group {group}')
        raise ConfigError(f'robot {self.name}: no joint group "{group}", {nearest(group, [g.name for g in self.groups])}')


@dataclass(frozen=True)
class TaskSpec:
    """A task as the graph sees it (no physics)."""

    name: str
    instruction: str
    episode_steps: int  # of dt
    start_pose: np.ndarray  # [D] rad
    failure_ends: bool  # a failure mark is terminal


def _load(path: Path, what: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f'{what}: file {path} does not exist') from None
    except yaml.YAMLError as error:
        raise ConfigError(f'{what}: file {path} is not YAML: {error}') from None
    if not isinstance(data, dict):
        raise ConfigError(f'{what}: file {path} must hold a mapping')
    return data


def _take(data: Mapping[str, Any], path: Path, *keys: str) -> list[Any]:
    unknown = [k for k in data if k not in keys]
    if unknown:
        raise ConfigError(f'{path}: unknown key "{unknown[0]}", {nearest(str(unknown[0]), keys)}')
    missing = [k for k in keys if k not in data]
    if missing:
        raise ConfigError(f'{path}: key "{missing[0]}" is missing')
    return [data[k] for k in keys]


def _vector(value: Any, size: int, path: Path, key: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    array = np.full(size, float(array)) if array.ndim == 0 else array
    if array.shape != (size,) or not np.all(np.isfinite(array)):
        raise ConfigError(f'{path}: "{key}" must be one number or {size} finite numbers')
    return array


def load_robot(path: str | Path) -> RobotSpec:
    """Robot from a YAML file. Raises ConfigError naming file and key."""
    path = Path(path)
    name, groups, cameras, law, workspace = _take(_load(path, 'robot'), path, 'name', 'groups', 'cameras', 'position_velocity', 'workspace')
    fields = ('lower', 'upper', 'velocity', 'acceleration', 'jerk', 'residual_bound', 'tracking_error')
    columns: dict[str, list[np.ndarray]] = {f: [] for f in fields}
    parsed = []
    for group, body in groups.items():
        controller, joints, *values = _take(body, path, 'controller', 'joints', *fields)
        parsed.append(JointGroup(group, controller, tuple(joints)))
        for field, value in zip(fields, values, strict=True):
            columns[field].append(_vector(value, len(joints), path, f'{group}.{field}'))
    layout = JointLayout([j for g in parsed for j in g.joints])
    merged = {f: np.concatenate(c) for f, c in columns.items()}
    if np.any(merged['lower'] >= merged['upper']):
        joint = layout.names[int(np.argmax(merged['lower'] >= merged['upper']))]
        raise ConfigError(f'{path}: lower limit of "{joint}" is not below its upper limit')
    if law not in ('fr3', 'none'):
        raise ConfigError(f'{path}: position_velocity "{law}" is not valid, {nearest(str(law), ["fr3", "none"])}')
    low, high, clearance = _take(workspace, path, 'low', 'high', 'table_clearance')
    return RobotSpec(
        name=name, groups=tuple(parsed), layout=layout, position_velocity=law, cameras=tuple(cameras),
        workspace_low=_vector(low, 3, path, 'workspace.low'), workspace_high=_vector(high, 3, path, 'workspace.high'),
        table_clearance=float(clearance), **merged,
    )  # fmt: skip


def load_task(path: str | Path, robot: RobotSpec) -> TaskSpec:
    """Task from a YAML file; its start pose names every joint. Raises ConfigError naming file and key."""
    path = Path(path)
    name, instruction, steps, pose, failure_ends = _take(
        _load(path, 'task'), path, 'name', 'instruction', 'episode_steps', 'start_pose', 'failure_ends'
    )
    unknown = [j for j in pose if j not in robot.layout.names]
    missing = [j for j in robot.layout.names if j not in pose]
    if unknown or missing:
        raise ConfigError(f'{path}: start_pose: joint "{(unknown + missing)[0]}" is {"unknown" if unknown else "missing"}')
    start = _vector([pose[j] for j in robot.layout.names], len(robot.layout), path, 'start_pose')
    if np.any(start < robot.lower) or np.any(start > robot.upper):
        joint = robot.layout.names[int(np.argmax((start < robot.lower) | (start > robot.upper)))]
        raise ConfigError(f'{path}: start_pose of "{joint}" is outside its limits')
    return TaskSpec(name, instruction, int(steps), start, bool(failure_ends))
