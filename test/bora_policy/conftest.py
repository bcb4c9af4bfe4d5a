"""Fixtures of the policy's tests; puts the toy robot on the path and keeps torch on one thread."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for policy_toy
torch.set_num_threads(1)

from policy_toy import CAMERAS, JOINTS, STEPS, WIDTH, perturb  # noqa: E402

from bora_common.types import JointLayout, Normalizer  # noqa: E402
from bora_policy.residual import ResidualChain, ResidualSpec  # noqa: E402
from bora_policy.vla import build, small_vlm  # noqa: E402


@pytest.fixture(scope='session')
def normalizer():
    return Normalizer(np.linspace(-1, 1, 5), np.linspace(0.1, 0.5, 5))


@pytest.fixture(scope='session')
def small_vla(normalizer):
    """A very small base model with random weights."""
    torch.manual_seed(0)
    model = build(
        JointLayout(JOINTS), CAMERAS, normalizer, instructions=['press the button'], image_size=32, steps=STEPS, horizon=4,
        vlm=small_vlm(32, 80, width=WIDTH, layers=1), knots=4, hidden=32, blocks=1, instruction_length=6,
    )  # fmt: skip
    return model.requires_grad_(False).eval()


@pytest.fixture
def make_chain(normalizer):
    """Chains whose current actor has random weights of a given scale."""

    def make(scale=0.0, alpha=0.0, seed=0, **changes):
        torch.manual_seed(seed)
        spec = dataclasses.replace(ResidualSpec(steps=STEPS, joints=5, tokens=3, width=WIDTH, knots=4, hidden=16), **changes)
        chain = ResidualChain(spec, normalizer, np.full(5, 0.2), JOINTS)
        perturb(chain, scale, seed)
        chain.alpha = alpha
        return chain

    return make
