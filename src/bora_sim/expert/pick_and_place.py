"""Package into the basket: grasp across the short side, over the rim, down into it, open, and up again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bora_sim.expert.grasp import GraspExpert, Motion, View, half_turn


class PickAndPlaceExpert(GraspExpert):
    """Carries at a height that clears the rim, lowers when the package is over the middle, and lets go inside."""

    task = 'pick_and_place'
    CLEAR = 0.035  # m between the package's lowest corner and the rim on the way
    OVER = 0.030  # m aside of the basket's middle from where it may be lowered
    INSIDE = 0.004  # m above the basket's floor where the package is let go

    def grasp(self, truth: Mapping[str, float]) -> tuple[np.ndarray, float]:
        return np.array([truth['x'], truth['y'], max(truth['z'], 0.024)]), half_turn(truth['yaw'] - np.pi / 2)

    def _carry(self, view: View, dt: float) -> Motion:
        truth = view.truth
        if truth['inside'] and truth['bottom'] < 0.5 * truth['basket_z']:
            self._enter('release')
        elif self._gone(view, dt):
            self._again()
        basket = np.array([truth['basket_x'], truth['basket_y']]) + self._bias[:2]
        shift = view.at[:2] - np.array([truth['x'], truth['y']])  # of the package in the hand
        aside = float(np.linalg.norm(basket + shift - view.at[:2]))
        hang = view.at[2] - truth['bottom']  # of the lowest corner below the grasp point
        high = truth['basket_z'] + hang + self.CLEAR
        if aside > self.OVER and view.at[2] < high - 0.03 and aside < 0.16:
            target = np.array([*view.at[:2], high])  # up first beside the basket
        elif aside > self.OVER:
            target = np.array([*(basket + shift), high])
        else:
            target = np.array([*(basket + shift), hang + 0.004 + self.INSIDE])
        if aside <= self.OVER and view.at[2] < target[2] + 0.004:
            self._enter('release')
        speed = self.skill.speed if aside > self.OVER else self.skill.press_speed * 1.5
        return Motion(target, speed, closed=True, yaw=truth['basket_yaw'])

    def _release(self, view: View, dt: float) -> Motion:
        """Open, then rise until the package lies free."""
        truth = view.truth
        if self._since > 1.6 and not truth['inside']:
            self._again()
        up = np.array([0.0, 0.0, 0.12 if self._since > 0.35 else 0.0])
        return Motion(view.at + up, self.skill.speed, yaw=truth['basket_yaw'])
