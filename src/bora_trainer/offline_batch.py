"""A batch of chunks as tensors, and the random numbers that go with it.

All processes of a run draw the numbers of the joint batch from the same generator and keep their own rows: the result does not depend on
how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bora_policy.vla import BoraVLA
from bora_trainer.offline_config import ActorConfig
from bora_trainer.offline_data import OfflineData


@dataclass(frozen=True)
class Rows:
    """B chunks on the training device; positions normalised."""

    images: Tensor  # uint8 [B,C,H,W,3]
    ids: Tensor  # [B,L] instruction
    words: Tensor  # [B,L] its mask
    s: Tensor  # [B,D]
    executed: Tensor  # [B,k,D]
    intended: Tensor  # [B,k,D]
    mask: Tensor  # bool [B,k]
    reward: Tensor  # [B,k]
    done: Tensor  # bool [B,k]
    returns: Tensor  # [B,k]
    next_images: Tensor  # uint8 [B,C,H,W,3]
    next_s: Tensor  # [B,D]


class Fetcher:
    """Rows of one data set for one model."""

    def __init__(self, model: BoraVLA, data: OfflineData, device: torch.device, length: int = 0):
        """`length`: of the instructions at least, in words; rows of data sets with other tasks can be joined then."""
        self.model, self.data, self.device = model, data, device
        texts = model.instruction_ids(data.frames.instructions)  # [tasks,L] each
        self._ids, self._words = (nn.functional.pad(t, (0, max(0, length - t.shape[1]))) for t in texts)
        self.length = self._ids.shape[1]

    def text(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Instruction ids and mask [B,L] of frames."""
        task = torch.from_numpy(self.data.frames.task[frames]).to(self.device)
        return self._ids[task], self._words[task]

    def images(self, frames: np.ndarray) -> Tensor:
        """uint8 [B,C,H,W,3]."""
        return torch.from_numpy(self.data.frames.images[frames]).to(self.device, non_blocking=True)

    def positions(self, values: np.ndarray) -> Tensor:
        """rad -> normalised float32."""
        return self.model.normalize(torch.from_numpy(values).to(self.device, torch.float32))

    def rows(self, frames: np.ndarray, *, images: bool = True, following: bool = True) -> Rows:
        """The chunks that start at `frames` [B]; without `images` or those of the next state, these fields are empty."""
        chunks = self.data.chunks(frames, self.model.facts.steps)
        none = torch.empty(0, dtype=torch.uint8, device=self.device)
        ids, words = self.text(frames)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(self.device)

        return Rows(
            images=self.images(frames) if images else none, ids=ids, words=words, s=self.positions(self.data.frames.proprio[frames]),
            executed=self.positions(chunks.executed), intended=self.positions(chunks.intended), mask=tensor(chunks.mask),
            reward=tensor(chunks.reward), done=tensor(chunks.done), returns=tensor(chunks.returns),
            next_images=self.images(chunks.next) if images and following else none,
            next_s=self.positions(self.data.frames.proprio[chunks.next]),
        )  # fmt: skip


@dataclass(frozen=True)
class Noise:
    """Random numbers of B rows."""

    tint: Tensor  # [B,3,3] mixture of the colours of each scene
    gain: Tensor  # [B,C] relative contrast of each image
    offset: Tensor  # [B,C] brightness
    s: Tensor  # [B,D] on the normalised proprioception
    sigma: Tensor  # [B] noise level of behaviour cloning
    knots: Tensor  # [B,K,D] its noise
    xi: Tensor  # [B,K,D] noise that new and old policy share
    tokens: Tensor  # [B,T,W] of unit deviation, on what the critic reads

    def rows(self, rows: slice, device: torch.device) -> Noise:
        """Some of the rows, on `device`."""
        return Noise(**{f.name: getattr(self, f.name)[rows].to(device) for f in fields(Noise)})

    @staticmethod
    def draw(model: BoraVLA, config: ActorConfig, batch: int, generator: torch.Generator) -> Noise:
        """Numbers of a joint batch, on the CPU."""
        cameras, joints, knots = len(model.facts.camera_names), len(model.layout), model.config.knots

        def uniform(width: float, *shape: int) -> Tensor:
            return width * (2 * torch.rand(batch, *shape, generator=generator) - 1)

        tint = torch.eye(3) + uniform(config.tint, 3, 3)
        gain, offset = 1 + uniform(config.jitter, cameras), uniform(config.jitter, cameras)
        s = config.proprio_noise * torch.randn(batch, joints, generator=generator) / model.std.cpu()
        sigma = model.expert.draw_levels(batch, generator)
        knots, xi = (torch.randn(batch, knots, joints, generator=generator) for _ in range(2))
        tokens = torch.randn(batch, len(model.facts.token_names), model.facts.token_width, generator=generator)
        return Noise(tint, gain, offset, s, sigma, knots, xi, tokens)

    def jitter(self, pixels: Tensor) -> Tensor:
        """Colours, brightness and contrast of pixels [B,C,3,H,W] in -1..1: those of a lamp, a camera or an object that was never seen."""
        colours = pixels.movedim(2, -1)  # last in memory too, as the images came
        pixels = (colours.flatten(1, 3) @ self.tint.mT).view_as(colours).movedim(-1, 2)
        return (pixels * self.gain[..., None, None, None]).add_(self.offset[..., None, None, None]).clamp_(-1, 1)


Part = TypeVar('Part', Rows, Noise)


def join(parts: Sequence[Part]) -> Part:
    """Batches one after the other."""
    return type(parts[0])(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(parts[0])})
