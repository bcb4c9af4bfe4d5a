"""Lifting the toy: across its long axis, a little below its middle, and straight up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bora_sim.expert.grasp import GraspExpert, Motion, View, half_turn


class PlushToyExpert(GraspExpert):
    """Grasps across the long axis and lifts."""

    task = 'plush_toy'
    HEIGHT = 0.16  # m, of the lifted toy

    def grasp(self, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        return np.array([truth['x'], truth['y'], max(truth['z'], 0.024)]), half_turn(truth['yaw'] - np.pi / 2)

    def _carry(self, view: View, dt: float) -> Motion:
        if self._gone(view, dt):
            self._again()
        return Motion(np.array([*view.at[:2], self.HEIGHT]), 0.7 * self.skill.speed, closed=True)
