"""Grasping from above, four fingers opposite the thumb: over the object, down around it, close, and on with what the task asks.

Closing targets lie well inside the object: the force limit of the drives, not the position, sets the grip.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bora_common.kinematics import PALM
from bora_sim.expert.base import ASKEW, GOOD, HAND, PALM_DOWN, Expert, Skill, rotate

POOR_GRASP = Skill(
    speed=0.13, press_speed=0.06, acceleration=0.6, bias=(0.015, 0.040), heading=ASKEW, pauses=0.4, patience=1.4, grip=0.65, overshoot=0.02
)


def hand(thumb: tuple[float, float, float, float], finger: tuple[float, float]) -> np.ndarray:
    """Hand joints [12] with the four fingers alike, rad."""
    return np.array([*thumb, *finger * 4])


@dataclass(frozen=True)
class View:
    """What a step sees: the command in force, where it has the grasp point, and where the object wants it."""

    command: np.ndarray  # [19] rad
    at: np.ndarray  # [3] m, grasp point
    grasp: np.ndarray  # [3] m, where it should be to grasp, as believed
    yaw: float  # rad, of the palm to grasp
    truth: Mapping[str, float]

    @property
    def aside(self) -> float:
        """m, horizontally between grasp point and grasp."""
        return float(np.hypot(*(self.at - self.grasp)[:2]))


@dataclass(frozen=True)
class Motion:
    """Where the grasp point goes next, how fast, and how the hand is held."""

    target: np.ndarray  # [3] m
    speed: float  # m/s
    closed: bool = False
    yaw: float | None = None  # rad, of the palm; None: as for the grasp


class GraspExpert(Expert):
    """A grasp in phases `reach`, `descend`, `close`, and `carry`, which a task adds its own phases to.

    Each phase looks at the command in force and at the truth, so that a disturbance, a slip or a takeover leads back to where it helps.
    """

    poor = POOR_GRASP
    POINT = np.array([0.0, 0.010, 0.160])  # m in the palm: where the middle of the object is to be
    OPEN = hand((0.0, -0.25, 0.05, 0.05), (-0.18, 0.08))
    CLOSED = hand((0.0, 0.75, 0.35, 0.35), (0.55, 0.55))
    HOVER = 0.075  # m above the grasp
    ALIGNED, ASTRAY = 0.008, 0.030  # m aside of the believed object: when to start down, when to give up
    LOST = 0.05  # m between object and grasp point
    SETTLE = 0.30  # s of grip before the hand moves off
    LET_GO = 0.20  # s without one until the object is lost

    def __init__(self, skill: Skill = GOOD, seed: int = 0):
        super().__init__(skill, seed)
        self._firm = self.OPEN + skill.grip * (self.CLOSED - self.OPEN)

    def restart(self) -> None:
        super().restart()
        self._fresh = True  # where in the job the robot is has yet to be seen
        self._draw_bias(1.0)
        self._enter('reach')

    def _draw_bias(self, scale: float) -> None:
        self._bias = scale * np.array([*self._misjudge(), 0.0])
        self._past = self.skill.overshoot

    def _enter(self, phase: str) -> None:
        self._phase, self._since, self._grip, self._loose = phase, 0.0, 0.0, 0.0

    def _again(self) -> None:
        """The grasp has failed: look better, and go back to the start."""
        self._draw_bias(self.skill.relapse)
        self._enter('reach')

    @abc.abstractmethod
    def grasp(self, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        """(where the grasp point is to be [3], yaw of the palm) to grasp the object."""

    @abc.abstractmethod
    def _carry(self, view: View, dt: float) -> Motion:
        """The next motion with the object in the hand."""

    def _holds(self, view: View) -> bool:
        """Whether the object is in the hand."""
        inside = np.linalg.norm(view.grasp - self._bias - view.at) < self.LOST
        return bool(view.truth['thumb'] and view.truth['fingers'] and inside)

    def _gone(self, view: View, dt: float) -> bool:
        """Whether the object has left the hand; a contact that is lost for an instant is none."""
        self._loose = 0.0 if self._holds(view) else self._loose + dt
        return self._loose > self.LET_GO

    def near(self, command: np.ndarray, truth: Mapping[str, float]) -> bool:
        return float(np.linalg.norm(self.grasp(truth)[0] - self.place(command, self.POINT))) < 0.06

    def _step(self, command: np.ndarray, truth: Mapping[str, float], dt: float) -> np.ndarray:
        grasp, yaw = self.grasp(truth)
        view = View(command, self.place(command, self.POINT), grasp + self._bias, yaw, truth)
        if self._fresh and self._holds(view):
            self._enter('carry')
        self._fresh = False
        self._since += dt
        motion = getattr(self, f'_{self._phase}')(view, dt)
        palm = rotate(np.array([0.0, 0.0, yaw if motion.yaw is None else motion.yaw])) @ PALM_DOWN
        return self._move(command, self.POINT, motion.target, self._firm if motion.closed else self.OPEN, motion.speed, dt, palm)

    def _reach(self, view: View, dt: float) -> Motion:
        """To above the object, with the hand open; up first where it stands in the way."""
        above = view.grasp + np.array([0.0, 0.0, self.HOVER])
        if self._past and view.aside < 0.03:
            self._past = 0.0
        overshoot = self._past * (above - view.at) / max(float(np.linalg.norm(above - view.at)), 1e-9)
        opened = float(np.abs(view.command[HAND] - self.OPEN).max()) < 0.15
        low = view.at[2] < above[2] - 0.03
        if view.aside < self.ALIGNED and opened and abs(self._yaw_error(view)) < 0.10:
            self._enter('descend')
            return self._descend(view, dt)
        if low and (view.aside > self.ALIGNED or not opened):
            return Motion(np.array([*view.at[:2], above[2]]), self.skill.speed)
        return Motion(above + overshoot, self.skill.speed)

    def _descend(self, view: View, dt: float) -> Motion:
        """Straight down around it."""
        if view.aside > self.ASTRAY or self._since > 3.0:
            self._again()
            return Motion(view.at + np.array([0.0, 0.0, 0.02]), self.skill.speed)
        if view.at[2] < view.grasp[2] + 0.004:
            self._enter('close')
            self._shut_at = view.at
        return Motion(view.grasp, self.skill.press_speed * 1.5)

    def _close(self, view: View, dt: float) -> Motion:
        """Close where the hand came down, until it has held for a while."""
        self._grip = self._grip + dt if view.truth['thumb'] and view.truth['fingers'] else 0.0
        shut = float(np.abs(view.command[HAND] - self._firm).max()) < 0.05
        if shut and self._grip > self.SETTLE:
            self._enter('carry')
        elif self._since > self.skill.patience + 0.8:
            self._again()
        return Motion(self._shut_at, self.skill.press_speed, closed=True)

    def _yaw_error(self, view: View) -> float:
        across = self._kinematics.pose(view.command, PALM)[:3, 0]  # the finger row, index first
        return float((np.arctan2(across[0], -across[1]) - view.yaw + np.pi) % (2 * np.pi) - np.pi)


def half_turn(angle: float) -> float:
    """The same axis within a quarter turn of 0, rad: a hand may grasp from either side."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)
