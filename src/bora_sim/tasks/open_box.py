"""Open the box: fingers hook under the lid's overhang and swing it fully open. It falls shut when the hook slips before the lid is up."""

from __future__ import annotations

from functools import lru_cache
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_sim.mjcf import CLOTH, LAB, LAMP, OBJECT_CONTACT, text
from bora_sim.tasks import parts
from bora_sim.tasks.base import Area, Instance, Outcome, Task, yaw_quaternion

FULL_ANGLE = 1.92  # rad, at the hinge's stop
OPEN_SHARE = 0.96  # of it
HOLD_S = 0.3
WALL, LID = 0.004, 0.003  # m, half-thicknesses
WIDE: Area = ((0.39, -0.13), (0.50, 0.13))


def _box(
    name: str, half: tuple, height: float, overhang: float, mass: float, friction: float, body: tuple, lid: tuple, ajar: float = 0.0,
    **other,
) -> Instance:  # fmt: skip
    """`half`: outer half-lengths; `friction`: of the hinge, N m; `ajar`: rad that the lid stands open at the start."""
    hinge = {'overhang': overhang, 'mass': mass, 'friction': friction, 'ajar': ajar}
    return Instance(name, {'half': half, 'height': height, 'body': body, 'lid': lid} | hinge, **other)


@lru_cache(maxsize=32)
def _indices(model: mujoco.MjModel) -> tuple[int, int]:
    return model.body('lid').id, int(model.joint('lid').qposadr[0])


class OpenBox(Task):
    """The hinge is on the robot's side, the overhang on the far one."""

    name = 'open_box'
    instruction = 'open the lid of the box'
    episode_steps = 135
    failure_ends = False
    area = ((0.41, -0.10), (0.48, 0.10))
    turn = 0.35
    standard = (
        _box('chest', (0.060, 0.065), 0.065, 0.024, 0.060, 0.020, (0.50, 0.31, 0.18), (0.68, 0.45, 0.26)),
        _box('case', (0.056, 0.060), 0.058, 0.024, 0.060, 0.020, (0.30, 0.36, 0.44), (0.62, 0.68, 0.74)),
    )
    unseen = (
        _box('crate', (0.064, 0.075), 0.080, 0.022, 0.110, 0.030, (0.28, 0.42, 0.28), (0.45, 0.60, 0.40), look=LAMP, area=WIDE),
        _box('ajar', (0.058, 0.062), 0.062, 0.024, 0.060, 0.060, (0.62, 0.20, 0.18), (0.82, 0.42, 0.36), 0.35, look=LAB),
        _box('flat', (0.050, 0.055), 0.050, 0.027, 0.045, 0.015, (0.75, 0.72, 0.66), (0.90, 0.88, 0.84), look=CLOTH, area=WIDE,
             turn=0.5),
        _box('chest_hidden', (0.060, 0.065), 0.065, 0.024, 0.060, 0.020, (0.50, 0.31, 0.18), (0.68, 0.45, 0.26),
             occluding=(0.13, 0.0, 0.03)),
    )  # fmt: skip

    def add_objects(self, root: ET.Element, world: ET.Element, instance: Instance) -> None:
        (x, y), height, colour = instance['half'], instance.number('height'), instance['body']
        chest = ET.SubElement(world, 'body', name='chest', mocap='true', pos='0.45 0 0')
        parts.box(chest, 'chest_floor', (x, y, 0.002), (0, 0, 0.002), colour)
        for name, half, at in (
            ('far', (WALL, y, height / 2), (x - WALL, 0, height / 2)),
            ('near', (WALL, y, height / 2), (WALL - x, 0, height / 2)),
            ('left', (x, WALL, height / 2), (0, y - WALL, height / 2)),
            ('right', (x, WALL, height / 2), (0, WALL - y, height / 2)),
        ):
            parts.box(chest, f'chest_{name}', half, at, colour)
        parts.trim(chest, 'box', (x * 0.9, y * 0.9, 0.001), (0, 0, 0.005), (0.12, 0.10, 0.10))
        self._add_lid(chest, instance)

    def _add_lid(self, chest: ET.Element, instance: Instance) -> None:
        (x, y), height = instance['half'], instance.number('height')
        length = 2 * x + instance.number('overhang')
        lid = ET.SubElement(chest, 'body', name='lid', pos=text((-x, 0, height + LID + 0.0005)))
        ET.SubElement(
            lid, 'joint', name='lid', type='hinge', axis='0 -1 0', range=text((0, FULL_ANGLE)), damping='.003', armature='.0001',
            frictionloss=text([instance.number('friction')]),
        )  # fmt: skip
        contact = OBJECT_CONTACT | {'contype': '4', 'conaffinity': '1'}  # rests on its stop, not on the walls
        ET.SubElement(
            lid, 'geom', contact, name='lid', type='box', size=text((length / 2, y + 0.003, LID)), pos=text((length / 2, 0, 0)), condim='4',
            rgba=text((*instance['lid'], 1)), mass=text([instance.number('mass')]), friction='0.7 0.01 0.001', solimp='.9 .95 .002',
        )  # fmt: skip
        dark, light = (tuple(min(1.0, a * v + b) for v in instance['lid']) for a, b in ((0.55, 0.0), (1.15, 0.05)))
        parts.trim(lid, 'box', (0.005, y * 0.9, LID * 1.05), (length - 0.006, 0, 0), dark)
        parts.trim(lid, 'box', (length * 0.30, y * 0.55, 0.0006), (length * 0.45, 0, LID), light)
        parts.trim(chest, 'cylinder', (0.004, y * 0.8), (-x, 0, height + LID), (0.35, 0.35, 0.36), zaxis='0 1 0')

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, rng: np.random.Generator) -> np.ndarray:
        x, y, yaw = self.sample_pose(instance, rng)
        data.mocap_pos[0] = x, y, 0.0
        data.mocap_quat[0] = yaw_quaternion(yaw)
        data.qpos[_indices(model)[1]] = instance.number('ajar') * rng.uniform(0.8, 1.0)
        return np.array([x, y, instance.number('height')])

    def judge(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, outcome: Outcome, elapsed: float) -> None:
        lid, joint = _indices(model)
        angle = float(data.qpos[joint])
        touch = parts.touch(model, data, 'lid')
        held = outcome.hold(angle >= OPEN_SHARE * FULL_ANGLE, elapsed)
        outcome.success = outcome.success or held >= HOLD_S - 1e-6
        hinge, lower = data.xpos[lid], data.xmat[model.body_parentid[lid]]
        outcome.values = {
            'hinge_x': float(hinge[0]), 'hinge_y': float(hinge[1]), 'hinge_z': float(hinge[2]), 'yaw': parts.heading(lower), 'angle': angle,
            'full': FULL_ANGLE, 'length': 2 * float(instance['half'][0]) + instance.number('overhang'),
            'fingers': float(touch.fingers), 'hand': float(touch.hand), 'held': held,
        }  # fmt: skip
