"""A small world for the offline phase: pictures whose brightness tells where the arm must go, episodes that reach the goal or do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import JointLayout, Normalizer
from bora_critic.critic import Critic, CriticSpec
from bora_critic.decoupled import DecoupledCritic
from bora_policy.vla import BoraVLA, build, small_vlm
from bora_trainer.dataset import Demonstrations, Episode
from bora_trainer.offline_config import ActorConfig, CriticConfig, DataConfig, ModelConfig, OfflineConfig, PPOConfig, RunConfig
from bora_trainer.offline_data import OfflineData
from bora_trainer.offline_phase import OfflinePhase

JOINTS, CAMERAS, K, LIMIT, GAMMA, SIZE = ('a', 'b'), ('left', 'right'), 8, 12, 0.9, 32
TASKS = {'push': LIMIT, 'pull': LIMIT}
NORMALIZER = Normalizer(np.zeros(2), np.full(2, 0.5))


def frames(lengths=(5, 12, 7, 12, 9, 6), success=(True, False, True, False, False, True), seed=0, tasks=('push', 'pull')) -> Demonstrations:
    """Episodes of alternating tasks; where `push` stopped early without success it failed, while `pull` just ran out of time."""
    rng = np.random.default_rng(seed)
    parts, episodes = [], []
    for i, (length, good) in enumerate(zip(lengths, success, strict=True)):
        task, level = tasks[i % len(tasks)], rng.uniform()
        goal = np.float32([level, -level])
        ramp = np.linspace(1 / length, 1, length, dtype=np.float32)[:, None]
        images = np.full((length, len(CAMERAS), SIZE, SIZE, 3), round(255 * level), np.uint8)
        noise = rng.normal(0, 0.02, (length, 2)).astype(np.float32)
        parts.append((images, (ramp - 1 / length) * goal, ramp * goal * (1.0 if good else 0.3) + noise, ramp * goal))
        failed = task == 'push' and not good and length < LIMIT
        episodes.append(Episode(f'{task}_{i}', task, f'{task} it', length, good, failed))
    return Demonstrations(*(np.concatenate(column) for column in zip(*parts, strict=True)), episodes)


def data(**changes: object) -> OfflineData:
    return OfflineData(frames(**changes), TASKS, GAMMA)


def config(**changes: object) -> OfflineConfig:
    """Both stages within twelve updates; `changes` are fields, or dictionaries of fields of a section."""
    base = OfflineConfig(
        name='toy', updates=12, batch=8, data=DataConfig(demonstrations=('nowhere',), own_rollouts=('nowhere',)),
        actor=ActorConfig(warm_up=2), ppo=PPOConfig(enabled=True, start=6, refresh=3, gate='none'),
        critic=CriticConfig(kind='tokens', warm_up=3, gamma=GAMMA, sub_steps=4, hidden=16, head_start=2, settle=3, alone_batch=4),
        model=ModelConfig(width=16, layers=1, hidden=32, blocks=1, knots=4, steps=K, horizon=4),
        run=RunConfig(device='cpu', tensorboard=False, checkpoint_every=4),
    )  # fmt: skip
    values = {k: dataclasses.replace(getattr(base, k), **v) if isinstance(v, dict) else v for k, v in changes.items()}
    return dataclasses.replace(base, **values)


def model(seed: int = 0, expert: str = 'consistency') -> BoraVLA:
    torch.manual_seed(seed)
    vlm = small_vlm(SIZE, 90, width=16, layers=1)
    return build(
        JointLayout(JOINTS), CAMERAS, NORMALIZER, instructions=['push it', 'pull it'], image_size=SIZE, steps=K, horizon=4, vlm=vlm,
        knots=4, hidden=32, blocks=1, expert=expert,
    )  # fmt: skip


def critic(kind: str = 'tokens', seed: int = 1) -> torch.nn.Module | None:
    torch.manual_seed(seed)
    if kind == 'pixels':
        return DecoupledCritic(CAMERAS, JOINTS, K, hidden=16, width=8)
    names = (*(f'camera_{c}' for c in CAMERAS), 'cognition')
    return None if kind == 'none' else Critic(CriticSpec('', JOINTS, names, 16, K, 1 / 15, (0.0, 0.0), (0.5, 0.5), hidden=16, gamma=GAMMA))


def phase(
    settings: OfflineConfig | None = None, own: bool = True, seed: int = 0, expert: str = 'consistency', **more: object
) -> OfflinePhase:
    """A new phase; the same arguments give the same one."""
    settings = settings or config()
    mine = data(seed=7, success=(False,) * 6) if own else None
    return OfflinePhase(model(seed, expert), critic(settings.critic.kind), data(), settings, mine, **more)


def write_demonstrations(folder: Path, joints: tuple[str, ...], cameras: tuple[str, ...], count: int = 6, seed: int = 0) -> Path:
    """Files as `bora sim demos` writes them, of the task press_button, with pictures of 32 px."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        length, level = 6 + 2 * i, rng.uniform()
        goal = rng.normal(0, 0.3, len(joints)).astype(np.float32)
        ramp = np.linspace(0, level, length, dtype=np.float32)[:, None]
        np.savez_compressed(
            folder / f'press_button_{i:06d}.npz', task='press_button', success=bool(i % 2), poor=False, seed=i,
            images=np.full((length, len(cameras), SIZE, SIZE, 3), round(200 * level), np.uint8), proprio=ramp * goal,
            executed=ramp * goal + 0.01, intended=ramp * goal, joints=np.array(joints), cameras=np.array(cameras),
        )  # fmt: skip
    return folder


def run_config(folder: Path, **changes: object) -> OfflineConfig:
    """A run of twelve updates on files in `folder`/demonstrations, own episodes and held-out ones beside them."""
    robot = load_robot(resolve('fr3_hand12', 'config/robots'))
    places = {}
    for seed, name in enumerate(('demonstrations', 'own_rollouts', 'held_out')):
        places[name] = (str(folder / name),)
        if not (folder / name).exists():
            write_demonstrations(folder / name, robot.layout.names, robot.cameras, 6 if seed == 0 else 2, seed)
    run = {'out': str(folder / 'model'), **changes.pop('run', {})}
    return config(data={**places, **changes.pop('data', {})}, run=run, **changes)
