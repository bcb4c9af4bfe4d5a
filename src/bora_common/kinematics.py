"""Kinematics of `fr3_hand12`: one table of links, and forward and inverse kinematics computed from it with numpy alone.

The arm is a Franka FR3 (modified Denavit-Hartenberg rows of the manufacturer). On its flange sits a hand of twelve actuated joints: four
fingers of two flexes and, opposite the finger row, a thumb of one abduction and three flexes. The palm's z axis points along the stretched
fingers, x along the row (index first), y towards the thumb; a finger flexes towards +y, the thumb towards -y, for positive joint angles.

The table feeds everything that knows the robot's shape: this module, the URDF (`bora_common.urdf`) and the simulated robot (MJCF).
Units: m, rad, kg, N, N m. Frames are 4x4 homogeneous transforms of a link in the base frame `fr3_link0`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bora_common.errors import ConfigError, nearest

PI = math.pi

ARM_JOINTS = tuple(f'fr3_joint{i}' for i in range(1, 8))
FINGERS = ('thumb', 'index', 'middle', 'ring', 'little')
HAND_JOINTS = tuple(f'hand_{finger}_joint{i}' for finger in FINGERS for i in range(1, 5 if finger == 'thumb' else 3))
JOINTS = ARM_JOINTS + HAND_JOINTS  # layout order, D = 19
TIPS = tuple(f'hand_{finger}_tip' for finger in FINGERS)
BASE, FLANGE, PALM = 'fr3_link0', 'fr3_link8', 'hand_palm'

FINGER_RADIUS = 0.009
FINGER_LINKS = (0.042, 0.034)
FINGER_X = (-0.033, -0.011, 0.011, 0.033)
THUMB_LINKS = (0.030, 0.026, 0.022)


@dataclass(frozen=True)
class Shape:
    """One primitive of a link. `size`: box half-lengths [3]; cylinder and capsule (radius, half-length) along z; sphere (radius,)."""

    kind: str
    size: tuple[float, ...]
    xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)
    colour: str = 'white'
    collides: bool = False


@dataclass(frozen=True)
class Link:
    """One row of the table: a link and the joint (or, without `joint`, the fixed transform) that ties it to its parent."""

    name: str
    parent: str | None
    joint: str | None = None
    xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    lower: float = 0.0
    upper: float = 0.0
    velocity: float = 0.0  # rad/s
    effort: float = 0.0  # N m
    mass: float = 0.0  # kg; 0: a frame without a body
    com: tuple[float, float, float] = (0.0, 0.0, 0.0)
    inertia: tuple[float, float, float] = (0.0, 0.0, 0.0)  # kg m^2, principal, about com, along the link's axes
    shapes: tuple[Shape, ...] = ()


COLOURS = {
    'white': (0.93, 0.94, 0.95, 1.0),
    'silver': (0.62, 0.65, 0.69, 1.0),
    'graphite': (0.20, 0.22, 0.25, 1.0),
    'steel': (0.36, 0.40, 0.45, 1.0),
    'rubber': (0.13, 0.42, 0.62, 1.0),
}


def _disc(z: float = 0.0) -> Shape:
    """Dark ring around a joint axis (z), as the FR3's joints have."""
    return Shape('cylinder', (0.0615, 0.008), (0.0, 0.0, z), colour='silver')


