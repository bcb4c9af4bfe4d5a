"""Press the button: the cap is driven fully down by a finger tip that stays on it."""

from __future__ import annotations

from functools import lru_cache
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from bora_common.kinematics import FINGER_RADIUS, TIPS
from bora_sim.mjcf import CLOTH, LAB, LAMP, OBJECT_CONTACT, text
from bora_sim.tasks.base import Area, Instance, Outcome, Task, yaw_quaternion

FULL_DEPTH = 0.93  # share of the travel that counts as fully depressed
HOLD_S = 4 / 15  # s, a finger that slips off before that has not pressed
ON_CAP_GAP = 0.003  # m, between tip and cap
WIDE: Area = ((0.42, -0.14), (0.62, 0.14))


def _button(
    name: str, radius: float, travel: float, cap: tuple, housing: tuple, half: float, height: float, stiffness: float = 150.0,
    friction: float = 0.6, **other,
) -> Instance:  # fmt: skip
    values = {'radius': radius, 'travel': travel, 'cap': cap, 'housing': housing, 'half': half, 'height': height}
    return Instance(name, values | {'stiffness': stiffness, 'friction': friction}, **other)


@lru_cache(maxsize=8)
def _indices(model: mujoco.MjModel) -> tuple[int, int, np.ndarray]:
    """(position of the cap's slide in qpos, body of the cap, sites of the tips): names are slow to look up at 100 Hz."""
    return int(model.joint('cap').qposadr[0]), model.body('cap').id, np.array([model.site(tip).id for tip in TIPS])


class PressButton(Task):
    """A spring-loaded cap of 12 mm with a deep travel on a housing, anywhere on a 16 x 24 cm field."""

    name = 'press_button'
    instruction = 'press the button'
    episode_steps = 90
    failure_ends = False
    standard = (_button('red', 0.006, 0.018, (0.85, 0.10, 0.08), (0.93, 0.76, 0.12), 0.028, 0.030),)
    unseen = (
        _button('green', 0.007, 0.016, (0.10, 0.62, 0.22), (0.30, 0.33, 0.38), 0.026, 0.026, 200.0, 0.5, look=LAMP, area=WIDE),
        _button('blue', 0.006, 0.018, (0.12, 0.30, 0.80), (0.88, 0.88, 0.88), 0.032, 0.036, 150.0, 0.7, look=LAB, area=WIDE, turn=1.2),
        _button('white', 0.008, 0.020, (0.92, 0.92, 0.90), (0.50, 0.20, 0.16), 0.034, 0.045, 110.0, 0.4, look=CLOTH),
        _button('red_hidden', 0.006, 0.018, (0.85, 0.10, 0.08), (0.93, 0.76, 0.12), 0.028, 0.030, occluding=(0.09, 0.0, 0.06)),
    )

    def add_objects(self, root: ET.Element, world: ET.Element, instance: Instance) -> None:
        radius, travel, half, height = (float(instance[k]) for k in ('radius', 'travel', 'half', 'height'))
        base = ET.SubElement(world, 'body', name='button', mocap='true', pos='0.5 0 0')
        ET.SubElement(
            base, 'geom', OBJECT_CONTACT, name='housing', type='box', size=text((half, half, height / 2)), pos=text((0, 0, height / 2)),
            rgba=text((*instance['housing'], 1)), condim='4', friction='0.7 0.01 0.001',
        )  # fmt: skip
        ET.SubElement(
            base, 'geom', name='collar', type='cylinder', size=text((radius + 0.004, 0.001)), pos=text((0, 0, height + 0.001)),
            rgba='.15 .15 .16 1', contype='0', conaffinity='0',
        )  # fmt: skip
        cap = ET.SubElement(base, 'body', name='cap', pos=text((0, 0, height + 0.004 + travel)), gravcomp='1')  # origin: the top at rest
        ET.SubElement(
            cap, 'joint', name='cap', type='slide', axis='0 0 1', range=text((-travel, 0)),
            stiffness=text([instance.number('stiffness')]), damping='4', armature='.01',
        )  # fmt: skip
        ET.SubElement(
            cap, 'geom', OBJECT_CONTACT, name='cap', type='cylinder', size=text((radius, (travel + 0.010) / 2)),
            pos=text((0, 0, -(travel + 0.010) / 2)), rgba=text((*instance['cap'], 1)), mass='.02', condim='4',
            friction=text((float(instance['friction']), 0.01, 0.001)), priority='2', solimp='.9 .95 .001',
        )  # fmt: skip

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, rng: np.random.Generator) -> np.ndarray:
        x, y, yaw = self.sample_pose(instance, rng)
        data.mocap_pos[0] = x, y, 0.0
        data.mocap_quat[0] = yaw_quaternion(yaw)
        return data.mocap_pos[0].copy()

    def judge(self, model: mujoco.MjModel, data: mujoco.MjData, instance: Instance, outcome: Outcome, elapsed: float) -> None:
        radius, travel = float(instance['radius']), float(instance['travel'])
        joint, body, sites = _indices(model)
        depth = -float(data.qpos[joint]) / travel
        top, tips = data.xpos[body], data.site_xpos[sites]
        aside = np.hypot(tips[:, 0] - top[0], tips[:, 1] - top[1])
        gap = tips[:, 2] - FINGER_RADIUS - top[2]
        on_cap = bool(np.any((aside <= radius) & (np.abs(gap) <= ON_CAP_GAP)))
        pressed = depth >= FULL_DEPTH and on_cap
        held = outcome.hold(pressed, elapsed)
        outcome.success = outcome.success or held >= HOLD_S - 1e-6
        outcome.values = {
            'cap_x': float(top[0]),
            'cap_y': float(top[1]),
            'cap_z': float(top[2]) + depth * travel,  # top of the cap at rest
            'travel': travel,
            'radius': radius,
            'depth': depth,
            'on_cap': float(on_cap),
            'held': held,
            'tip_aside': float(aside.min()),
        }
