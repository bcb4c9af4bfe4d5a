"""A small convolutional tower in SigLIP's place: one spatial-softmax token and a grid of tokens per image.

Registered with transformers as model type `bora_conv_vision`, so that a PaliGemma config can name it as its vision tower. Trained from
scratch on few demonstrations it localises far better than patch embeddings do: the soft arg max of each channel is a coordinate.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class ConvVisionConfig(PretrainedConfig):
    """Sizes of the tower. `image_size / patch_size` is the side of the token grid."""

    model_type = 'bora_conv_vision'

    def __init__(
        self,
        image_size: int = 64,
        patch_size: int = 16,
        hidden_size: int = 128,
        channels: tuple[int, ...] = (24, 48, 48, 64),
        projection_dim: int = 128,
        **kwargs: object,
    ):
        self.image_size, self.patch_size, self.hidden_size = image_size, patch_size, hidden_size
        self.channels, self.projection_dim = list(channels), projection_dim
        super().__init__(**kwargs)


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of each channel: [B,F,h,w] -> [B,2F] in -1..1 (x of every channel, then y)."""

    def __init__(self, channels: int):
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.zeros(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        _, _, h, w = features.shape
        weight = torch.softmax((features * self.log_sharpness.exp()[:, None, None]).flatten(2), dim=-1)
        y, x = torch.meshgrid(torch.linspace(-1.0, 1.0, h), torch.linspace(-1.0, 1.0, w), indexing='ij')
        places = torch.stack([x.flatten(), y.flatten()], 1).to(weight)
        return (weight @ places).transpose(1, 2).flatten(1)


class ConvVisionModel(PreTrainedModel):
    """pixel_values [B,3,S,S] in -1..1 -> last_hidden_state [B, 1 + (S / patch)^2, hidden]: spatial-softmax token first."""

    config_class = ConvVisionConfig
    base_model_prefix = 'vision'
    main_input_name = 'pixel_values'

    def __init__(self, config: ConvVisionConfig):
        super().__init__(config)
        c1, c2, c3, c4 = config.channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, c1, 5, 2, 2), nn.ReLU(), nn.Conv2d(c1, c2, 3, 2, 1), nn.ReLU(), nn.Conv2d(c2, c3, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(c3, c4, 3, 1, 1),
        )  # fmt: skip
        self.softmax = SpatialSoftmax(c4)
        self.point = nn.Sequential(nn.Linear(2 * c4, config.hidden_size), nn.SiLU(), nn.Linear(config.hidden_size, config.hidden_size))
        self.grid = nn.Linear(c4, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """torch's own initialisation is kept: the stem needs its fan-in scale, not a transformer's 0.02."""

    def forward(self, pixel_values: torch.Tensor, **_: object) -> BaseModelOutputWithPooling:
        features = self.stem(pixel_values.contiguous(memory_format=torch.channels_last))  # faster on a CPU
        side = self.config.image_size // self.config.patch_size
        cells = nn.functional.adaptive_avg_pool2d(torch.relu(features), side).flatten(2).transpose(1, 2)
        point = self.point(self.softmax(features))
        return BaseModelOutputWithPooling(last_hidden_state=torch.cat([point[:, None], self.grid(cells)], dim=1), pooler_output=point)


AutoConfig.register(ConvVisionConfig.model_type, ConvVisionConfig, exist_ok=True)
AutoModel.register(ConvVisionConfig, ConvVisionModel, exist_ok=True)