def _arm_rows() -> list[Link]:
    cap = Shape
    rows = [
        Link(
            BASE, None, mass=2.9, com=(-0.04, 0.0, 0.06), inertia=(0.017, 0.021, 0.016),
            shapes=(
                cap('cylinder', (0.072, 0.07), (0.0, 0.0, 0.07)),
                cap('box', (0.075, 0.055, 0.035), (-0.085, 0.0, 0.035)),
                cap('cylinder', (0.095, 0.008), (0.0, 0.0, 0.008), colour='graphite'),
            ),
        ),
    ]  # fmt: skip
    # joint, origin xyz, origin rpy, lower, upper, velocity, effort, mass, com, inertia, shapes
    table = [
        ((0.0, 0.0, 0.333), (0.0, 0.0, 0.0), -2.7501, 2.7501, 2.62, 87.0, 2.93, (0.0, -0.02, -0.06), (0.024, 0.022, 0.007),
         (cap('capsule', (0.060, 0.075), (0.0, 0.0, -0.105)), cap('capsule', (0.060, 0.045), (0.0, 0.0, 0.0), (PI / 2, 0.0, 0.0)),
          _disc(-0.185))),
        ((0.0, 0.0, 0.0), (-PI / 2, 0.0, 0.0), -1.7918, 1.7918, 2.62, 87.0, 2.94, (0.0, -0.06, 0.02), (0.024, 0.007, 0.022),
         (cap('capsule', (0.060, 0.045)), cap('capsule', (0.058, 0.055), (0.0, -0.09, 0.0), (PI / 2, 0.0, 0.0)))),
        ((0.0, -0.316, 0.0), (PI / 2, 0.0, 0.0), -2.9065, 2.9065, 2.62, 87.0, 2.25, (0.03, 0.01, -0.05), (0.012, 0.011, 0.006),
         (cap('capsule', (0.057, 0.045), (0.0, 0.0, -0.09)), cap('capsule', (0.052, 0.04), (0.05, 0.0, -0.01), (0.0, PI / 2, 0.0)),
          cap('capsule', (0.052, 0.035), (0.0825, 0.0, 0.0), (PI / 2, 0.0, 0.0)), _disc(-0.15))),
        ((0.0825, 0.0, 0.0), (PI / 2, 0.0, 0.0), -3.0481, -0.1458, 2.62, 87.0, 2.62, (-0.03, 0.05, 0.0), (0.013, 0.007, 0.014),
         (cap('capsule', (0.053, 0.04)), cap('capsule', (0.050, 0.05), (-0.05, 0.03, 0.0), (PI / 2, 0.0, -0.8)),
          cap('capsule', (0.050, 0.025), (-0.0825, 0.10, 0.0), (PI / 2, 0.0, 0.0)))),
        ((-0.0825, 0.384, 0.0), (-PI / 2, 0.0, 0.0), -2.8101, 2.8101, 5.26, 12.0, 2.33, (0.0, 0.03, -0.12), (0.030, 0.027, 0.005),
         (cap('capsule', (0.055, 0.05), (0.0, 0.0, -0.22)), cap('capsule', (0.046, 0.075), (0.0, 0.065, -0.12), (0.25, 0.0, 0.0)),
          cap('capsule', (0.052, 0.035), (0.0, 0.035, 0.0), (PI / 2, 0.0, 0.0)), _disc(-0.295))),
        ((0.0, 0.0, 0.0), (PI / 2, 0.0, 0.0), 0.5409, 4.5205, 4.18, 12.0, 1.82, (0.05, -0.01, -0.01), (0.004, 0.007, 0.008),
         (cap('capsule', (0.050, 0.045)), cap('capsule', (0.045, 0.03), (0.05, 0.0, 0.0), (0.0, PI / 2, 0.0)),
          cap('capsule', (0.047, 0.035), (0.088, 0.01, 0.0), (PI / 2, 0.0, 0.0)))),
        ((0.088, 0.0, 0.0), (PI / 2, 0.0, 0.0), -3.0196, 3.0196, 5.26, 12.0, 0.63, (0.01, 0.0, 0.06), (0.0012, 0.0011, 0.0008),
         (cap('cylinder', (0.045, 0.028), (0.0, 0.0, 0.072)), cap('cylinder', (0.047, 0.004), (0.0, 0.0, 0.103), colour='silver'))),
    ]  # fmt: skip
    for i, (xyz, rpy, lower, upper, velocity, effort, mass, com, inertia, shapes) in enumerate(table, start=1):
        rows.append(
            Link(
                f'fr3_link{i}', f'fr3_link{i - 1}', f'fr3_joint{i}', xyz, rpy, (0.0, 0.0, 1.0), lower, upper, velocity, effort,
                mass, com, inertia, shapes,
            )  # fmt: skip
        )
    rows.append(Link(FLANGE, 'fr3_link7', xyz=(0.0, 0.0, 0.107)))
    return rows


def _phalanx(name: str, parent: str, joint: str, xyz, length: float, axis, limits, mass: float, last: bool) -> Link:
    half = length / 2
    shapes = [Shape('capsule', (FINGER_RADIUS, half), (0.0, 0.0, half), colour='steel', collides=True)]
    if last:  # a rubber cap at the tip, where contacts happen
        shapes.append(Shape('sphere', (FINGER_RADIUS + 0.0004,), (0.0, 0.0, length), colour='rubber', collides=True))
    across = mass * (3 * FINGER_RADIUS**2 + length**2) / 12
    return Link(
        name, parent, joint, xyz, (0.0, 0.0, 0.0), axis, limits[0], limits[1], 4.0, 1.2, mass, (0.0, 0.0, half),
        (across, across, mass * FINGER_RADIUS**2 / 2), tuple(shapes),
    )  # fmt: skip


