"""Opening the lid: curled fingers go down before the overhang, in under it, and round the hinge with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bora_common.kinematics import FINGER_RADIUS
from bora_sim.expert.base import ASKEW, HAND, PALM_DOWN, Expert, Skill, rotate
from bora_sim.tasks.open_box import LID


class OpenBoxExpert(Expert):
    """Phases `reach`, `descend`, `hook` and `swing`, in the vertical plane across the hinge: (out, up) from the hinge, m."""

    task = 'open_box'
    poor = Skill(speed=0.13, press_speed=0.06, acceleration=0.6, bias=(0.006, 0.020), heading=ASKEW, pauses=0.4, patience=1.4)
    TIPS = ('hand_middle_tip', 'hand_ring_tip')
    HOOK = np.array([0.0, 1.3, 0.9, 0.6, *(0.15, 1.0) * 4])
    BELOW = LID + FINGER_RADIUS  # m, from the lid's middle plane to a touching finger's axis
    IN = 0.013  # m from the edge where the finger tips take hold
    BEFORE = 0.016  # m before the edge on the way down
    LEAD = 0.22  # rad that the fingers are ahead of the lid
    HOVER = 0.05

    def restart(self) -> None:
        super().restart()
        self._fresh = True
        self._draw_bias(1.0)
        self._enter('reach')

    def _draw_bias(self, scale: float) -> None:
        self._bias = scale * self._misjudge() * np.array([1.0, 0.3])

    def _enter(self, phase: str) -> None:
        self._phase, self._since, self._loose = phase, 0.0, 0.0

    def near(self, command: np.ndarray, truth: Mapping[str, float]) -> bool:
        tips = self.in_plane(self.place(command, self.TIPS), truth)
        return float(np.hypot(*(tips - self.hold(truth, truth['angle'])))) < 0.05

    def _step(self, command: np.ndarray, truth: Mapping[str, float], dt: float) -> np.ndarray:
        tips = self.place(command, self.TIPS)
        plane = self.in_plane(tips, truth)
        if self._fresh and self._under(plane, truth, 0.02):
            self._enter('swing')
        self._fresh = False
        self._since += dt
        self._loose = 0.0 if truth['hand'] else self._loose + dt
        goal, speed = getattr(self, f'_{self._phase}')(command, plane, truth)
        palm = rotate(np.array([0.0, 0.0, truth['yaw']])) @ PALM_DOWN
        return self._move(command, self.TIPS, self._from_plane(goal, truth), self.HOOK, speed, dt, palm)

    def in_plane(self, place: np.ndarray, truth: Mapping[str, float]) -> np.ndarray:
        """(out, up) of a place [3]."""
        x, y = place[0] - truth['hinge_x'], place[1] - truth['hinge_y']
        return np.array([x * math.cos(truth['yaw']) + y * math.sin(truth['yaw']), place[2] - truth['hinge_z']])

    def _from_plane(self, goal: np.ndarray, truth: Mapping[str, float]) -> np.ndarray:
        c, s, side = math.cos(truth['yaw']), math.sin(truth['yaw']), self._bias[1]
        return np.array([truth['hinge_x'] + goal[0] * c - side * s, truth['hinge_y'] + goal[0] * s + side * c, truth['hinge_z'] + goal[1]])

    def hold(self, truth: Mapping[str, float], angle: float, below: float = BELOW) -> np.ndarray:
        """(out, up) of finger tips that touch the lid's lower side at `angle`."""
        out = truth['length'] - self.IN
        return np.array([out * math.cos(angle) + below * math.sin(angle), out * math.sin(angle) - below * math.cos(angle)])

    def _under(self, plane: np.ndarray, truth: Mapping[str, float], margin: float) -> bool:
        """Whether finger tips are under the lid near its edge."""
        c, s = math.cos(truth['angle']), math.sin(truth['angle'])
        along, above = plane[0] * c + plane[1] * s, plane[1] * c - plane[0] * s
        return truth['length'] - 0.05 < along < truth['length'] - 0.002 and -self.BELOW - margin < above < 0.0

    def before(self, truth: Mapping[str, float]) -> np.ndarray:
        """(out, up) just before the edge, lower than the lid."""
        angle = truth['angle']
        out = truth['length'] * math.cos(angle) + self.BEFORE * (1.0 if angle < 1.0 else 1.8)
        return np.array([out + self._bias[0], self.hold(truth, angle)[1] - 0.005])

    def _reach(self, command: np.ndarray, plane: np.ndarray, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        before = self.before(truth)
        top = truth['length'] * math.sin(truth['angle']) + self.HOVER
        aside = abs(plane[0] - before[0])
        curled = float(np.abs(command[HAND] - self.HOOK).max()) < 0.15
        if aside < 0.006 and curled and self._aligned(command, truth):
            self._enter('descend')
        elif plane[1] < top - 0.02 and (plane[0] < before[0] - 0.006 or not curled):
            return np.array([plane[0], top]), self.skill.speed
        return np.array([before[0], top]), self.skill.speed

    def _descend(self, command: np.ndarray, plane: np.ndarray, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        before = self.before(truth)
        if abs(plane[0] - before[0]) > 0.025:
            self._enter('reach')
        elif plane[1] < before[1] + 0.003 or self._since > 3.0:
            self._enter('hook')
        return before, 1.5 * self.skill.press_speed

    def _hook(self, command: np.ndarray, plane: np.ndarray, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        goal = self.hold(truth, truth['angle'], self.BELOW + 0.004) + np.array([self._bias[0], 0.0])
        if float(np.hypot(*(plane - goal))) < 0.004 or self._since > 1.0:
            self._enter('swing')
        return goal, 1.2 * self.skill.press_speed

    def _swing(self, command: np.ndarray, plane: np.ndarray, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        angle = truth['angle']
        slipped = math.atan2(plane[1] + self.BELOW, plane[0]) > angle + self.LEAD + 0.3 or self._loose > 0.6 * self.skill.patience
        if slipped and angle < truth['full'] - 0.1:
            self._draw_bias(self.skill.relapse)
            self._enter('reach')
        return self.hold(truth, min(angle + self.LEAD, truth['full'] + 0.05)) + np.array([self._bias[0], 0.0]), 2.0 * self.skill.press_speed

    def _aligned(self, command: np.ndarray, truth: Mapping[str, float]) -> bool:
        side = self.place(command, self.TIPS) - np.array([truth['hinge_x'], truth['hinge_y'], 0.0])
        across = side[1] * math.cos(truth['yaw']) - side[0] * math.sin(truth['yaw'])
        row = self.place(command, 'hand_index_tip') - self.place(command, 'hand_little_tip')
        turned = math.atan2(-row[0], row[1]) - truth['yaw']
        return abs(across - self._bias[1]) < 0.012 and abs(math.remainder(turned, 2 * math.pi)) < 0.1
