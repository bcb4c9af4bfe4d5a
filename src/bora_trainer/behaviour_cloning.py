"""Behaviour cloning of the base model from demonstrations: every frame starts a chunk, targets are absolute joint positions.

Recipe: AdamW with warm-up and cosine decay, an exponential average of the weights, masked smooth-L1, brightness and contrast jitter,
noise on the proprioception. Progress is written atomically and training goes on from it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bora_common.errors import ConfigError, ModelError
from bora_common.types import JointLayout, Normalizer
from bora_policy.expert import sample_sigma
from bora_policy.vla import BoraVLA, build

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


class Demonstrations:
    """Frames of many episodes in one array each; frame i's chunk is intended[i .. i+k-1] within its episode, the last one repeated."""

    FIELDS = ('images', 'proprio', 'intended')

    def __init__(self, episodes: Iterable[dict[str, np.ndarray]], instruction: str):
        """Each episode: images uint8 [N,C,H,W,3], proprio [N,D], intended [N,D] rad."""
        parts = list(episodes)
        if not parts:
            raise ConfigError('behaviour cloning: no demonstrations')
        self.images, self.proprio, self.intended = (np.concatenate([p[name] for p in parts]) for name in self.FIELDS)
        lengths = np.array([len(p['proprio']) for p in parts])
        self.end = np.repeat(np.cumsum(lengths), lengths)  # [F] first frame after each frame's episode
        self.instruction = instruction
        self.episodes = len(parts)

    def __len__(self) -> int:
        return len(self.end)

    def chunks(self, frames: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(chunks [B,k,D] rad, mask [B,k]) that start at `frames` [B]; beyond the episode the last target is repeated and masked."""
        index = frames[:, None] + np.arange(steps)
        mask = index < self.end[frames][:, None]
        return self.intended[np.minimum(index, self.end[frames][:, None] - 1)], mask

    def normalizer(self) -> Normalizer:
        """z-score of the targets."""
        return Normalizer.fit(self.intended)


def load_demonstrations(files: Sequence[Path], instruction: str, layout: JointLayout, cameras: Sequence[str]) -> Demonstrations:
    """Episodes from .npz files, mapped to `layout` and `cameras` by name. Raises ConfigError naming the file."""
    return Demonstrations((_read_episode(Path(f), layout, cameras) for f in files), instruction)


def _read_episode(path: Path, layout: JointLayout, cameras: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        seen = [str(c) for c in content['cameras']]
        images = content['images'][:, [seen.index(c) for c in cameras]]
        joints = [str(j) for j in content['joints']]
        return {'images': images, **{n: layout.reorder(joints, content[n], str(path)).astype(np.float32) for n in ('proprio', 'intended')}}
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f'{path}: not a demonstration: {error}') from None


def augment(pixels: torch.Tensor, settings: Settings, generator: torch.Generator) -> torch.Tensor:
    """Brightness and contrast jitter of pixels [B,C,3,H,W] in -1..1; each image has its own draw."""
    b, c = pixels.shape[:2]
    gain = 1 + settings.jitter * (2 * torch.rand(b, c, 1, 1, 1, generator=generator) - 1)
    offset = settings.jitter * (2 * torch.rand(b, c, 1, 1, 1, generator=generator) - 1)
    return (pixels * gain + offset).clamp(-1, 1)


class Cloner:
    """One training run: model, average, optimiser, random state."""

    def __init__(self, model: BoraVLA, data: Demonstrations, settings: Settings, folder: Path | None = None):
        """`folder`: where progress is kept; training goes on from what is there."""
        self.model, self.data, self.settings, self.folder = model.train(), data, settings, folder
        self.average = {n: p.detach().clone() for n, p in model.named_parameters()}
        decays = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{'params': decays, 'weight_decay': settings.weight_decay}, {'params': others, 'weight_decay': 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.99))
        self.update = 0
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.ids, self.mask = model.instruction_ids([data.instruction])
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
        s, model, g = self.settings, self.model, self.generator
        frames = torch.randint(len(self.data), (s.batch,), generator=g).numpy()
        chunk, valid = self.data.chunks(frames, model.facts.steps)
        pixels = augment(model.pixels(torch.from_numpy(self.data.images[frames])), s, g)
        proprio = torch.from_numpy(self.data.proprio[frames])
        proprio = proprio + s.proprio_noise * torch.randn(proprio.shape, generator=g)
        tokens = model.tokens(pixels, self.ids.expand(s.batch, -1), self.mask.expand(s.batch, -1))
        noise = torch.randn(s.batch, model.config.knots, len(model.layout), generator=g)
        target = model.normalize(torch.from_numpy(chunk))
        sigma = sample_sigma(s.batch, g)
        loss, info = model.expert.loss(tokens, model.normalize(proprio), target, torch.from_numpy(valid).float(), sigma, noise)
        for group in self.optimiser.param_groups:
            group['lr'] = self.rate()
        self.optimiser.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip))
        if not math.isfinite(norm):
            raise ModelError(f'behaviour cloning: gradient of update {self.update} is not finite')
        self.optimiser.step()
        self.update += 1
        self._follow()
        return {**info, 'gradient': norm}

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.settings.average, (1 + self.update) / (10 + self.update))
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1 - keep)

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
        return {'settings': asdict(self.settings), 'frames': len(self.data), 'facts': asdict(self.model.facts)}

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
    instruction: str,
    layout: JointLayout,
    cameras: Sequence[str],
    settings: Settings,
    *,
    folder: Path | None = None,
    until: int | None = None,
    progress: Callable[[int, dict[str, float]], None] = lambda update, info: None,
    **model_settings: object,
) -> BoraVLA:
    """A base model trained on demonstration files for `until` updates (default: all); `model_settings` go to `bora_policy.vla.build`."""
    data = load_demonstrations(files, instruction, layout, cameras)
    torch.manual_seed(settings.seed)
    size = data.images.shape[2]
    model = build(layout, cameras, data.normalizer(), instructions=[instruction], image_size=size, **model_settings)
    cloner = Cloner(model, data, settings, folder)
    cloner.run(progress, until)
    return cloner.averaged()
