"""From one vector of joint positions to the trajectories of ros2_control's joint_trajectory_controllers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bora_common.robot import RobotSpec

TICKS_AHEAD = 2  # a point is due this many control ticks after it is sent, so that the controller never runs dry between two


@dataclass(frozen=True)
class ControllerPoint:
    """One point for one controller."""

    controller: str
    joints: tuple[str, ...]
    positions: np.ndarray  # [n] rad
    velocities: np.ndarray  # [n] rad/s


class ControllerMap:
    """Which joints of the layout each controller drives."""

    def __init__(self, robot: RobotSpec):
        self._groups = [(g, robot.layout.indices(g.joints, f'controller {g.controller}')) for g in robot.groups]

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(group.controller for group, _ in self._groups)

    def split(self, positions: np.ndarray, velocities: np.ndarray) -> list[ControllerPoint]:
        """Points for every controller from `positions` and `velocities` [D]."""
        return [ControllerPoint(g.controller, g.joints, positions[where], velocities[where]) for g, where in self._groups]
