"""Scripted experts: they see the truth of the scene and move the robot through joint targets, from whatever state it is in.

An expert works in command space: it starts from the targets in force, moves a way-point of the finger tip by a limited amount, and turns
it into arm joints with damped least squares on the kinematics. Because each step starts from the present command, the same expert
demonstrates, recovers under disturbance, and takes over from a failing policy.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bora_common.kinematics import LOWER, PALM, UPPER, fr3_hand12, rotation_error
from bora_sim.tasks import make_task
from bora_sim.tasks.base import STEP_S

ARM = np.arange(7)
HAND = np.arange(7, 19)
HAND_RATE = 0.12 / STEP_S  # rad/s
PALM_DOWN = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # thumb towards the robot's base

Point = str | tuple[str, ...] | np.ndarray  # a frame, the middle of several, or a point [3] fixed to the palm


@dataclass(frozen=True)
class Skill:
    """How well an expert moves. Distances in m, times in s."""

    speed: float = 0.18  # m/s, of the way-point in free space
    press_speed: float = 0.08  # m/s, on the way down
    acceleration: float = 0.9  # m/s^2
    turn: float = 0.6  # rad/s
    bias: tuple[float, float] = (0.0, 0.0)  # range of the error in where it believes the object is
    heading: tuple[float, float] = (-math.pi, math.pi)  # rad, range of that error's direction: who looks from one side errs to one side
    relapse: float = 0.4  # share of that error which is left when it tries again
    pauses: float = 0.0  # probability of a pause a second
    patience: float = 0.8  # s of trying without effect before it tries again
    grip: float = 1.0  # share of a firm grip
    overshoot: float = 0.0  # m past the way-point before it comes back


GOOD = Skill()
ASKEW = (0.3, 1.3)  # rad
POOR = Skill(speed=0.13, press_speed=0.06, acceleration=0.6, bias=(0.006, 0.019), heading=ASKEW, pauses=0.5, patience=1.3)


class Expert(abc.ABC):
    """Base of the experts: the limited motion of a point of the hand in command space."""

    task: ClassVar[str]
    poor: ClassVar[Skill] = POOR

    def __init__(self, skill: Skill = GOOD, seed: int = 0):
        self.skill = skill
        self._posture = make_task(self.task).start_pose[ARM]
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Forget the episode."""
        self._rng = np.random.default_rng(seed)
        self._kinematics = fr3_hand12()
        self._pause = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin again from the present state of the robot (a takeover): nothing is known of an earlier motion."""
        self._velocity = np.zeros(3)
        self._gap = np.zeros(3)

    def step(self, command: np.ndarray, truth: Mapping[str, float], dt: float = STEP_S) -> np.ndarray:
        """Joint targets [19] due `dt` s from now, from the targets [19] in force and the task's truth."""
        command = np.asarray(command, dtype=np.float64)
        self.look(truth)
        if self._pausing(dt):
            self._velocity[:] = 0
            return command.copy()
        return self._step(command, truth, dt)

    @abc.abstractmethod
    def _step(self, command: np.ndarray, truth: Mapping[str, float], dt: float) -> np.ndarray:
        """The task's part of `step`."""

    def _misjudge(self) -> np.ndarray:
        """A fresh error [2] (m) in where it believes the object is."""
        angle, size = self._rng.uniform(*self.skill.heading), self._rng.uniform(*self.skill.bias)
        return size * np.array([math.cos(angle), math.sin(angle)])

    def near(self, command: np.ndarray, truth: Mapping[str, float]) -> bool:
        """True where precision matters, so that a disturbance must be small."""
        return False

    def _pausing(self, dt: float) -> bool:
        if self._pause <= 0 and self._rng.random() < self.skill.pauses * dt:
            self._pause = self._rng.uniform(0.15, 0.6)
        self._pause -= dt
        return self._pause > 0

    def _slew_hand(self, command: np.ndarray, hand: np.ndarray, dt: float) -> np.ndarray:
        limit = HAND_RATE * dt
        return np.clip(command[HAND] + np.clip(hand - command[HAND], -limit, limit), LOWER[HAND], UPPER[HAND])

    def look(self, truth: Mapping[str, float]) -> None:
        """See where the hand really is; `place` speaks of that from now on."""
        self._gap = gap_of(truth)

    def place(self, q: np.ndarray, point: Point) -> np.ndarray:
        """Where a point of the hand is [3] (m), as a person sees it."""
        if isinstance(point, tuple):
            return np.mean([self.place(q, frame) for frame in point], axis=0)
        if isinstance(point, str):
            return self._kinematics.pose(q, point)[:3, 3] + self._gap
        palm = self._kinematics.pose(q, PALM)
        return palm[:3, :3] @ point + palm[:3, 3] + self._gap

    def _move(
        self, command: np.ndarray, point: Point, target: np.ndarray, hand: np.ndarray, speed: float, dt: float,
        palm_goal: np.ndarray = PALM_DOWN,
    ) -> np.ndarray:  # fmt: skip
        """Next joint targets: `point` goes towards `target` [3] (m) at up to `speed`, palm and hand to `palm_goal` [3,3], `hand` [12]."""
        q = command.copy()
        at = self.place(command, point)
        offset = target - at
        distance = float(np.linalg.norm(offset))
        wanted = offset / max(distance, 1e-9) * min(speed, 6.0 * distance)  # slows down over the last centimetres
        change = wanted - self._velocity
        size = float(np.linalg.norm(change))
        self._velocity = self._velocity + change * min(1.0, self.skill.acceleration * dt / max(size, 1e-9))
        q[HAND] = self._slew_hand(command, hand, dt)
        palm = self._kinematics.pose(q, PALM)
        turn = rotation_error(palm_goal, palm[:3, :3])
        angle = float(np.linalg.norm(turn))
        rotation = rotate(turn * min(2.0 * dt, self.skill.turn * dt / max(angle, 1e-9))) @ palm[:3, :3]
        in_palm = palm[:3, :3].T @ (self.place(q, point) - self._gap - palm[:3, 3])
        goal = np.eye(4)
        goal[:3, :3] = rotation
        goal[:3, 3] = at + self._velocity * dt - self._gap - rotation @ in_palm
        posture = np.r_[self._posture, hand]
        return self._kinematics.solve(q, PALM, goal, joints=ARM, posture=posture, iterations=3)


def gap_of(truth: Mapping[str, float]) -> np.ndarray:
    """Offset [3] (m) from where the encoders put the hand to where it is seen."""
    return np.array([truth.get(key, 0.0) for key in ('gap_x', 'gap_y', 'gap_z')])


def rotate(vector: np.ndarray) -> np.ndarray:
    """Rotation [3,3] of a rotation vector [3] (rad)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)
