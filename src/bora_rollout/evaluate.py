"""Success of a policy on the simulated task, in one process: the graph's own cores without ROS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bora_common.errors import ConfigError, ModelError
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import Observation, StreamId, WeightsVersion
from bora_hil.chunk_player import FADE_STEPS, ChunkPlayer
from bora_policy.packing import unpack_chain
from bora_policy.policy import Policy
from bora_policy.residual import ResidualChain, ResidualSpec
from bora_sim.demos import observe
from bora_sim.world import CAMERAS, CONTROL_TICKS, STEP_TICKS, SimWorld

FIRST_SEED = 1_000_000  # scenes of evaluations; demonstrations and online episodes use seeds below
SEED_STRIDE = 10_000  # largest number of episodes of one evaluation seed
NS_PER_TICK = 1_000_000_000 / 300


@dataclass(frozen=True)
class Trial:
    """One evaluated episode."""

    seed: int
    success: bool
    steps: int


def scene_seed(seed: int, episode: int) -> int:
    """Seed of the scene of an evaluation's episode."""
    if not 0 <= episode < SEED_STRIDE:
        raise ConfigError(f'evaluation: episode {episode} is outside 0..{SEED_STRIDE - 1}')
    return FIRST_SEED + SEED_STRIDE * seed + episode


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson interval of a success rate."""
    if trials == 0:
        return 0.0, 1.0
    rate, zz = successes / trials, z * z / trials
    centre = (rate + zz / 2) / (1 + zz)
    half = z * math.sqrt(rate * (1 - rate) / trials + zz / (4 * trials)) / (1 + zz)
    return max(0.0, centre - half), min(1.0, centre + half)


def zero_chain(policy: Policy, bound: np.ndarray) -> ResidualChain:
    """The chain of no weights for a base policy; `bound` [D] rad."""
    facts = policy.model.facts
    spec = ResidualSpec(facts.steps, len(facts.joint_names), len(facts.token_names), facts.token_width)
    return ResidualChain(spec, policy.model.normalizer, bound, facts.joint_names)


def rollout(world: SimWorld, policy: Policy, chain: ResidualChain, seed: int) -> Trial:
    """One episode from the reset to success, a failure that ends it, or the time limit; a new chunk every `horizon` steps."""
    world.reset(seed)
    facts = policy.model.facts
    sent, player = world.targets, None
    for step in range(world.task.episode_steps):
        now_ns = round(world.ticks * NS_PER_TICK)
        if step % facts.horizon == 0:
            observation = Observation(
                now_ns, observe(world, facts.image_size), CAMERAS, world.qpos, world.task.instruction, f'evaluation-{seed}'
            )  # fmt: skip
            proposal = policy.propose(observation)
            chunk = chain.correct(proposal, now_ns, WeightsVersion(), StreamId())
            player = ChunkPlayer(chunk, now_ns, sent, player, fade_steps=FADE_STEPS if player else 0)
        sent = _play_step(world, player, sent)
        if world.success or (world.failure and world.task.failure_ends):
            return Trial(seed, world.success, step + 1)
    return Trial(seed, False, world.task.episode_steps)


def _play_step(world: SimWorld, player: ChunkPlayer, sent: np.ndarray) -> np.ndarray:
    """Advance one step of 1/15 s, the targets renewed at 100 Hz; the last sent command [D]."""
    done = 0
    while done < STEP_TICKS:
        n = min(CONTROL_TICKS - world.ticks % CONTROL_TICKS, STEP_TICKS - done)
        done += n
        sent = player.position(round((world.ticks + n) * NS_PER_TICK))
        world.step_physics(sent, n)
    return sent


def evaluate(
    task: str,
    model_dir: str | Path | Policy,
    residual: str | Path | ResidualChain | None = None,
    episodes: int = 40,
    seed: int = 0,
    *,
    variant: str = 'standard',
    joint_offset: np.ndarray | None = None,
    robot_config: str = 'fr3_hand12',
    progress: Callable[[int, Trial], None] = lambda done, trial: None,
) -> dict[str, object]:
    """Success of base model and residual (a package's file or a chain) on `episodes` fresh scenes.

    `variant`: "standard" or "unseen" objects. `joint_offset` [D] rad: a calibration error of the robot. The result is JSON-able.
    """
    robot = load_robot(resolve(robot_config, 'config/robots'))
    policy = model_dir if isinstance(model_dir, Policy) else Policy.load(model_dir, joint_names=robot.layout.names)
    chain = zero_chain(policy, robot.residual_bound)
    if isinstance(residual, ResidualChain):
        chain = residual
    elif residual is not None:
        chain, _ = unpack_chain(_read(Path(residual)), model_id=policy.model.model_id, like=chain, what=str(residual))
    world = SimWorld(task, scene_seed(seed, 0), variant, joint_offset)
    trials = []
    for episode in range(episodes):
        trials.append(rollout(world, policy, chain, scene_seed(seed, episode)))
        progress(episode + 1, trials[-1])
    successes = sum(t.success for t in trials)
    return {
        'task': task, 'variant': variant, 'model': policy.model.model_id, 'seed': seed, 'successes': successes, 'trials': episodes,
        'residual': None if residual is None else 'chain' if isinstance(residual, ResidualChain) else str(residual),
        'wilson95': list(wilson(successes, episodes)), 'mean_steps': float(np.mean([t.steps for t in trials])) if trials else None,
    }  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: {error.strerror}') from None
