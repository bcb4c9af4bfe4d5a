"""MJCF of the robot in its workplace, written from the kinematic table, so that the simulated robot and the kinematics can't differ.

A task adds its objects to the world body. Contact bits: the hand is type 1 and meets objects (type 2); objects meet each other and the
table. Hand parts don't collide with each other: closing targets overlap by design and the force limit sets the grip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np

from bora_common.kinematics import ARM_JOINTS, BASE, COLOURS, LINKS, Link, Shape, rotation_rpy

TIMESTEP = 1 / 300  # s
HAND_CONTACT = {'contype': '1', 'conaffinity': '2'}
OBJECT_CONTACT = {'contype': '2', 'conaffinity': '3'}
SHEET_CONTACT = {'contype': '4', 'conaffinity': '1'}  # what rests on or passes through other objects meets only the hand and the table
TABLE_CONTACT = {'contype': '2', 'conaffinity': '7'}
NO_CONTACT = {'contype': '0', 'conaffinity': '0'}
FINGER_FRICTION = '1.0 0.02 0.001'
KP = dict(zip(ARM_JOINTS, (3000, 3000, 2500, 2500, 1200, 1200, 800), strict=True))  # N m/rad
HAND_KP = 4.0
CAMERA_FOVY = 42.5  # degrees, vertical, of the colour stream of a RealSense D435

# name: (position, point looked at), m in the base frame
CAMERAS = {
    'left': ((0.42, 0.60, 0.40), (0.50, 0.02, 0.07)),
    'front': ((1.12, 0.0, 0.42), (0.50, 0.0, 0.07)),
    'right': ((0.42, -0.60, 0.40), (0.50, -0.02, 0.07)),
    'overview': ((1.55, -1.05, 0.95), (0.30, 0.0, 0.28)),
}

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Light and background of the workplace."""

    table: Colour = (0.78, 0.70, 0.58)
    floor: tuple[Colour, Colour] = ((0.46, 0.48, 0.50), (0.41, 0.43, 0.45))
    sky: tuple[Colour, Colour] = ((0.82, 0.86, 0.90), (0.50, 0.55, 0.60))
    light_at: tuple[float, float, float] = (1.0, -0.8, 2.2)  # m
    light_towards: tuple[float, float, float] = (-0.3, 0.35, -1.0)
    light: float = 0.55
    ambient: float = 0.42


DAY = Look()
LAMP = Look(
    (0.69, 0.61, 0.5), ((0.42, 0.43, 0.44), (0.37, 0.38, 0.4)), ((0.75, 0.77, 0.79), (0.45, 0.48, 0.52)),
    (0.8, -0.3, 2.12), (-0.19, 0.11, -1.0), 0.6, 0.39,
)  # fmt: skip
LAB = Look(
    (0.76, 0.7, 0.62), ((0.43, 0.46, 0.49), (0.38, 0.41, 0.44)), ((0.85, 0.88, 0.92), (0.54, 0.6, 0.65)),
    (0.6, -0.83, 2.25), (-0.12, 0.34, -1.0), 0.52, 0.42,
)  # fmt: skip
CLOTH = Look(
    (0.63, 0.58, 0.48), ((0.46, 0.48, 0.5), (0.41, 0.43, 0.45)), ((0.77, 0.81, 0.85), (0.46, 0.51, 0.56)),
    (1.05, -0.38, 2.15), (-0.33, 0.16, -1.0), 0.56, 0.4,
)  # fmt: skip


