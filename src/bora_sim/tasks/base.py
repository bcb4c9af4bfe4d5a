"""What a task is to the simulator: objects to add to the workplace, a random pose, and an outcome read from the physics alone."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_common.kinematics import LOWER, PALM, UPPER, fr3_hand12
from bora_sim import mjcf

STEP_S = 1 / 15  # s, one step of an episode
Area = tuple[tuple[float, float], tuple[float, float]]  # m: (lowest x, lowest y), (highest x, highest y)


@dataclass(frozen=True)
class Instance:
    """One set of objects: sizes, colours, stiffnesses, and what else differs with them. `unseen` ones are for evaluation only."""

    name: str
    values: Mapping[str, object] = field(default_factory=dict)
    look: mjcf.Look = mjcf.DAY
    area: Area | None = None  # where the object may be, if not where the task says
    turn: float | None = None  # rad, half-width of its yaw, if not the task's
    occluding: tuple[float, float, float] | None = None  # m from the object: the hand starts there, between a camera and the object

    def __getitem__(self, key: str):
        return self.values[key]

    def number(self, key: str) -> float:
        """A value as a float."""
        return float(self.values[key])  # type: ignore[arg-type]


@dataclass
class Outcome:
    """Progress of the running episode. `success` and `failure` latch; `memory` holds whatever a task counts."""

    success: bool = False
    failure: bool = False
    values: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def copy(self) -> Outcome:
        return Outcome(self.success, self.failure, dict(self.values), dict(self.memory))

    def hold(self, condition: bool, elapsed: float) -> float:
        """Seconds that `condition` has held without a break; `elapsed` s have passed since the last call."""
        self.memory['held'] = self.memory.get('held', 0.0) + elapsed if condition else 0.0
        return self.memory['held']


class Task(abc.ABC):
    """A task. Subclasses add objects, place them and judge the outcome; they keep no state of an episode."""

    name: ClassVar[str]
    instruction: ClassVar[str]
    episode_steps: ClassVar[int]  # of STEP_S
    failure_ends: ClassVar[bool]  # a failure is terminal (the object is out of reach)
    standard: ClassVar[tuple[Instance, ...]]
    unseen: ClassVar[tuple[Instance, ...]]
    area: ClassVar[Area] = ((0.44, -0.12), (0.60, 0.12))
    turn: ClassVar[float] = 0.6  # rad, half-width of the object's yaw
    start_pose: ClassVar[np.ndarray] = np.array([0.0, -0.1135, 0.0, -2.4881, 0.0, 2.3743, 0.7854, 0.0, 0.3, 0.3, 0.3, *(0.25, 0.35) * 4])
    start_jitter_arm: ClassVar[float] = 0.04  # rad, half-width: no reset ends exactly where the last one did
    start_jitter_hand: ClassVar[float] = 0.06

    @abc.abstractmethod
    def add_objects(self, root: ET.Element, world: ET.Element, instance: Instance) -> None:
        """Add this task's bodies to the world."""

    @abc.abstractmethod
    def place(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, rng: np.random.Generator) -> np.ndarray:
        """Put the objects at a random pose; where the object is [3]. Everything random about the scene comes from `rng`."""

    @abc.abstractmethod
    def judge(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, outcome: Outcome, elapsed: float) -> None:
        """Update `outcome` from the physics state, `elapsed` s after the last call; `values` are the truth that a simulated person sees."""

    def act(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance) -> None:  # noqa: B027
        """What the objects do by themselves and the engine has no element for, such as tearing free."""

    def xml(self, instance: Instance) -> str:
        """MJCF of the whole scene."""
        root, world = mjcf.workplace(instance.look)
        self.add_objects(root, world, instance)
        return mjcf.to_xml(root)

    def sample_pose(self, instance: Instance, rng: np.random.Generator) -> tuple[float, float, float]:
        """Random (x, y, yaw) of the object."""
        x, y = rng.uniform(*(np.array(corner) for corner in instance.area or self.area))
        turn = self.turn if instance.turn is None else instance.turn
        return float(x), float(y), float(rng.uniform(-turn, turn))

    def sample_start(self, rng: np.random.Generator, instance: Instance | None = None, at: np.ndarray | None = None) -> np.ndarray:
        """A start pose [19] near `start_pose`, or with the hand before the object `at` [3] where the instance wants it hidden."""
        width = np.r_[np.full(7, self.start_jitter_arm), np.full(12, self.start_jitter_hand)]
        start = self.start_pose
        if instance is not None and instance.occluding is not None and at is not None:
            start = self._before(at + np.array(instance.occluding))
            width = width * 0.3
        return np.clip(start + rng.uniform(-width, width), LOWER, UPPER)

    def _before(self, place: np.ndarray) -> np.ndarray:
        """The start pose with the middle finger's tip at `place` [3]."""
        robot, tip = fr3_hand12(), 'hand_middle_tip'
        goal = robot.pose(self.start_pose, PALM)
        goal[:3, 3] += place - robot.pose(self.start_pose, tip)[:3, 3]
        return robot.solve(self.start_pose, PALM, goal, joints=range(7), posture=self.start_pose, iterations=60)


def yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """Unit quaternion (w, x, y, z) of a turn about z."""
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def digest(task: Task) -> str:
    """Names the object sets of a task: two builds that agree on it evaluate on the same ones."""
    content = {
        'sets': {kind: [dataclasses.asdict(instance) for instance in getattr(task, kind)] for kind in ('standard', 'unseen')},
        'area': task.area,
        'turn': task.turn,
        'start': task.start_pose.tolist(),
        'steps': task.episode_steps,
        'instruction': task.instruction,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
