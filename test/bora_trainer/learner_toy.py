"""A small world for the learner's tests: the right correction of a chunk is known, and what was executed is a mixture of good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bora_common.types import JointLayout, Normalizer, Transition, WeightsVersion
from bora_critic.critic import Critic, CriticSpec
from bora_policy.residual import ResidualChain, ResidualSpec
from bora_replay.buffer import TransitionBuffer

CONFIG = Path(__file__).resolve().parents[2] / 'config'
K, D, T, W, DT = 8, 3, 2, 6, 1 / 15
JOINTS = JointLayout([f'joint{i}' for i in range(D)])
TOKENS = ('camera_front', 'cognition')
MODEL = 'a' * 64
NORMALIZER = Normalizer(np.array([0.1, -0.2, 0.3]), np.array([0.2, 0.1, 0.3]))
BOUND = np.array([0.12, 0.12, 0.4])


def transition(seq: int, **changes: object) -> Transition:
    """A whole chunk of zeros that ends its own episode in success; `changes` replace fields."""
    done = np.zeros(K, bool)
    done[-1] = True
    values = {
        'seq': seq, 'stamp_ns': 10**9 + seq, 'episode': f'e{seq}', 'round': 0, 'task': 'toy', 'robot': 'toy',
        'tokens': np.zeros((T, W), np.float32), 'token_names': TOKENS, 'proprio': np.zeros(D), 'vla': np.zeros((K, D)),
        'executed': np.zeros((K, D)), 'reward': np.zeros(K, np.float32), 'done': done, 'mask': np.ones(K, bool), 'human': np.zeros(K, bool),
        'beta': np.zeros(K, np.float32), 'truncated': False, 'first': 0, 'next_tokens': np.zeros((T, W), np.float32),
        'next_proprio': np.zeros(D), 'success': True, 'dt': DT, 'model_id': MODEL, 'version': WeightsVersion(), 'alpha': 0.0,
    }  # fmt: skip
    return Transition(**(values | changes))


def buffer(capacity: int = 2000) -> TransitionBuffer:
    return TransitionBuffer(capacity, K, D, T, W, dt=DT, joint_names=JOINTS.names, token_names=TOKENS, model_id=MODEL)


def spec(**changes: object) -> CriticSpec:
    values = {
        'model_id': MODEL, 'joints': JOINTS.names, 'token_names': TOKENS, 'token_width': W, 'k': K, 'dt': DT,
        'mean': tuple(NORMALIZER.mean.tolist()), 'std': tuple(NORMALIZER.std.tolist()), 'hidden': 32, 'return_range': (0.0, 1.0),
    }  # fmt: skip
    return CriticSpec(**(values | changes))


def critic(**changes: object) -> Critic:
    return Critic(spec(**changes))


def chain(**changes: object) -> ResidualChain:
    sizes = ResidualSpec(steps=K, joints=D, tokens=T, width=W, knots=4, hidden=32)
    return ResidualChain(sizes, NORMALIZER, BOUND, JOINTS.names)


OFFSET = np.array([0.05, -0.04, 0.15])  # rad, within the reach of alpha 0.75; the base is off by it, in the direction the token says


def bandit(seq: int, rng: np.random.Generator, human: bool, round_number: int = 0) -> Transition:
    """One decision: executing base + sign * OFFSET earns 1, the sign is in the tokens; the own policy explores, a human does it right."""
    sign = rng.choice([-1.0, 1.0])
    tokens = np.full((T, W), 0.0, np.float32)
    tokens[0, :3] = sign
    vla = rng.normal(0, 0.05, D) + np.zeros((K, D))
    offset = sign * OFFSET if human else rng.choice([-1.0, 0.0, 1.0]) * OFFSET
    right = bool(np.allclose(offset, sign * OFFSET))
    reward = np.zeros(K, np.float32)
    reward[-1] = float(right)
    return transition(
        seq, episode=f'b{seq}', round=round_number, tokens=tokens, vla=vla, executed=vla + offset, reward=reward, success=right,
        human=np.full(K, human), beta=np.full(K, float(human), np.float32),
    )  # fmt: skip


def gain(chain: ResidualChain, rng: np.random.Generator, count: int = 64) -> float:
    """Mean share of the right correction that a chain makes, 1 when it is whole."""
    shares = []
    for i in range(count):
        t = bandit(i, rng, True)
        final = chain.apply(t.vla, t.tokens, t.proprio)[1]
        wanted = t.executed - t.vla
        shares.append(float(((final - t.vla) * wanted).sum() / (wanted**2).sum()))
    return float(np.mean(shares))
