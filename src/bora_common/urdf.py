"""URDF of `fr3_hand12`, written from the kinematic table. `python -m bora_common.urdf config/urdf/fr3_hand12.urdf` renews the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from bora_common.kinematics import COLOURS, LINKS, Link, Shape, rotation_rpy

ROBOT = 'fr3_hand12'


def _text(values: Sequence[float]) -> str:
    return ' '.join(f'{v:.9g}' for v in values)


def _geometry(parent: ET.Element, kind: str, size: Sequence[float]) -> None:
    geometry = ET.SubElement(parent, 'geometry')
    if kind == 'box':
        ET.SubElement(geometry, 'box', size=_text([2 * s for s in size]))
    elif kind == 'sphere':
        ET.SubElement(geometry, 'sphere', radius=_text(size))
    else:
        ET.SubElement(geometry, 'cylinder', radius=_text(size[:1]), length=_text([2 * size[1]]))


def _primitives(shape: Shape) -> list[tuple[str, tuple[float, ...], tuple[float, float, float]]]:
    """URDF has no capsule: a cylinder and a sphere at each end. (kind, size, offset along the shape's z)"""
    if shape.kind != 'capsule':
        return [(shape.kind, shape.size, (0.0, 0.0, 0.0))]
    radius, half = shape.size
    return [('cylinder', shape.size, (0.0, 0.0, 0.0)), ('sphere', (radius,), (0.0, 0.0, half)), ('sphere', (radius,), (0.0, 0.0, -half))]


def _add_shape(link: ET.Element, tag: str, shape: Shape) -> None:
    turn = rotation_rpy(shape.rpy)
    for kind, size, offset in _primitives(shape):
        element = ET.SubElement(link, tag)
        xyz = [p + o for p, o in zip(shape.xyz, turn @ offset, strict=True)]
        ET.SubElement(element, 'origin', xyz=_text(xyz), rpy=_text(shape.rpy))
        _geometry(element, kind, size)
        if tag == 'visual':
            ET.SubElement(element, 'material', name=shape.colour)


def _add_link(robot: ET.Element, row: Link) -> None:
    link = ET.SubElement(robot, 'link', name=row.name)
    if row.mass:
        inertial = ET.SubElement(link, 'inertial')
        ET.SubElement(inertial, 'origin', xyz=_text(row.com), rpy='0 0 0')
        ET.SubElement(inertial, 'mass', value=_text([row.mass]))
        x, y, z = (_text([v]) for v in row.inertia)
        ET.SubElement(inertial, 'inertia', ixx=x, ixy='0', ixz='0', iyy=y, iyz='0', izz=z)
    for shape in row.shapes:
        _add_shape(link, 'visual', shape)
    for shape in row.shapes:
        if shape.collides:
            _add_shape(link, 'collision', shape)


def _add_joint(robot: ET.Element, row: Link) -> None:
    name = row.joint or f'{row.name}_fixed'
    joint = ET.SubElement(robot, 'joint', name=name, type='revolute' if row.joint else 'fixed')
    ET.SubElement(joint, 'parent', link=row.parent or '')
    ET.SubElement(joint, 'child', link=row.name)
    ET.SubElement(joint, 'origin', xyz=_text(row.xyz), rpy=_text(row.rpy))
    if row.joint:
        ET.SubElement(joint, 'axis', xyz=_text(row.axis))
        limit = {'lower': row.lower, 'upper': row.upper, 'velocity': row.velocity, 'effort': row.effort}
        ET.SubElement(joint, 'limit', {k: _text([v]) for k, v in limit.items()})


def urdf(links: Sequence[Link] = LINKS, name: str = ROBOT) -> str:
    """The robot as URDF text: primitive geometry, inertias and limits of the table."""
    robot = ET.Element('robot', name=name)
    for colour, rgba in COLOURS.items():
        ET.SubElement(ET.SubElement(robot, 'material', name=colour), 'color', rgba=_text(rgba))
    for row in links:
        _add_link(robot, row)
    for row in links:
        if row.parent:
            _add_joint(robot, row)
    ET.indent(robot)
    return '<?xml version="1.0"?>\n<!-- Written by bora_common.urdf from the kinematic table; do not edit. -->\n' + (
        ET.tostring(robot, encoding='unicode') + '\n'
    )


if __name__ == '__main__':
    Path(sys.argv[1]).write_text(urdf())
