"""Plush toy: a soft round thing is lifted off the table and stays in the grasp. It rolls away when it is squeezed beside its middle."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_sim.mjcf import CLOTH, LAB, LAMP, OBJECT_CONTACT, text
from bora_sim.tasks import parts
from bora_sim.tasks.base import Area, Instance, Outcome, Task, yaw_quaternion

LIFT = 0.05  # m
HOLD_S = 0.5
WIDE: Area = ((0.42, -0.14), (0.62, 0.14))


def _toy(name: str, radii: tuple, mass: float, fur: tuple, friction: float, softness: float, head: float = 0.6, **other) -> Instance:
    return Instance(name, {'radii': radii, 'mass': mass, 'fur': fur, 'friction': friction, 'softness': softness, 'head': head}, **other)


class PlushToy(Task):
    """An animal with a head and ears, lying anywhere in a tray."""

    name = 'plush_toy'
    instruction = 'pick up the plush toy'
    episode_steps = 120
    failure_ends = True
    turn = 0.8
    standard = (
        _toy('bear', (0.034, 0.027, 0.027), 0.080, (0.62, 0.38, 0.20), 0.9, 0.006),
        _toy('rabbit', (0.036, 0.026, 0.026), 0.070, (0.86, 0.80, 0.78), 0.9, 0.006),
    )
    unseen = (
        _toy('frog', (0.030, 0.024, 0.022), 0.055, (0.30, 0.62, 0.22), 0.8, 0.005, head=0.7, look=LAMP, area=WIDE),
        _toy('seal', (0.042, 0.029, 0.028), 0.130, (0.42, 0.47, 0.55), 0.7, 0.008, head=0.45, look=LAB, area=WIDE, turn=1.1),
        _toy('ball', (0.029, 0.029, 0.029), 0.060, (0.85, 0.30, 0.42), 0.8, 0.004, head=0.0, look=CLOTH),
        _toy('bear_hidden', (0.034, 0.027, 0.027), 0.080, (0.62, 0.38, 0.20), 0.9, 0.006, occluding=(0.09, 0.0, 0.03)),
    )

    def add_objects(self, root: ET.Element, world: ET.Element, instance: Instance) -> None:
        (a, b, c), mass, fur = instance['radii'], instance.number('mass'), instance['fur']
        head = instance.number('head') * b
        soft = {
            'condim': '6', 'priority': '1', 'friction': text((instance.number('friction'), 0.02, 0.005)), 'solref': '.02 1',
            'solimp': text((0.8, 0.95, instance.number('softness'))), 'rgba': text((*fur, 1)),
        } | OBJECT_CONTACT  # fmt: skip
        parts.tray(world, (0.34, -0.24), (0.70, 0.24))
        toy = parts.free_body(world, 'toy')
        ET.SubElement(toy, 'geom', soft, name='toy', type='ellipsoid', size=text((a, b, c)), mass=text([mass * (0.85 if head else 1.0)]))
        if not head:
            parts.trim(toy, 'ellipsoid', (a * 1.01, b * 1.01, 0.006), (0, 0, 0), (0.95, 0.85, 0.30))
            return
        x, z = a * 0.86, c * 0.20
        ET.SubElement(toy, 'geom', soft, name='head', type='sphere', size=text([head]), pos=text((x, 0, z)), mass=text([mass * 0.15]))
        dark, light = (0.10, 0.08, 0.08), tuple(min(1.0, 0.35 + 0.65 * v) for v in fur)
        for side in (-1, 1):
            parts.trim(toy, 'ellipsoid', (0.004, 0.005, 0.009), (x - 0.002, side * 0.62 * head, z + 0.85 * head), fur)
            parts.trim(toy, 'sphere', (0.0022,), (x + 0.80 * head, side * 0.38 * head, z + 0.42 * head), dark)
        parts.trim(toy, 'ellipsoid', (0.005, 0.006, 0.005), (x + 0.85 * head, 0, z - 0.05 * head), light)
        parts.trim(toy, 'ellipsoid', (a * 0.72, b * 0.72, c * 0.5), (0, 0, c * 0.53), light)

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, rng: np.random.Generator) -> np.ndarray:
        x, y, yaw = self.sample_pose(instance, rng)
        at = np.array([x, y, instance['radii'][2]])
        start = int(model.joint('toy').qposadr[0])
        data.qpos[start : start + 7] = *at, *yaw_quaternion(yaw + math.pi / 2)  # its long axis across the robot's forward one
        return at

    def judge(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, outcome: Outcome, elapsed: float) -> None:
        body = data.body('toy')
        lowest = float(body.xpos[2]) - instance['radii'][2]
        touch = parts.touch(model, data, 'toy')
        held = outcome.hold(lowest > LIFT and touch.gripped and not touch.table, elapsed)
        outcome.success = outcome.success or held >= HOLD_S - 1e-6
        outcome.failure = outcome.failure or bool(body.xpos[2] < -0.05)
        x, y, z = (float(v) for v in body.xpos)
        outcome.values = {
            'x': x, 'y': y, 'z': z, 'yaw': parts.heading(body.xmat), 'half': float(instance['radii'][1]), 'lift': lowest,
            'thumb': float(touch.thumb), 'fingers': float(touch.fingers), 'held': held,
        }  # fmt: skip
