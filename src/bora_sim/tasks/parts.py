"""Pieces that the tasks' scenes are made of, and what touches what in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_common.kinematics import PALM
from bora_sim.mjcf import NO_CONTACT, OBJECT_CONTACT, text

THUMB, FINGER, PALM_PART, OBJECT, TABLE = 1, 2, 3, 4, 5
RIM_HEIGHT = 0.014  # m


def box(parent: ET.Element, name: str, half: Sequence[float], at: Sequence[float], rgb: Sequence[float], **attributes: str) -> ET.Element:
    """A box of half-lengths `half` centred `at` (m in the parent)."""
    shape = {'name': name, 'type': 'box', 'size': text(half), 'pos': text(at), 'rgba': text((*rgb, 1))}
    return ET.SubElement(parent, 'geom', OBJECT_CONTACT | {'condim': '4', 'friction': '0.7 0.01 0.001'} | shape | attributes)


def trim(parent: ET.Element, kind: str, size: Sequence[float], at: Sequence[float], rgb: Sequence[float], **attributes: str) -> ET.Element:
    """A shape for the eye only."""
    return ET.SubElement(
        parent, 'geom', NO_CONTACT | {'type': kind, 'size': text(size), 'pos': text(at), 'rgba': text((*rgb, 1)), 'mass': '0'} | attributes
    )


def free_body(world: ET.Element, name: str) -> ET.Element:
    """A body that lies loose."""
    body = ET.SubElement(world, 'body', name=name)
    ET.SubElement(body, 'freejoint', name=name)
    return body


def tray(world: ET.Element, low: Sequence[float], high: Sequence[float], rgb: Sequence[float] = (0.55, 0.47, 0.37)) -> None:
    """A low rim around a part of the table, so that what rolls away comes to rest within reach."""
    (x0, y0), (x1, y1), t, h = low, high, 0.006, RIM_HEIGHT / 2
    walls = {
        'rim_near': ((t, (y1 - y0) / 2 + t, h), (x0, (y0 + y1) / 2, h)),
        'rim_far': ((t, (y1 - y0) / 2 + t, h), (x1, (y0 + y1) / 2, h)),
        'rim_right': (((x1 - x0) / 2 + t, t, h), ((x0 + x1) / 2, y0, h)),
        'rim_left': (((x1 - x0) / 2 + t, t, h), ((x0 + x1) / 2, y1, h)),
    }
    for name, (half, at) in walls.items():
        box(world, name, half, at, rgb)


@dataclass(frozen=True)
class Touch:
    """What touches the object."""

    thumb: bool
    fingers: int  # how many of the four
    hand: bool
    table: bool

    @property
    def gripped(self) -> bool:
        """Held between the thumb and a finger."""
        return self.thumb and self.fingers > 0


@lru_cache(maxsize=32)
def _labels(model: mujoco.MjModel, body: str, table: str) -> tuple[np.ndarray, np.ndarray]:
    """(part of every geom, number of the finger of every geom): names are slow to look up at 100 Hz."""
    parts, numbers = np.zeros(model.ngeom, int), np.zeros(model.ngeom, int)
    bodies = {model.body(body).id}
    for geom in range(model.ngeom):
        at = int(model.geom_bodyid[geom])
        name = model.body(at).name
        if at in bodies or int(model.body_parentid[at]) in bodies and at:
            bodies.add(at)
            parts[geom] = OBJECT
        elif name.startswith('hand_thumb'):
            parts[geom] = THUMB
        elif name == PALM:
            parts[geom] = PALM_PART
        elif name.startswith('hand_'):
            parts[geom], numbers[geom] = FINGER, ('index', 'middle', 'ring', 'little').index(name.split('_')[1])
        elif model.geom(geom).name.startswith(table):
            parts[geom] = TABLE
    return parts, numbers


def touch(model: mujoco.MjModel, data: mujoco.MjData, body: str, table: str = 'table') -> Touch:
    """Contacts of `body` (and of what hangs on it) with the hand, and with the geoms whose names begin with `table`."""
    parts, numbers = _labels(model, body, table)
    pairs = data.contact.geom
    if not len(pairs):
        return Touch(False, 0, False, False)
    kinds = parts[pairs]
    of_object = kinds == OBJECT
    mine = of_object[:, 0] != of_object[:, 1]
    others = np.where(of_object[:, 0], pairs[:, 1], pairs[:, 0])[mine]
    kinds = parts[others]
    fingers = len(set(numbers[others[kinds == FINGER]].tolist()))
    hand = bool(np.any((kinds >= THUMB) & (kinds <= PALM_PART)))
    return Touch(bool(np.any(kinds == THUMB)), fingers, hand, bool(np.any(kinds == TABLE)))


def heading(rotation: np.ndarray) -> float:
    """Yaw (rad) of the x axis of a rotation [9] or [3,3]."""
    r = np.asarray(rotation).reshape(3, 3)
    return float(np.arctan2(r[1, 0], r[0, 0]))
