"""The processes of one data-parallel training run (torchrun): which rows are whose, and sums over all of them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bora_common.errors import ConfigError


class Replicas:
    """This process among `size` that train together. Alone, nothing here costs anything."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @staticmethod
    def from_environment(device: torch.device) -> Replicas:
        """As torchrun's variables say; joins the process group where there is one to join."""
        size = int(os.environ.get('WORLD_SIZE', '1'))
        if size == 1:
            return Replicas()
        dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
        return Replicas(dist.get_rank(), size)

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            dist.destroy_process_group()

    def rows(self, batch: int) -> slice:
        """Rows of the joint batch that are this process's. Raises ConfigError where they can not be shared out evenly."""
        if batch % self.size:
            raise ConfigError(f'batch: {batch} rows can not be shared out evenly to {self.size} processes')
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the processes while they are computed."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def weight(self, mask: Tensor) -> Tensor | float:
        """Factor of this process's masked mean, so that the average over the processes is the masked mean of the joint batch."""
        if self.size == 1:
            return 1.0
        count = mask.sum().to(torch.float32)
        return self.size * count / self.total(count).clamp(min=1)
