"""Pull a tissue: a sheet that stands out of a slot is pinched and drawn out whole. It slips when it is pinched at its border.

There is no cloth: three thin plates chained by soft hinges, the lowest tied to a slide in the box whose friction is what holds a sheet
back. When the slide has run the hidden length, the tie lets go and the sheet is free.
"""

from __future__ import annotations

from functools import lru_cache
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_sim.mjcf import CLOTH, LAB, LAMP, SHEET_CONTACT, text
from bora_sim.tasks import parts
from bora_sim.tasks.base import Area, Instance, Outcome, Task, yaw_quaternion

PLATES = 3
THIN = 0.0012  # m, half-thickness of the sheet
EDGE = 0.004  # m of the sheet that is still in the slot when it comes free
CLEAR = 0.005  # m above the box that the whole sheet must be
HOLD_S = 0.3
WIDE: Area = ((0.42, -0.15), (0.61, 0.15))


def _box(
    name: str, half: tuple, height: float, sheet: tuple, drag: float, friction: float, card: tuple, paper: tuple, curl: float = 0.15,
    **other,
) -> Instance:  # fmt: skip
    """`sheet`: half-width, length, and length that stands out, m; `drag`: N, in the slot; `curl`: rad a hinge, at rest."""
    values = {
        'half': half, 'height': height, 'sheet': sheet, 'drag': drag, 'friction': friction, 'card': card, 'paper': paper, 'curl': curl
    }  # fmt: skip
    return Instance(name, values, **other)


@lru_cache(maxsize=32)
def _indices(model: mujoco.MjModel) -> tuple[int, int, int, tuple[int, ...]]:
    """(box, slide in qpos, tie, plates)."""
    plates = tuple(model.body(f'plate{i}').id for i in range(PLATES))
    return model.body('tissue_box').id, int(model.joint('slot').qposadr[0]), model.equality('tie').id, plates


