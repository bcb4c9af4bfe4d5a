"""Pick and place: a package goes wholly into a basket and is let go. Held beside its middle it turns in the hand, onto the rim."""

from __future__ import annotations

import math
from functools import lru_cache
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_sim.mjcf import CLOTH, LAB, LAMP, OBJECT_CONTACT, text
from bora_sim.tasks import parts
from bora_sim.tasks.base import Area, Instance, Outcome, Task, yaw_quaternion

HOLD_S = 0.3
WALL = 0.004  # m, half-thickness of the basket's walls
WIDE: Area = ((0.42, -0.20), (0.61, -0.04))


def _set(
    name: str, half: tuple, mass: float, paper: tuple, basket: tuple, wicker: tuple, friction: float = 0.7, shape: str = 'box', **other
) -> Instance:  # fmt: skip
    """`half`: half-lengths of the package (a cylinder's lie along its axis first); `basket`: inner half-lengths and height."""
    values = {'half': half, 'mass': mass, 'paper': paper, 'basket': basket, 'wicker': wicker, 'friction': friction, 'shape': shape}
    return Instance(name, values, **other)


@lru_cache(maxsize=32)
def _bodies(model: mujoco.MjModel) -> tuple[int, int, int]:
    return model.body('package').id, model.body('basket').id, int(model.joint('package').dofadr[0])