def _hand_rows() -> list[Link]:
    box = Shape
    palm_shapes = (
        box('cylinder', (0.040, 0.006), (0.0, 0.0, 0.006), colour='silver'),
        box('box', (0.040, 0.020, 0.036), (0.0, -0.004, 0.046), colour='graphite', collides=True),
        box('box', (0.043, 0.012, 0.009), (0.0, -0.026, 0.083), colour='graphite', collides=True),
        box('capsule', (0.013, 0.012), (0.0, 0.036, 0.056), colour='graphite', collides=True),
        box('box', (0.013, 0.012, 0.012), (0.0, 0.022, 0.056), colour='graphite'),
    )
    rows = [
        # The mount turns the hand so that, at the ready pose, the finger row lies across the robot's forward axis, thumb towards the base.
        Link(PALM, FLANGE, rpy=(0.0, 0.0, PI / 4), mass=0.45, com=(0.0, 0.0, 0.05), inertia=(0.0006, 0.0007, 0.0004), shapes=palm_shapes)
    ]
    flex, unflex = (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0)
    rows.append(
        Link(
            'hand_thumb_link1', PALM, 'hand_thumb_joint1', (0.0, 0.040, 0.070), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), -0.7, 0.7, 4.0, 1.2,
            0.03, (0.0, 0.0, 0.008), (5e-6, 5e-6, 4e-6),
            (Shape('sphere', (0.012,), (0.0, 0.0, 0.006), colour='graphite'),),
        )  # fmt: skip
    )
    parent, z = 'hand_thumb_link1', 0.016
    for i, (length, limits) in enumerate(zip(THUMB_LINKS, ((-0.3, 1.6), (0.0, 1.6), (0.0, 1.6)), strict=True), start=2):
        name = f'hand_thumb_link{i}'
        rows.append(_phalanx(name, parent, f'hand_thumb_joint{i}', (0.0, 0.0, z), length, unflex, limits, 0.02, i == 4))
        parent, z = name, length
    rows.append(Link('hand_thumb_tip', parent, xyz=(0.0, 0.0, z)))
    for finger, x in zip(FINGERS[1:], FINGER_X, strict=True):
        parent, origin = PALM, (x, -0.026, 0.098)
        for i, (length, limits) in enumerate(zip(FINGER_LINKS, ((-0.2, 1.6), (0.0, 1.7)), strict=True), start=1):
            name = f'hand_{finger}_link{i}'
            rows.append(_phalanx(name, parent, f'hand_{finger}_joint{i}', origin, length, flex, limits, 0.025, i == 2))
            parent, origin = name, (0.0, 0.0, length)
        rows.append(Link(f'hand_{finger}_tip', parent, xyz=origin))
    return rows


LINKS: tuple[Link, ...] = tuple(_arm_rows() + _hand_rows())
FRAMES = tuple(link.name for link in LINKS)
LOWER = np.array([next(row.lower for row in LINKS if row.joint == j) for j in JOINTS])
UPPER = np.array([next(row.upper for row in LINKS if row.joint == j) for j in JOINTS])


def rotation_rpy(rpy: Sequence[float]) -> np.ndarray:
    """Rotation [3,3] of URDF's fixed-axis roll, pitch, yaw (rad)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array([
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ])  # fmt: skip


def rotation_error(target: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Rotation vector [3] (rad, base frame) that turns `actual` [3,3] into `target` [3,3]."""
    delta = target @ actual.T
    axis = np.array([delta[2, 1] - delta[1, 2], delta[0, 2] - delta[2, 0], delta[1, 0] - delta[0, 1]])
    sine, cosine = float(np.linalg.norm(axis)) / 2, (float(np.trace(delta)) - 1) / 2
    angle = math.atan2(sine, cosine)
    if sine > 1e-9:
        return axis * (angle / (2 * sine))
    if cosine > 0:
        return axis / 2
    column = delta[:, int(np.argmax(np.diag(delta)))] + np.eye(3)[int(np.argmax(np.diag(delta)))]
    return column / np.linalg.norm(column) * math.pi  # half a turn: the axis is the eigenvector of +1