class PullTissue(Task):
    """The box stands fast; its slot lies across the robot's forward axis."""

    name = 'pull_tissue'
    instruction = 'pull a tissue out of the box'
    episode_steps = 105
    failure_ends = True
    turn = 0.5
    standard = (
        _box('blue', (0.052, 0.085), 0.060, (0.020, 0.075, 0.042), 1.2, 0.6, (0.25, 0.50, 0.78), (0.96, 0.96, 0.97)),
        _box('mint', (0.048, 0.080), 0.054, (0.020, 0.075, 0.042), 1.2, 0.6, (0.45, 0.72, 0.62), (0.96, 0.96, 0.97)),
    )
    unseen = (
        _box('cube', (0.050, 0.050), 0.090, (0.018, 0.069, 0.038), 1.6, 0.5, (0.80, 0.55, 0.62), (0.98, 0.95, 0.90), 0.30, look=LAMP,
             area=WIDE),
        _box('low', (0.058, 0.095), 0.048, (0.024, 0.084, 0.048), 0.8, 0.7, (0.86, 0.72, 0.30), (0.99, 0.99, 0.99), -0.10, look=LAB,
             area=WIDE, turn=0.8),
        _box('tight', (0.050, 0.085), 0.058, (0.020, 0.075, 0.036), 2.2, 0.6, (0.30, 0.32, 0.36), (0.90, 0.93, 0.98), look=CLOTH),
        _box('blue_hidden', (0.052, 0.085), 0.060, (0.020, 0.075, 0.042), 1.2, 0.6, (0.25, 0.50, 0.78), (0.96, 0.96, 0.97),
             occluding=(0.10, 0.0, 0.0)),
    )  # fmt: skip

    def add_objects(self, root: ET.Element, world: ET.Element, instance: Instance) -> None:
        (x, y), height, card = instance['half'], instance.number('height'), instance['card']
        width, length, out = instance['sheet']
        slot = width + 0.012
        stand = ET.SubElement(world, 'body', name='tissue_box', mocap='true', pos='0.5 0 0')
        for name, half, at in (
            ('body', (x, y, height / 2 - 0.002), (0, 0, height / 2 - 0.002)),
            ('top_far', (x / 2 - 0.003, y, 0.002), (x / 2 + 0.003, 0, height - 0.002)),
            ('top_near', (x / 2 - 0.003, y, 0.002), (-x / 2 - 0.003, 0, height - 0.002)),
            ('top_left', (0.006, (y - slot) / 2, 0.002), (0, (y + slot) / 2, height - 0.002)),
            ('top_right', (0.006, (y - slot) / 2, 0.002), (0, -(y + slot) / 2, height - 0.002)),
        ):
            parts.box(stand, f'tissue_{name}', half, at, card)
        parts.trim(stand, 'box', (0.006, slot, 0.0005), (0, 0, height - 0.0035), (0.08, 0.09, 0.10))
        parts.trim(stand, 'box', (x * 1.005, y * 1.005, 0.008), (0, 0, height * 0.35), tuple(min(1.0, 1.2 * v + 0.1) for v in card))
        foot = height - (length - out)  # m, of the lowest plate's lower edge
        carriage = ET.SubElement(stand, 'body', name='carriage', pos=text((0, 0, foot)), gravcomp='1')
        ET.SubElement(carriage, 'inertial', pos='0 0 0', mass='.003', diaginertia='1e-6 1e-6 1e-6')
        ET.SubElement(
            carriage, 'joint', name='slot', type='slide', axis='0 0 1', range='-.002 .15', frictionloss=text([instance.number('drag')]),
            damping='1', armature='.002',
        )  # fmt: skip
        self._add_sheet(world, instance, foot)
        equality = ET.SubElement(root, 'equality')
        ET.SubElement(equality, 'weld', name='tie', body1='carriage', body2='plate0', solref='.01 1')

    def _add_sheet(self, world: ET.Element, instance: Instance, foot: float) -> None:
        width, length, _ = instance['sheet']
        half = length / PLATES / 2
        parent, at = world, (0.5, 0.0, foot)
        for i in range(PLATES):
            plate = ET.SubElement(parent, 'body', name=f'plate{i}', pos=text(at), gravcomp='.8')
            if i == 0:
                ET.SubElement(plate, 'freejoint', name='sheet')
            else:
                ET.SubElement(
                    plate, 'joint', name=f'fold{i}', type='hinge', axis='0 1 0', range='-1.2 1.2', stiffness='.02', damping='.0006',
                    springref=text([instance.number('curl')]), armature='1e-6',
                )  # fmt: skip
            ET.SubElement(
                plate, 'geom', SHEET_CONTACT, name=f'plate{i}', type='box', size=text((THIN, width * (1 - 0.12 * (i == 2)), half)),
                pos=text((0, 0, half)), rgba=text((*instance['paper'], 1)), mass='.002', condim='4', priority='2', solimp='.9 .95 .002',
                friction=text((instance.number('friction'), 0.01, 0.001)),
            )  # fmt: skip
            parent, at = plate, (0.0, 0.0, 2 * half)

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, rng: np.random.Generator) -> np.ndarray:
        x, y, yaw = self.sample_pose(instance, rng)
        data.mocap_pos[0], data.mocap_quat[0] = (x, y, 0.0), yaw_quaternion(yaw)
        height, (_, length, out) = instance.number('height'), instance['sheet']
        start = int(model.joint('sheet').qposadr[0])
        data.qpos[start : start + 7] = x, y, height - (length - out), *yaw_quaternion(yaw)
        for i in range(1, PLATES):
            data.qpos[model.joint(f'fold{i}').qposadr[0]] = instance.number('curl') + rng.uniform(-0.15, 0.15)
        return np.array([x, y, height + out])

    def act(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance) -> None:
        """The tie lets go at the end of the hidden length."""
        _, slide, tie, _ = _indices(model)
        _, length, out = instance['sheet']
        if data.eq_active[tie] and data.qpos[slide] > length - out - EDGE:
            data.eq_active[tie] = 0

    def judge(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, outcome: Outcome, elapsed: float) -> None:
        box, slide, tie, plates = _indices(model)
        turns = data.xmat[list(plates)].reshape(-1, 3, 3)
        height, long = instance.number('height'), instance['sheet'][1] / PLATES
        ends = np.concatenate([data.xpos[list(plates)], data.xpos[list(plates)] + long * turns[:, :, 2]])
        lowest, free = float(ends[:, 2].min()), not data.eq_active[tie]
        touch = parts.touch(model, data, 'plate0')
        held = outcome.hold(free and touch.gripped and lowest > height + CLEAR, elapsed)
        outcome.success = outcome.success or held >= HOLD_S - 1e-6
        outcome.failure = outcome.failure or bool(free and not outcome.success and lowest < height - 0.03)  # it has fallen
        top = ends[-1]
        outcome.values = {
            'x': float(top[0]), 'y': float(top[1]), 'z': float(top[2]), 'yaw': parts.heading(turns[-1]), 'box_z': height,
            'pulled': float(data.qpos[slide]), 'hidden': instance['sheet'][1] - instance['sheet'][2], 'free': float(free),
            'width': float(instance['sheet'][0]), 'lowest': lowest, 'box_x': float(data.xpos[box, 0]), 'box_y': float(data.xpos[box, 1]),
            'thumb': float(touch.thumb), 'fingers': float(touch.fingers), 'held': held,
        }  # fmt: skip