def text(values: Sequence[float]) -> str:
    """Numbers as an MJCF attribute."""
    return ' '.join(f'{float(v):.9g}' for v in values)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z) of a rotation [3,3]."""
    r = rotation
    four_squares = np.array([1 + np.trace(r), 1 + 2 * r[0, 0] - np.trace(r), 1 + 2 * r[1, 1] - np.trace(r), 1 + 2 * r[2, 2] - np.trace(r)])
    k = int(np.argmax(four_squares))
    w = [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]
    if k == 0:
        q = np.array([four_squares[0], *w])
    else:
        i = k - 1
        q = np.array([w[i], *(r[i, n] + r[n, i] for n in range(3))])
        q[k] = four_squares[k]
    return q / np.linalg.norm(q)


def look_at(position: Sequence[float], target: Sequence[float]) -> str:
    """`xyaxes` of a camera at `position` that looks at `target` with z up."""
    forward = np.subtract(target, position)
    x = np.cross(forward, (0.0, 0.0, 1.0))
    y = np.cross(x, forward)
    return text([*(x / np.linalg.norm(x)), *(y / np.linalg.norm(y))])


def _shape(body: ET.Element, shape: Shape) -> None:
    attributes = {
        'type': shape.kind,
        'size': text(shape.size),
        'pos': text(shape.xyz),
        'quat': text(quaternion(rotation_rpy(shape.rpy))),
        'material': shape.colour,
        'mass': '0',
    }
    if shape.collides:
        tip = shape.colour == 'rubber'
        attributes.update(HAND_CONTACT, condim='4', friction=FINGER_FRICTION, priority='1' if tip else '0', solimp='.9 .95 .002')
    else:
        attributes.update(NO_CONTACT)
    ET.SubElement(body, 'geom', attributes)


def _body(parents: dict[str, ET.Element], row: Link) -> None:
    attributes = {'name': row.name, 'pos': text(row.xyz), 'quat': text(quaternion(rotation_rpy(row.rpy))), 'gravcomp': '1'}
    if not row.mass:  # a pure frame: a site, and what hangs on it hangs on its parent
        ET.SubElement(parents[row.parent], 'site', name=row.name, pos=attributes['pos'], quat=attributes['quat'], size='.002', group='4')
        if row.name != 'fr3_link8':
            return
    body = ET.SubElement(parents[row.parent] if row.parent else parents[''], 'body', attributes)
    parents[row.name] = body
    if row.mass:
        ET.SubElement(body, 'inertial', pos=text(row.com), mass=text([row.mass]), diaginertia=text(row.inertia))
    if row.joint:
        arm = row.joint in ARM_JOINTS
        armature = ('0.195' if row.effort > 50 else '0.074') if arm else '0.002'
        ET.SubElement(
            body, 'joint', name=row.joint, axis=text(row.axis), range=text([row.lower, row.upper]), armature=armature,
            damping='1' if arm else '0.02', frictionloss='0',
        )  # fmt: skip
    for shape in row.shapes:
        _shape(body, shape)


def _options(root: ET.Element, look: Look) -> None:
    ET.SubElement(root, 'compiler', angle='radian', autolimits='true')
    # Elliptic cones and a high impratio are what makes fingers hold: with the defaults nothing is ever lifted.
    ET.SubElement(root, 'option', timestep=text([TIMESTEP]), integrator='implicitfast', cone='elliptic', impratio='12', iterations='20')
    visual = ET.SubElement(root, 'visual')
    ET.SubElement(visual, 'headlight', ambient=text([look.ambient] * 3), diffuse='.35 .35 .35', specular='.05 .05 .05')
    ET.SubElement(visual, 'quality', shadowsize='0', offsamples='0', numslices='16', numstacks='8', numquads='1')
    ET.SubElement(visual, 'global', offwidth='640', offheight='480')
    ET.SubElement(visual, 'map', znear='0.005', zfar='8')
    asset = ET.SubElement(root, 'asset')
    ET.SubElement(
        asset, 'texture', name='sky', type='skybox', builtin='gradient', rgb1=text(look.sky[0]), rgb2=text(look.sky[1]), width='64',
        height='384',
    )  # fmt: skip
    ET.SubElement(
        asset, 'texture', name='floor', type='2d', builtin='checker', rgb1=text(look.floor[0]), rgb2=text(look.floor[1]), width='256',
        height='256',
    )  # fmt: skip
    ET.SubElement(asset, 'material', name='floor', texture='floor', texrepeat='10 10', specular='.1')
    ET.SubElement(asset, 'material', name='table', rgba=text((*look.table, 1)), specular='.1', shininess='.2')
    for name, rgba in COLOURS.items():
        ET.SubElement(asset, 'material', name=name, rgba=text(rgba), specular='.35', shininess='.5')


def _workplace(world: ET.Element, look: Look) -> None:
    ET.SubElement(
        world, 'light', pos=text(look.light_at), dir=text(look.light_towards), diffuse=text([look.light] * 3), specular='.15 .15 .15',
        directional='true', castshadow='false',
    )  # fmt: skip
    ET.SubElement(world, 'geom', NO_CONTACT, name='floor', type='plane', size='4 4 .1', pos='0 0 -.75', material='floor')
    ET.SubElement(
        world, 'geom', TABLE_CONTACT, name='table', type='box', size='.60 .70 .02', pos='.35 0 -.02', material='table',
        condim='4', friction='0.8 0.01 0.001',
    )  # fmt: skip
    for i, (x, y) in enumerate(((-0.18, -0.62), (-0.18, 0.62), (0.88, -0.62), (0.88, 0.62))):
        ET.SubElement(
            world, 'geom', NO_CONTACT, name=f'leg{i}', type='box', size='.03 .03 .355', pos=text((x, y, -0.395)), material='graphite'
        )
    for name, (position, target) in CAMERAS.items():
        ET.SubElement(world, 'camera', name=name, pos=text(position), xyaxes=look_at(position, target), fovy=text([CAMERA_FOVY]))


def _actuators(root: ET.Element) -> None:
    actuator = ET.SubElement(root, 'actuator')
    rows = [row for row in LINKS if row.joint]
    for row in rows:
        ET.SubElement(
            actuator, 'position', name=row.joint, joint=row.joint, kp=text([KP.get(row.joint, HAND_KP)]), dampratio='1',
            ctrlrange=text([row.lower, row.upper]), forcerange=text([-row.effort, row.effort]),
        )  # fmt: skip


def workplace(look: Look = DAY) -> tuple[ET.Element, ET.Element]:
    """(root, world body) of the robot on its table with cameras and lights; a task adds its objects and serialises the root."""
    root = ET.Element('mujoco', model=BASE)
    _options(root, look)
    world = ET.SubElement(root, 'worldbody')
    _workplace(world, look)
    parents = {'': world}
    for row in LINKS:
        _body(parents, row)
    _actuators(root)
    return root, world


def to_xml(root: ET.Element) -> str:
    """MJCF text of a scene."""
    ET.indent(root)
    return ET.tostring(root, encoding='unicode')