class Kinematics:
    """Forward kinematics, Jacobian and damped-least-squares steps of a link table."""

    def __init__(self, links: Sequence[Link] = LINKS, joints: Sequence[str] = JOINTS):
        self.links = tuple(links)
        self.joints = tuple(joints)
        self.frames = tuple(link.name for link in links)
        index = {name: i for i, name in enumerate(self.frames)}
        self._parent = [index[link.parent] if link.parent else -1 for link in links]
        self._origin = np.stack([self._transform(link) for link in links])
        self._axis = np.array([link.axis for link in links])
        order = {joint: i for i, joint in enumerate(self.joints)}
        self._joint_of = [order[link.joint] if link.joint else -1 for link in links]
        moving = [i for i, j in enumerate(self._joint_of) if j >= 0]
        self._moving = np.array(moving)
        self._moving_joint = np.array([self._joint_of[i] for i in moving])
        k = np.zeros((len(moving), 3, 3))
        a = self._axis[moving]
        k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -a[:, 2], a[:, 1], -a[:, 0]
        self._skew = k - np.swapaxes(k, 1, 2)
        self._skew2 = self._skew @ self._skew
        self._chain = {name: self._ancestors(index[name]) for name in self.frames}

    @staticmethod
    def _transform(link: Link) -> np.ndarray:
        t = np.eye(4)
        t[:3, :3], t[:3, 3] = rotation_rpy(link.rpy), link.xyz
        return t

    def _ancestors(self, i: int) -> list[int]:
        chain = []
        while i >= 0:
            chain.append(i)
            i = self._parent[i]
        return chain[::-1]

    def _check(self, frame: str) -> None:
        if frame not in self._chain:
            raise ConfigError(f'no frame "{frame}" in the robot, {nearest(frame, self.frames)}')

    def _local(self, q: np.ndarray) -> np.ndarray:
        """Transform [L,4,4] of every link in its parent."""
        q = np.asarray(q, dtype=np.float64)
        if q.shape != (len(self.joints),):
            raise ConfigError(f'joint positions have shape {q.shape}, expected ({len(self.joints)},)')
        local = self._origin.copy()
        angle = q[self._moving_joint][:, None, None]
        turn = np.eye(3) + np.sin(angle) * self._skew + (1 - np.cos(angle)) * self._skew2
        local[self._moving, :3, :3] = self._origin[self._moving, :3, :3] @ turn
        return local

    def forward(self, q: np.ndarray) -> dict[str, np.ndarray]:
        """Every frame's transform [4,4] in the base frame, for joint positions `q` [D] (rad, layout order)."""
        local = self._local(q)
        world: list[np.ndarray] = []
        for i, parent in enumerate(self._parent):
            world.append(local[i] if parent < 0 else world[parent] @ local[i])
        return dict(zip(self.frames, world, strict=True))

    def pose(self, q: np.ndarray, frame: str) -> np.ndarray:
        """Transform [4,4] of one frame in the base frame."""
        self._check(frame)
        local = self._local(q)
        t = np.eye(4)
        for i in self._chain[frame]:
            t = t @ local[i]
        return t

    def jacobian(self, q: np.ndarray, frame: str) -> tuple[np.ndarray, np.ndarray]:
        """(pose [4,4], Jacobian [6,D]) of a frame: linear rows (m/rad), then angular rows (rad/rad), in the base frame."""
        self._check(frame)
        local = self._local(q)
        t, axes, points, columns = np.eye(4), [], [], []
        for i in self._chain[frame]:
            t = t @ local[i]
            if self._joint_of[i] >= 0:
                axes.append(t[:3, :3] @ self._axis[i])
                points.append(t[:3, 3])
                columns.append(self._joint_of[i])
        jacobian = np.zeros((6, len(self.joints)))
        axis = np.array(axes)
        jacobian[:3, columns] = np.cross(axis, t[:3, 3] - np.array(points)).T
        jacobian[3:, columns] = axis.T
        return t, jacobian

    def solve(
        self,
        q: np.ndarray,
        frame: str,
        target: np.ndarray,
        *,
        joints: Sequence[int],
        posture: np.ndarray | None = None,
        rotation_weight: float = 0.3,
        damping: float = 0.02,
        iterations: int = 12,
        max_step: float = 0.2,
    ) -> np.ndarray:
        """Joint positions [D] that bring `frame` to `target` [4,4], by damped least squares on `joints` (layout indices).

        `rotation_weight` (m/rad) trades orientation against position; 0 leaves orientation free. `posture` [D] is approached in the
        null space. Every iteration moves a joint by at most `max_step` rad, and the result stays inside the joint limits. It always
        returns the best effort; compare `pose` with the target to know how good it is.
        """
        q = np.array(q, dtype=np.float64)
        use = np.asarray(joints)
        lower, upper = self.limits()
        for _ in range(iterations):
            pose, full = self.jacobian(q, frame)
            error = np.concatenate([target[:3, 3] - pose[:3, 3], rotation_weight * rotation_error(target[:3, :3], pose[:3, :3])])
            j = full[:, use] * np.array([1.0, 1.0, 1.0, rotation_weight, rotation_weight, rotation_weight])[:, None]
            inverse = j.T @ np.linalg.inv(j @ j.T + damping**2 * np.eye(6))
            step = inverse @ error
            if posture is not None:
                step = step + (np.eye(len(use)) - inverse @ j) @ (0.1 * (posture[use] - q[use]))
            elif np.linalg.norm(error) < 1e-6:
                break
            q[use] = np.clip(q[use] + np.clip(step, -max_step, max_step), lower[use], upper[use])
        return q

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower [D], upper [D]) joint positions in rad."""
        return LOWER, UPPER


@lru_cache(maxsize=1)
def fr3_hand12() -> Kinematics:
    """The shared instance for the robot of this module's table."""
    return Kinematics()


def forward(q: np.ndarray) -> dict[str, np.ndarray]:
    """Every frame's transform [4,4] in `fr3_link0`, for joint positions `q` [19] (rad, layout order)."""
    return fr3_hand12().forward(q)
