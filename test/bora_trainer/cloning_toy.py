"""Synthetic demonstrations of a robot with two joints: the picture's brightness tells where the arm must go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bora_common.types import JointLayout
from bora_trainer.dataset import Demonstrations, Episode

JOINTS, CAMERAS = ('a', 'b'), ('left', 'right')
LAYOUT = JointLayout(JOINTS)


def content(seed: int, length: int = 6, task: str = 'press', success: bool = True) -> dict[str, np.ndarray]:
    """What the file of one episode holds."""
    level = np.random.default_rng(seed).uniform(0, 1)
    images = np.full((length, 2, 32, 32, 3), round(255 * level), np.uint8)
    goal = np.float32([level, -level])
    intended = np.linspace(1 / length, 1, length, dtype=np.float32)[:, None] * goal
    return {
        'images': images, 'proprio': intended - goal / length, 'executed': intended + np.float32(0.01), 'intended': intended,
        'task': np.array(task), 'success': np.array(success), 'joints': np.array(JOINTS), 'cameras': np.array(CAMERAS),
    }  # fmt: skip


def write(path: Path, seed: int = 0, *, without: str = '', length: int = 6, task: str = 'press', success: bool = True, **changes) -> Path:
    """The file of one episode, with some of its content replaced or left out."""
    values = {**content(seed, length, task, success), **changes}
    values.pop(without, None)
    np.savez_compressed(path, **values)
    return path


def demonstrations(*lengths: int, tasks: tuple[str, ...] = ()) -> Demonstrations:
    """Episodes of so many steps in memory, of one task or of one each."""
    tasks = tasks or ('press',) * len(lengths)
    parts = [content(i, n) for i, n in enumerate(lengths)]
    arrays = [np.concatenate([p[name] for p in parts]) for name in ('images', 'proprio', 'executed', 'intended')]
    episodes = [Episode(f'e{i}', task, f'{task} it', n, True) for i, (n, task) in enumerate(zip(lengths, tasks, strict=True))]
    return Demonstrations(*arrays, episodes)
