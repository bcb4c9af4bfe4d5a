"""Pressing with the index finger."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bora_common.kinematics import FINGER_RADIUS
from bora_sim.expert.base import HAND, Expert


class PressButtonExpert(Expert):
    """Points with the index finger, goes above the cap, presses straight down and stays; lifts and tries again when it slips."""

    task = 'press_button'
    TIP = 'hand_index_tip'
    POINTING = np.array([0.0, 0.9, 0.8, 0.6, 0.08, 0.10, 1.2, 1.3, 1.25, 1.35, 1.3, 1.4])
    HOVER = 0.032  # m above the cap
    ALIGNED, ASTRAY = 0.004, 0.011  # m aside of the believed cap: when to start down, when to give up
    OVERDRIVE = 0.006  # m below the end of the travel: sets the force

    def restart(self) -> None:
        super().restart()
        self._pressing = 0.0  # s since the way down began; 0 while above
        self._draw_bias(1.0)

    def _draw_bias(self, scale: float) -> None:
        self._bias = scale * self._misjudge()

    def near(self, command: np.ndarray, truth: Mapping[str, float]) -> bool:
        tip = self.place(command, self.TIP)
        return float(np.hypot(tip[0] - truth['cap_x'], tip[1] - truth['cap_y'])) < 0.03

    def _step(self, command: np.ndarray, truth: Mapping[str, float], dt: float) -> np.ndarray:
        tip = self.place(command, self.TIP)
        target, speed = self._waypoint(tip, command, truth, dt)
        return self._move(command, self.TIP, target, self.POINTING, speed, dt)

    def _waypoint(self, tip: np.ndarray, command: np.ndarray, truth: Mapping[str, float], dt: float) -> tuple[np.ndarray, float]:
        cap = np.array([truth['cap_x'], truth['cap_y']]) + self._bias
        touching = truth['cap_z'] + FINGER_RADIUS  # height of the tip's centre when it meets the cap at rest
        aside = float(np.linalg.norm(tip[:2] - cap))
        pointing = float(np.abs(command[HAND] - self.POINTING).max()) < 0.25
        if self._pressing:
            self._pressing += dt
            if aside > self.ASTRAY or (self._pressing > self.skill.patience and truth['held'] == 0.0):
                self._pressing = 0.0
                self._draw_bias(self.skill.relapse)
        elif aside < self.ALIGNED and pointing and tip[2] < touching + self.HOVER + 0.015:
            self._pressing = dt
        if self._pressing:
            return np.array([*cap, touching - truth['travel'] - self.OVERDRIVE]), self.skill.press_speed
        if tip[2] < touching + 0.6 * self.HOVER and aside > self.ALIGNED:  # below the cap's rim: rise before going sideways
            return np.array([*tip[:2], touching + self.HOVER]), self.skill.speed
        return np.array([*cap, touching + self.HOVER]), self.skill.speed
