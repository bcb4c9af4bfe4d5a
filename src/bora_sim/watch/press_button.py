"""Watching a press."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bora_common.kinematics import FINGER_RADIUS, fr3_hand12
from bora_sim.expert.base import gap_of
from bora_sim.watch.base import Path, Watch, seconds_to


class PressButtonWatch(Watch):
    """Judges by the index finger's way to the cap."""

    task = 'press_button'
    TIP = 'hand_index_tip'
    MARGIN = 0.8  # share of the cap's radius that a good press stays within
    PROGRESS = 0.008  # m nearer to the cap
    ASTRAY = 0.05  # m further from it than it has been

    def begin(self) -> None:
        self._path = Path()
        self._best = np.inf
        self._best_since = 0.0

    def trouble(self, t: float, elapsed: float, measured: np.ndarray, truth: Mapping[str, float]) -> str:
        tip = self._tip(measured, truth)
        velocity = self._path.add(t, tip)
        cap = np.array([truth['cap_x'], truth['cap_y'], truth['cap_z'] + FINGER_RADIUS])
        if truth['depth'] > 0.5 and truth['on_cap']:
            self._best_since = t
            return '' if elapsed < self.limit - 0.6 else 'time is running out'
        distance = float(np.linalg.norm(tip - cap))
        if distance < self._best - self.PROGRESS:
            self._best, self._best_since = distance, t
        if self._misses(tip, velocity, cap, truth['radius']):
            return 'the finger misses the cap'
        if distance > self._best + self.ASTRAY:
            return 'the hand goes astray'
        if t - self._best_since > self.skill.patience:
            return 'no progress'
        return 'time is running out' if elapsed > self.limit - self.skill.reserve else ''

    def _tip(self, measured: np.ndarray, truth: Mapping[str, float]) -> np.ndarray:
        return fr3_hand12().pose(measured, self.TIP)[:3, 3] + gap_of(truth)

    def _misses(self, tip: np.ndarray, velocity: np.ndarray, cap: np.ndarray, radius: float) -> bool:
        """True when the tip is at the cap's height beside it, or is on a straight way there."""
        ahead = seconds_to(tip[2] - cap[2], velocity)
        if ahead > self.skill.foresight:
            return False
        meeting = tip[:2] + velocity[:2] * ahead
        return float(np.linalg.norm(meeting - cap[:2])) > self.MARGIN * radius

    def well_placed(self, measured: np.ndarray, truth: Mapping[str, float]) -> bool:
        tip = self._tip(measured, truth)
        aside = float(np.hypot(tip[0] - truth['cap_x'], tip[1] - truth['cap_y']))
        return aside < 0.35 * truth['radius'] and 0.0 < tip[2] - FINGER_RADIUS - truth['cap_z'] < 0.03
