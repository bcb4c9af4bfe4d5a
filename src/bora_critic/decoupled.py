"""The decoupled critic, the baseline: the same Q and V heads and losses on a pixel encoder of its own, without the VLM's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bora_critic.networks import ValueHeads
from bora_critic.value_model import Observation


class PixelEncoder(nn.Module):
    """Camera images uint8 [B,C,S,S,3] -> one token a camera [B,C,W].

    One small convolutional net for all cameras; each channel's soft arg max and strongest response say where and whether something is.
    Stride 4, then 2, is what makes it affordable on a CPU.
    """

    CHANNELS = (12, 24, 32)

    def __init__(self, width: int):
        super().__init__()
        first, second, third = self.CHANNELS
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 5, 4, 2), nn.ReLU(), nn.Conv2d(first, second, 3, 2, 1), nn.ReLU(), nn.Conv2d(second, third, 3, 1, 1)
        )
        self.out = nn.Linear(3 * third, width)

    def forward(self, images: Tensor) -> Tensor:
        b, c = images.shape[:2]
        pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float()  # channels last in memory, as they came
        maps = self.stem(pixels.div_(127.5).sub_(1.0))
        return self.out(torch.cat([soft_arg_max(maps), maps.amax((2, 3))], 1)).unflatten(0, (b, c))


def soft_arg_max(maps: Tensor) -> Tensor:
    """Expected image coordinates of each channel: [B,F,h,w] -> [B,2F] in -1..1 (x of every channel, then y)."""
    b, f, h, w = maps.shape
    weight = torch.softmax(maps.flatten(2), -1).view(b, f, h, w)
    x = torch.linspace(-1.0, 1.0, w, device=maps.device)
    y = torch.linspace(-1.0, 1.0, h, device=maps.device)
    return torch.cat([(weight.sum(2) * x).sum(-1), (weight.sum(3) * y).sum(-1)], 1)


class DecoupledCritic(ValueHeads):
    """q [E,B,M] and v [B,M] as in `Critic`; `features` encodes pixels, and the losses train the encoder."""

    def __init__(self, cameras: Sequence[str], joints: Sequence[str], k: int, hidden: int = 128, ensemble: int = 2, width: int = 64):
        super().__init__(ensemble, len(cameras), width, len(joints), k, hidden=hidden, detach=False)
        self.cameras = tuple(cameras)
        self.encoder = PixelEncoder(width)

    def features(self, observation: Observation) -> Tensor:
        """[B,C,W] from `observation['images']`, uint8 [B,C,S,S,3]."""
        images = observation['images']
        if images.dtype != torch.uint8 or images.shape[1] != len(self.cameras) or images.shape[-1] != 3:
            raise ValueError(f'images {images.dtype} {list(images.shape)}, expected uint8 [B,{len(self.cameras)},S,S,3]')
        return self.encoder(images)
