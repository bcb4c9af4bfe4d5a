"""A toy robot of five joints for the policy's tests: sizes, random decisions, perturbed chains."""

import numpy as np
import torch

from bora_common.types import Proposal, StreamId

JOINTS = tuple(f'joint{i}' for i in range(5))
CAMERAS = ('left', 'right')
STEPS, WIDTH = 8, 16


def perturb(chain, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in chain.current.net[-1].parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def inputs(seed=0, batch=None):
    """(A_vla, z, s) of one decision, or of `batch`."""
    rng = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    return (
        rng.normal(0, 0.5, (*lead, STEPS, 5)), rng.normal(0, 1, (*lead, 3, WIDTH)).astype(np.float32), rng.normal(0, 0.5, (*lead, 5))
    )  # fmt: skip


def proposal(seed=0, model_id='m' * 64):
    vla, tokens, proprio = inputs(seed)
    names = ('camera_left', 'camera_right', 'cognition')
    return Proposal(1000, vla, 1 / 15, tokens, names, proprio, model_id, 3, 'e', StreamId(1, seed), StreamId(2, seed))