class PickAndPlace(Task):
    """The package lies on the right of the tray, the basket stands on the left; both anywhere in their halves."""

    name = 'pick_and_place'
    instruction = 'put the package into the basket'
    episode_steps = 165
    failure_ends = True
    area = ((0.44, -0.18), (0.59, -0.05))
    basket_area: Area = ((0.46, 0.11), (0.57, 0.17))
    turn = 0.5
    standard = (
        _set('parcel', (0.036, 0.024, 0.024), 0.110, (0.72, 0.53, 0.33), (0.072, 0.058, 0.075), (0.25, 0.40, 0.66)),
        _set('carton', (0.032, 0.022, 0.030), 0.090, (0.88, 0.86, 0.80), (0.072, 0.058, 0.075), (0.25, 0.40, 0.66)),
    )
    unseen = (
        _set('tin', (0.034, 0.024, 0.024), 0.150, (0.78, 0.20, 0.16), (0.070, 0.058, 0.064), (0.60, 0.45, 0.28), 0.5, 'cylinder',
             look=LAMP),
        _set('bar', (0.044, 0.018, 0.022), 0.070, (0.20, 0.45, 0.30), (0.080, 0.060, 0.070), (0.35, 0.36, 0.40), look=LAB, area=WIDE),
        _set('block', (0.030, 0.028, 0.026), 0.200, (0.25, 0.25, 0.60), (0.064, 0.056, 0.085), (0.85, 0.82, 0.75), 0.6, look=CLOTH,
             area=WIDE, turn=0.8),
        _set('parcel_hidden', (0.036, 0.024, 0.024), 0.110, (0.72, 0.53, 0.33), (0.072, 0.058, 0.075), (0.25, 0.40, 0.66),
             occluding=(0.09, 0.0, 0.03)),
    )  # fmt: skip

    def add_objects(self, root: ET.Element, world: ET.Element, instance: Instance) -> None:
        parts.tray(world, (0.34, -0.29), (0.70, 0.29))
        self._add_basket(world, instance)
        package = parts.free_body(world, 'package')
        a, b, c = instance['half']
        contact = OBJECT_CONTACT | {
            'condim': '6', 'priority': '1', 'friction': text((instance.number('friction'), 0.02, 0.0005)), 'solimp': '.9 .95 .002',
            'rgba': text((*instance['paper'], 1)), 'mass': text([instance.number('mass')]), 'name': 'package',
        }  # fmt: skip
        if instance['shape'] == 'cylinder':
            ET.SubElement(package, 'geom', contact, type='cylinder', size=text((b, a)), zaxis='1 0 0')
            parts.trim(package, 'cylinder', (b * 1.01, a * 0.6), (0, 0, 0), (0.93, 0.90, 0.82), zaxis='1 0 0')
            return
        ET.SubElement(package, 'geom', contact, type='box', size=text((a, b, c)))
        tape = tuple(0.6 * v + 0.05 for v in instance['paper'])
        parts.trim(package, 'box', (a * 1.005, b * 0.16, c * 1.005), (0, 0, 0), tape)
        parts.trim(package, 'box', (a * 0.35, b * 0.5, 0.0004), (a * 0.45, b * 0.4, c), (0.97, 0.97, 0.96))

    def _add_basket(self, world: ET.Element, instance: Instance) -> None:
        """Inner half-lengths along x and y, and the height, in `basket`."""
        (x, y, height), colour = instance['basket'], instance['wicker']
        basket = ET.SubElement(world, 'body', name='basket', mocap='true', pos='0.5 0.15 0')
        parts.box(basket, 'basket_floor', (x + 2 * WALL, y + 2 * WALL, 0.002), (0, 0, 0.002), colour)
        for name, half, at in (
            ('far', (WALL, y + 2 * WALL, height / 2), (x + WALL, 0, height / 2)),
            ('near', (WALL, y + 2 * WALL, height / 2), (-x - WALL, 0, height / 2)),
            ('left', (x, WALL, height / 2), (0, y + WALL, height / 2)),
            ('right', (x, WALL, height / 2), (0, -y - WALL, height / 2)),
        ):
            parts.box(basket, f'basket_{name}', half, at, colour)
        band = tuple(min(1.0, 1.25 * v + 0.08) for v in colour)
        for side in (-1, 1):
            parts.trim(basket, 'box', (WALL * 1.1, y + 2.1 * WALL, 0.004), (side * (x + WALL), 0, height - 0.004), band)
            parts.trim(basket, 'box', (x + 2.1 * WALL, WALL * 1.1, 0.004), (0, side * (y + WALL), height - 0.004), band)

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, rng: np.random.Generator) -> np.ndarray:
        x, y, yaw = self.sample_pose(instance, rng)
        at = np.array([x, y, instance['half'][2]])
        start = int(model.joint('package').qposadr[0])
        data.qpos[start : start + 7] = *at, *yaw_quaternion(yaw + math.pi / 2)
        data.mocap_pos[0] = *rng.uniform(*np.array(self.basket_area)), 0.0
        data.mocap_quat[0] = yaw_quaternion(rng.uniform(-0.25, 0.25))
        return at

    def judge(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, outcome: Outcome, elapsed: float) -> None:
        package, basket, dof = _bodies(model)
        at, turn, speed = data.xpos[package], data.xmat[package].reshape(3, 3), float(np.linalg.norm(data.qvel[dof : dof + 3]))
        touch = parts.touch(model, data, 'package')
        corners = at + (turn @ (_SIGNS * np.array(instance['half'])).T).T - data.xpos[basket]
        corners = corners @ data.xmat[basket].reshape(3, 3)
        room = np.array(instance['basket'])
        over = float(np.abs(corners[:, :2] / room[:2]).max())  # 1: a corner is above a wall's inner side
        inside = over < 1.0 and float(corners[:, 2].max()) < room[2]
        held = outcome.hold(inside and not touch.hand and speed < 0.05, elapsed)
        outcome.success = outcome.success or held >= HOLD_S - 1e-6
        outcome.failure = outcome.failure or bool(at[2] < -0.05)
        outcome.values = {
            'x': float(at[0]), 'y': float(at[1]), 'z': float(at[2]), 'yaw': parts.heading(turn), 'half': float(instance['half'][1]),
            'thumb': float(touch.thumb), 'fingers': float(touch.fingers), 'hand': float(touch.hand), 'inside': float(inside), 'over': over,
            'basket_x': float(data.xpos[basket, 0]), 'basket_y': float(data.xpos[basket, 1]), 'basket_z': float(room[2]),
            'basket_yaw': parts.heading(data.xmat[basket]), 'bottom': float(corners[:, 2].min()), 'held': held,
        }  # fmt: skip


_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
