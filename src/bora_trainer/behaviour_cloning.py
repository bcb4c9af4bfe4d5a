"""Behaviour cloning of the base model from demonstrations: every frame starts a chunk, targets are absolute joint positions.

Recipe: AdamW with warm-up and cosine decay, an exponential average of the weights, the expert's own masked loss, brightness and contrast
jitter, noise on the proprioception; every task as often as every other. Progress is written atomically and training goes on from it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bora_common.errors import ConfigError, ModelError
from bora_common.types import JointLayout
from bora_policy.vla import BoraVLA, build
from bora_trainer.dataset import Demonstrations, load_demonstrations

CHECKPOINT = 'behaviour_cloning.safetensors'


@dataclass(frozen=True)
class Settings:
    """Recipe of a training run; `seed` fixes initial weights, batches and noise."""

    updates: int = 2500  # that the learning rate's decay is planned for
    batch: int = 32
    rate: float = 7e-4
    warm_up: int = 200
    weight_decay: float = 1e-3
    clip: float = 1.0
    average: float = 0.995  # of the exponential average of the weights
    jitter: float = 0.2  # relative brightness and contrast
    proprio_noise: float = 0.01  # rad
    seed: int = 0
    threads: int = 1
    checkpoint_every: int = 250
    bf16: bool = False  # the VLM's passes in bfloat16; weights, average and the small action expert stay float32


def augment(pixels: torch.Tensor, settings: Settings, generator: torch.Generator) -> torch.Tensor:
    """Brightness and contrast jitter of pixels [B,C,3,H,W] in -1..1; each image has its own draw, made on the CPU."""
    b, c = pixels.shape[:2]
    gain = 1 + settings.jitter * (2 * torch.rand(b, c, 1, 1, 1, generator=generator) - 1)
    offset = settings.jitter * (2 * torch.rand(b, c, 1, 1, 1, generator=generator) - 1)
    return (pixels * gain.to(pixels.device)).add_(offset.to(pixels.device)).clamp_(-1, 1)


class Cloner:
    """One training run: model, average, optimiser, random state."""

    def __init__(
        self, model: BoraVLA, data: Demonstrations, settings: Settings, folder: Path | None = None, device: str | torch.device = 'cpu'
    ):
        """`model`: new, or a trained one to go on from, with this run's own schedule; it keeps its normaliser.

        `folder`: where progress is kept; training goes on from what is there. Random numbers are drawn on the CPU whatever the `device`.
        """
        expected = (len(model.facts.camera_names), model.facts.image_size, model.facts.image_size, 3)
        if data.images.shape[1:] != expected:
            raise ModelError(f'behaviour cloning: images {data.images.shape[1:]}, the model takes {expected}')
        self.model, self.data, self.settings, self.folder = model.to(device).requires_grad_(True).train(), data, settings, folder
        self.started_from = model.model_id
        self.average = {n: p.detach().clone() for n, p in model.named_parameters()}
        decays = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{'params': decays, 'weight_decay': settings.weight_decay}, {'params': others, 'weight_decay': 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.99), fused=True)
        self.update = 0
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.ids, self.mask = model.instruction_ids(data.instructions)
        if folder is not None and (folder / CHECKPOINT).is_file():
            self._resume(folder / CHECKPOINT)

    def rate(self) -> float:
        """Learning rate of the coming update: linear warm-up, then cosine to zero."""
        s = self.settings
        if self.update < s.warm_up:
            return s.rate * (self.update + 1) / s.warm_up
        progress = (self.update - s.warm_up) / max(1, s.updates - s.warm_up)
        return s.rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def step(self) -> dict[str, float]:
        """One update; its loss and gradient norm."""
        loss, info = self._loss()
        for group in self.optimiser.param_groups:
            group['lr'] = self.rate()
        self.optimiser.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip))
        if not math.isfinite(norm):
            raise ModelError(f'behaviour cloning: gradient of update {self.update} is not finite')
        self.optimiser.step()
        self.update += 1
        self._follow()
        return {**info, 'gradient': norm}

    def _loss(self) -> tuple[torch.Tensor, dict[str, float]]:
        """The expert's loss on a fresh batch."""
        s, model, g, device = self.settings, self.model, self.generator, self.model.device
        frames = self.data.draw(s.batch, g)
        chunk, valid = self.data.chunks(frames, model.facts.steps)
        pixels = augment(model.pixels(torch.from_numpy(self.data.images[frames]).to(device)), s, g)
        proprio = torch.from_numpy(self.data.proprio[frames])
        proprio = (proprio + s.proprio_noise * torch.randn(proprio.shape, generator=g)).to(device)
        task = torch.from_numpy(self.data.task[frames]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=s.bf16):
            tokens = model.tokens(pixels, self.ids[task], self.mask[task])
        noise = torch.randn(s.batch, model.config.knots, len(model.layout), generator=g).to(device)
        level = model.expert.draw_levels(s.batch, g).to(device)
        target = model.normalize(torch.from_numpy(chunk).to(device))
        mask = torch.from_numpy(valid).to(device, torch.float32)
        return model.expert.loss(tokens.float(), model.normalize(proprio), target, mask, level, noise)

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.settings.average, (1 + self.update) / (10 + self.update))
        torch._foreach_lerp_(list(self.average.values()), list(self.model.parameters()), 1 - keep)

    def run(self, progress: Callable[[int, dict[str, float]], None] = lambda update, info: None, until: int | None = None) -> None:
        """Train up to `until` updates (default: all), keeping progress every `checkpoint_every`."""
        torch.set_num_threads(self.settings.threads)
        end = self.settings.updates if until is None else min(until, self.settings.updates)
        while self.update < end:
            info = self.step()
            progress(self.update, info)
            if self.folder is not None and (self.update % self.settings.checkpoint_every == 0 or self.update == end):
                self.save()

    @torch.no_grad()
    def averaged(self) -> BoraVLA:
        """The model with the averaged weights, ready to be saved."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.average[name])
        return self.model.eval()

    # --- progress on disk -----------------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, object]:
        model = {'facts': asdict(self.model.facts), 'config': asdict(self.model.config), 'started_from': self.started_from}
        normalizer = {'mean': self.model.normalizer.mean.tolist(), 'std': self.model.normalizer.std.tolist()}
        return {'settings': asdict(self.settings), 'data': self.data.digest, 'model': model, 'normaliser': normalizer}

    def save(self) -> None:
        """Write progress atomically."""
        tensors = {f'average.{n}': t for n, t in self.average.items()}
        for i, (name, parameter) in enumerate(self._ordered()):
            tensors[f'model.{name}'] = parameter.detach()
            for key, value in self.optimiser.state_dict()['state'].get(i, {}).items():
                tensors[f'optimiser.{name}.{key}'] = torch.as_tensor(value)
        tensors['generator'] = self.generator.get_state()
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f'{CHECKPOINT}.tmp'
        metadata = {'update': str(self.update), 'facts': json.dumps(self._facts(), sort_keys=True)}
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata=metadata)
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / CHECKPOINT)

    def _ordered(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Named parameters in the optimiser's order."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        return [(names[id(p)], p) for group in self.optimiser.param_groups for p in group['params']]

    def _resume(self, path: Path) -> None:
        try:
            with safe_open(path, 'pt') as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelError(f'{path}: damaged checkpoint: {error}') from None
        if json.loads(metadata['facts']) != json.loads(json.dumps(self._facts())):
            raise ModelError(f'{path}: checkpoint of other settings, data or model; move it away or give the same ones')
        state = self.optimiser.state_dict()
        for i, (name, parameter) in enumerate(self._ordered()):
            parameter.data.copy_(tensors[f'model.{name}'])
            self.average[name].copy_(tensors[f'average.{name}'])
            prefix = f'optimiser.{name}.'
            entry = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if entry:
                state['state'][i] = entry
        self.optimiser.load_state_dict(state)
        self.generator.set_state(tensors['generator'])
        self.update = int(metadata['update'])


def clone(
    files: Sequence[Path],
    instruction: str | Mapping[str, str],
    layout: JointLayout,
    cameras: Sequence[str],
    settings: Settings,
    *,
    init: str | Path | None = None,
    folder: Path | None = None,
    until: int | None = None,
    progress: Callable[[int, dict[str, float]], None] = lambda update, info: None,
    only_successful: bool = False,
    cache: str | Path | None = None,
    device: str = 'cpu',
    **model_settings: object,
) -> BoraVLA:
    """A base model trained on demonstration files for `until` updates (default: all).

    `instruction`: of all files, or by task; `init`: a model directory to go on from, otherwise `model_settings` go to
    `bora_policy.vla.build`; `only_successful` and `cache` as in `load_demonstrations`.
    """
    data = load_demonstrations(files, instruction, layout, cameras, only_successful=only_successful, cache=cache)
    torch.manual_seed(settings.seed)
    size = data.images.shape[2]
    if init is None:
        model = build(layout, cameras, data.normalizer(), instructions=data.instructions, image_size=size, **model_settings)
    elif model_settings:
        raise ConfigError(f'behaviour cloning: {sorted(model_settings)[0]} is given, but {init} settles how the model is built')
    else:
        model = BoraVLA.from_pretrained(init, joint_names=layout.names, camera_names=tuple(cameras), image_size=size)
    cloner = Cloner(model, data, settings, folder, device)
    cloner.run(progress, until)
    return cloner.averaged()
