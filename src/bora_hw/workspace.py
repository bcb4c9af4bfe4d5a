"""Where the hand may be: a box for the palm and a lowest height for the finger tips, in the robot's base frame."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bora_common.errors import ConfigError
from bora_common.kinematics import PALM, TIPS
from bora_common.robot import RobotSpec

_DAMPING = 0.02
_ITERATIONS = 4
_LARGEST_STEP = 0.1  # rad, of one joint in one iteration
_MARGIN = 0.003  # m inside the faces: where a projected posture comes to lie, so that curved ways along a face stay inside
_LEVER = 1.3  # m, farther than any tip is from any axis of the arm
_HAND_LEVER = 0.2  # m, farther than any tip is from any axis of the hand


class Frames(Protocol):
    """What the guard needs of a robot's kinematics."""

    joints: tuple[str, ...]

    def forward(self, q: np.ndarray) -> dict[str, np.ndarray]: ...

    def jacobian(self, q: np.ndarray, frame: str) -> tuple[np.ndarray, np.ndarray]: ...


class WorkspaceGuard:
    """Depth of a posture outside the workspace, and the nearest posture inside."""

    def __init__(self, robot: RobotSpec, kinematics: Frames):
        if tuple(kinematics.joints) != robot.layout.names:
            raise ConfigError(f'robot {robot.name}: no kinematics for its joints {list(robot.layout.names)}, expected {kinematics.joints}')
        self._kinematics = kinematics
        self._low, self._high, self._floor = robot.workspace_low, robot.workspace_high, robot.table_clearance
        self._arm = robot.group_indices('arm')
        self._lever = np.full(len(robot.layout), _HAND_LEVER)
        self._lever[self._arm] = _LEVER
        self._seen: tuple[np.ndarray, float] | None = None  # a posture and its depth

    def depth(self, positions: np.ndarray) -> float:
        """How far outside the workspace the posture [D] is, m; negative inside."""
        frames = self._kinematics.forward(positions)
        palm = frames[PALM][:3, 3]
        box = max((self._low - palm).max(), (palm - self._high).max())
        return float(max(box, self._floor - min(frames[tip][2, 3] for tip in TIPS)))

    def outside(self, positions: np.ndarray) -> float:
        """How far outside the workspace the posture [D] is, m; 0 inside."""
        return max(self._bounded_depth(positions, 0.0), 0.0)

    def violated(self, positions: np.ndarray) -> bool:
        """True for a posture [D] outside or within the margin that requests keep from the faces."""
        return self._bounded_depth(positions, -_MARGIN) > -_MARGIN

    def _bounded_depth(self, positions: np.ndarray, limit: float) -> float:
        """Depth of the posture, or just some number below `limit` where it is certain to be less than that.

        No point of the robot moves further than the joints' turns times their levers, so that a posture close enough to one that was
        well inside needs no kinematics.
        """
        if self._seen is not None:
            posture, depth = self._seen
            bound = depth + float(self._lever @ np.abs(positions - posture))
            if bound < limit:
                return bound
        depth = self.depth(positions)
        self._seen = (np.array(positions), depth)
        return depth

    def project(self, positions: np.ndarray) -> np.ndarray:
        """A posture [D] near `positions` that is well inside, found by moving the arm out of each violated face; the best effort."""
        q = np.array(positions, dtype=np.float64)
        for _ in range(_ITERATIONS):
            pushes = self._pushes(q)
            if not pushes:
                break
            rows = np.stack([row for row, _ in pushes])
            push = np.array([depth for _, depth in pushes])
            if np.abs(push).max() < _MARGIN / 10:
                break
            step = rows.T @ np.linalg.solve(rows @ rows.T + _DAMPING**2 * np.eye(len(push)), push)
            q[self._arm] += np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        return q

    def _pushes(self, q: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """(Jacobian row of the arm's joints, distance to go) of every violated face of the box and of the lowest tip."""
        frames = self._kinematics.forward(q)
        palm = frames[PALM][:3, 3]
        wanted = np.clip(palm, self._low + _MARGIN, self._high - _MARGIN) - palm
        pushes = []
        if wanted.any():
            jacobian = self._kinematics.jacobian(q, PALM)[1]
            pushes += [(jacobian[axis, self._arm], wanted[axis]) for axis in np.flatnonzero(wanted)]
        tip = min(TIPS, key=lambda name: frames[name][2, 3])
        below = self._floor + _MARGIN - frames[tip][2, 3]
        if below > 0:
            pushes.append((self._kinematics.jacobian(q, tip)[1][2, self._arm], below))
        return pushes
