"""Drawing a tissue: the sheet between thumb and fingers, a pinch near its top, and straight up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bora_sim.expert.grasp import POOR_GRASP, GraspExpert, Motion, View, half_turn, hand


class PullTissueExpert(GraspExpert):
    """Pinches and pulls; a sheet that slips is pinched again, a little lower."""

    task = 'pull_tissue'
    poor = replace(POOR_GRASP, bias=(0.004, 0.026), grip=0.94)
    POINT = np.array([0.0, 0.008, 0.163])
    OPEN = hand((0.0, -0.15, 0.10, 0.10), (-0.08, 0.10))
    CLOSED = hand((0.0, 0.34, 0.12, 0.12), (0.26, 0.30))  # tips meet: with nothing thick between, the drives' stiffness sets the grip
    HOVER = 0.06
    DEPTH = 0.017  # m below the sheet's top
    CLEARANCE = 0.024  # m between box and grasp point

    def grasp(self, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        return np.array([truth['x'], truth['y'], max(truth['z'] - self.DEPTH, truth['box_z'] + self.CLEARANCE)]), half_turn(truth['yaw'])

    def _carry(self, view: View, dt: float) -> Motion:
        if self._gone(view, dt):
            self._again()
        up = np.array([*view.at[:2], view.truth['box_z'] + 0.16])
        return Motion(up, 1.4 * self.skill.press_speed, closed=True)
