"""What the monitor draws: proposed and corrected chunk as paths, value and intervention state as text and colour. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bora_common.kinematics import forward
from bora_common.types import ArbiterState

PALM = 'hand_palm'
TIPS = ('hand_thumb_tip', 'hand_index_tip', 'hand_middle_tip', 'hand_ring_tip', 'hand_little_tip')
FRAMES = (PALM, *TIPS)
BASE_FRAME = 'fr3_link0'
STRIDE = 4  # chunk steps between two points of a path

Colour = tuple[float, float, float, float]
PROPOSED: Colour = (0.60, 0.64, 0.69, 0.7)
CORRECTED: Colour = (0.15, 0.39, 0.92, 0.95)
STATE_COLOURS: dict[ArbiterState, Colour] = {
    ArbiterState.RESET: (0.60, 0.64, 0.69, 1.0),
    ArbiterState.HOLD: (0.92, 0.76, 0.18, 1.0),
    ArbiterState.AUTONOMOUS: (0.15, 0.39, 0.92, 1.0),
    ArbiterState.BLEND_IN: (0.92, 0.54, 0.12, 1.0),
    ArbiterState.HUMAN: (0.92, 0.54, 0.12, 1.0),
    ArbiterState.BLEND_OUT: (0.18, 0.62, 0.36, 1.0),
    ArbiterState.FAULT: (0.82, 0.27, 0.24, 1.0),
}


@dataclass(frozen=True)
class Path:
    """A line strip in `fr3_link0`."""

    namespace: str
    number: int
    points: np.ndarray  # [N, 3] m
    colour: Colour
    width: float  # m


@dataclass(frozen=True)
class Label:
    """Text that faces the viewer, or a sphere where `text` is empty."""

    namespace: str
    number: int
    position: tuple[float, float, float]  # m, in fr3_link0
    text: str
    colour: Colour
    size: float  # m


def frame_paths(positions: np.ndarray, stride: int = STRIDE) -> dict[str, np.ndarray]:
    """Path [N, 3] in m of palm and finger tips for joint positions [k, D] in rad; the last step is always on it."""
    steps = [*range(0, len(positions) - 1, stride), len(positions) - 1]
    poses = [forward(positions[i]) for i in steps]
    return {frame: np.stack([p[frame][:3, 3] for p in poses]) for frame in FRAMES}


def chunk_paths(base: np.ndarray, final: np.ndarray) -> list[Path]:
    """Paths of the proposed chunk and of the corrected one, both [k, D] in rad."""
    paths = []
    for namespace, positions, colour in (('proposed', base, PROPOSED), ('corrected', final, CORRECTED)):
        found = frame_paths(np.asarray(positions))
        paths += [Path(namespace, i, found[f], colour, 0.006 if f == PALM else 0.003) for i, f in enumerate(FRAMES)]
    return paths


def risk_colour(risk: float) -> Colour:
    """Green at 0 through yellow to red at 1."""
    risk = min(max(risk, 0.0), 1.0)
    return (min(2 * risk, 1.0) * 0.85, min(2 * (1 - risk), 1.0) * 0.7, 0.15, 1.0)


def state_labels(
    state: ArbiterState | None,
    reason: str,
    beta: float,
    value: tuple[float, float] | None,
    robot: str,
    episode: str,
    training: Sequence[str],
) -> list[Label]:
    """Labels above the robot. `value` is (v of the chunk's first step, risk 0..1)."""
    colour = STATE_COLOURS[state] if state is not None else STATE_COLOURS[ArbiterState.RESET]
    name = state.name if state is not None else 'no arbiter'
    who = f'{name}  β {beta:.2f}' + (f'  ({reason})' if reason else '')
    labels = [Label('state', 0, (0.0, 0.0, 1.15), '', colour, 0.08), Label('state', 1, (0.0, 0.0, 1.27), who, colour, 0.05)]
    if value is not None:
        labels.append(Label('value', 0, (0.0, 0.0, 1.37), f'value {value[0]:+.2f}  risk {value[1]:.0%}', risk_colour(value[1]), 0.05))
    lines = [line for line in (robot, episode, *training) if line]
    return labels + [Label('status', i, (0.0, 0.0, 1.46 + 0.07 * i), line, (0.9, 0.9, 0.9, 1.0), 0.04) for i, line in enumerate(lines)]


def transforms(positions: np.ndarray, parents: Mapping[str, str]) -> dict[str, tuple[str, np.ndarray]]:
    """{frame: (parent frame, transform [4, 4] in the parent)} for joint positions [D]."""
    world = forward(positions)
    return {f: (p, np.linalg.inv(world[p]) @ world[f]) for f, p in parents.items() if p in world and f in world}


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """(x, y, z, w) of a rotation matrix [3, 3]."""
    w = np.sqrt(max(0.0, 1.0 + rotation[0, 0] + rotation[1, 1] + rotation[2, 2])) / 2
    xyz = [np.sqrt(max(0.0, 1.0 + 2 * rotation[i, i] - np.trace(rotation))) / 2 for i in range(3)]
    signs = (rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1])
    if w > 1e-6:
        x, y, z = (float(np.copysign(a, s)) for a, s in zip(xyz, signs, strict=True))
        return (x, y, z, float(w))
    i = int(np.argmax(xyz))  # half a turn: the largest component gives the signs of the others
    vector = (rotation[:, i] + np.eye(3)[:, i]) / (2 * xyz[i])
    return (float(vector[0]), float(vector[1]), float(vector[2]), 0.0)
