"""Demonstrations as training reads them: the frames of all episodes in one array a field, drawn evenly over the tasks.

The images of some hundred episodes are more than a gigabyte: they are held once, either in memory or, with a cache folder, in files that
are mapped into memory, so that trainings that run side by side share them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bora_common.errors import BoraError, ConfigError, nearest
from bora_common.types import JointLayout, Normalizer

FORMAT = 'bora-frames-1'
INDEX, IMAGES = 'index.json', 'images.npy'
MOTION = ('proprio', 'executed', 'intended')
FIELDS = ('images', *MOTION)


@dataclass(frozen=True)
class Episode:
    """What is known of an episode beside its frames."""

    name: str
    task: str
    instruction: str
    steps: int
    success: bool
    failure: bool = False  # it ended in a failure, not for want of time


class Demonstrations:
    """F frames of E episodes; frame i's chunk is intended[i .. i+k-1] within its episode, the last one repeated."""

    def __init__(
        self,
        images: np.ndarray,
        proprio: np.ndarray,
        executed: np.ndarray,
        intended: np.ndarray,
        episodes: Sequence[Episode],
        digest: str = '',
    ):
        """images uint8 [F,C,S,S,3]; proprio, executed, intended float32 [F,D] rad, all in the order of `episodes`.

        `digest` stands for the content; it is computed where it is not given. Raises ConfigError naming what does not fit.
        """
        if not episodes:
            raise ConfigError('behaviour cloning: no demonstrations')
        self.images, self.proprio, self.executed, self.intended = images, proprio, executed, intended
        self.episodes = tuple(episodes)
        lengths = np.array([e.steps for e in episodes])
        for name in FIELDS:
            if len(getattr(self, name)) != lengths.sum():
                raise ConfigError(f'demonstrations: {len(getattr(self, name))} frames of {name}, the episodes have {lengths.sum()}')
        self.end = np.repeat(np.cumsum(lengths), lengths)  # [F] first frame after each frame's episode
        self.tasks = tuple(sorted({e.task for e in episodes}))
        self.instructions = tuple(next(e.instruction for e in episodes if e.task == task) for task in self.tasks)
        self.task = np.repeat([self.tasks.index(e.task) for e in episodes], lengths)  # [F] index into tasks and instructions
        self._frames = [np.flatnonzero(self.task == i) for i in range(len(self.tasks))]
        self.digest = digest or self._digest()

    def __len__(self) -> int:
        return len(self.end)

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Frames [count]: every task as often as every other, every frame of a task as often as every other of it."""
        if len(self.tasks) == 1:
            return torch.randint(len(self), (count,), generator=generator).numpy()
        task = torch.randint(len(self.tasks), (count,), generator=generator).numpy()
        share = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        return np.array([self._frames[t][int(u * len(self._frames[t]))] for t, u in zip(task, share, strict=True)])

    def chunks(self, frames: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(chunks [B,k,D] rad, mask [B,k]) that start at `frames` [B]; beyond the episode the last target is repeated and masked."""
        index = frames[:, None] + np.arange(steps)
        mask = index < self.end[frames][:, None]
        return self.intended[np.minimum(index, self.end[frames][:, None] - 1)], mask

    def normalizer(self) -> Normalizer:
        """z-score of the targets of all tasks."""
        return Normalizer.fit(self.intended)

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps([asdict(e) for e in self.episodes]).encode())
        for name in FIELDS:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()


def load_demonstrations(
    files: Sequence[str | Path],
    instruction: str | Mapping[str, str],
    layout: JointLayout,
    cameras: Sequence[str],
    *,
    only_successful: bool = False,
    at_least: int = 1,
    cache: str | Path | None = None,
) -> Demonstrations:
    """Episodes from .npz files, mapped to `layout` and `cameras` by name.

    `instruction`: of all files, or by task. `only_successful` leaves the failed episodes out; a task needs `at_least` episodes then.
    `cache`: folder in which the frames are kept for the next training, found by the files' content. Raises ConfigError naming the file.
    """
    heads = [_read_head(Path(f), layout, cameras) for f in files]
    if not heads:
        raise ConfigError('behaviour cloning: no demonstrations')
    kept = [h for h in heads if h.success or not only_successful]
    for task in sorted({h.task for h in heads}):
        count = sum(h.task == task for h in kept)
        if count < at_least:
            kind = 'successful ' if only_successful else ''
            raise ConfigError(f'demonstrations of {task}: {count} {kind}episodes, expected at least {at_least}')
    sizes = {h.size: h.path for h in reversed(kept)}
    if len(sizes) > 1:
        (one, path), (other, _) = list(sizes.items())[:2]
        raise ConfigError(f'{path}: images of {one} px, others have {other} px')
    episodes = [Episode(h.path.stem, h.task, _instruction(instruction, h), h.steps, h.success, h.failure) for h in kept]
    digest = _content(kept, episodes, layout, cameras)
    shape = (sum(h.steps for h in kept), len(cameras), kept[0].size, kept[0].size, 3)
    if cache is None:
        images = _fill(np.empty(shape, np.uint8), kept, cameras)
    else:
        images = _cached(Path(cache) / digest[:16], kept, cameras, shape, digest)
    return Demonstrations(images, *(np.concatenate([h.motion[i] for h in kept]) for i in range(len(MOTION))), episodes, digest)


@dataclass(frozen=True)
class _Head:
    """A demonstration file without its images."""

    path: Path
    task: str
    success: bool
    failure: bool
    steps: int
    size: int  # px
    motion: tuple[np.ndarray, ...]  # float32 [N,D] each, in MOTION's order


def _instruction(instruction: str | Mapping[str, str], head: _Head) -> str:
    if isinstance(instruction, str):
        return instruction
    if head.task not in instruction:
        raise ConfigError(f'{head.path}: task "{head.task}" has no instruction, {nearest(head.task, instruction)}')
    return instruction[head.task]


def _read_head(path: Path, layout: JointLayout, cameras: Sequence[str]) -> _Head:
    """All but the images, of which the header only; checked."""
    try:
        with np.load(path, allow_pickle=False) as file:
            task, success = str(file['task']), bool(file['success'])
            failure = 'failure' in file and bool(file['failure'])  # an older file does not say
            seen, joints = [str(c) for c in file['cameras']], [str(j) for j in file['joints']]
            motion = tuple(layout.reorder(joints, file[n], f'{path}: {n}').astype(np.float32) for n in MOTION)
        shape, dtype = _image_header(path)
    except BoraError as error:
        raise ConfigError(str(error)) from None
    except (OSError, KeyError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f'{path}: not a demonstration: {error}') from None
    missing = [c for c in cameras if c not in seen]
    if missing:
        raise ConfigError(f'{path}: camera "{missing[0]}" is missing, it has {seen}')
    steps = len(motion[0])
    for name, values in zip(MOTION, motion, strict=True):
        if values.shape != (steps, len(layout)) or not steps:
            raise ConfigError(f'{path}: {name} of shape {values.shape}, expected {(max(steps, 1), len(layout))}')
    if dtype != np.uint8 or len(shape) != 5 or shape[1] != len(seen) or shape[2] != shape[3] or shape[4] != 3:
        raise ConfigError(f'{path}: images {dtype} {shape}, expected uint8 frames of {len(seen)} square RGB pictures')
    if shape[0] != steps:
        raise ConfigError(f'{path}: {shape[0]} frames of images for {steps} steps')
    return _Head(path, task, success, failure, steps, shape[2], motion)


def _image_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of a file's images, without unpacking them."""
    with zipfile.ZipFile(path) as archive, archive.open('images.npy') as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype


def _read_images(path: Path, cameras: Sequence[str]) -> np.ndarray:
    """Images [N,C,S,S,3] with the cameras in the order asked for."""
    try:
        with np.load(path, allow_pickle=False) as file:
            seen = [str(c) for c in file['cameras']]
            images = file['images']
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f'{path}: damaged images: {error}') from None
    return images if seen == list(cameras) else images[:, [seen.index(c) for c in cameras]]


def _fill(images: np.ndarray, heads: Sequence[_Head], cameras: Sequence[str]) -> np.ndarray:
    """The images of all episodes, one file read at a time into where they stay."""
    begin = 0
    for head in heads:
        images[begin : begin + head.steps] = _read_images(head.path, cameras)
        begin += head.steps
    return images


def _content(heads: Sequence[_Head], episodes: Sequence[Episode], layout: JointLayout, cameras: Sequence[str]) -> str:
    """SHA-256 of the files and of how they are read; where they lie does not count."""
    digest = hashlib.sha256(json.dumps([FORMAT, layout.names, list(cameras), [asdict(e) for e in episodes]]).encode())
    for head in heads:
        with open(head.path, 'rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.hexdigest()


def _cached(folder: Path, heads: Sequence[_Head], cameras: Sequence[str], shape: tuple[int, ...], digest: str) -> np.ndarray:
    """The images of all episodes, mapped from `folder`, which is made first where it is not there or not whole."""
    if not _whole(folder, digest):
        partial = folder.with_name(f'.{folder.name}.{os.getpid()}')
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _fill(np.lib.format.open_memmap(partial / IMAGES, mode='w+', dtype=np.uint8, shape=shape), heads, cameras).flush()
            (partial / INDEX).write_text(json.dumps(_index(partial, digest)) + '\n')
            _replace(partial, folder, digest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return np.asarray(np.load(folder / IMAGES, mmap_mode='r'))


def _replace(partial: Path, folder: Path, digest: str) -> None:
    """Put a finished cache folder in its place, unless another training was faster."""
    try:
        os.rename(partial, folder)
    except OSError:
        if _whole(folder, digest):
            return
        shutil.rmtree(folder)  # what a crash left
        os.rename(partial, folder)


def _index(folder: Path, digest: str) -> dict[str, object]:
    return {'format': FORMAT, 'digest': digest, 'bytes': (folder / IMAGES).stat().st_size}


def _whole(folder: Path, digest: str) -> bool:
    """Whether a cache folder holds what it is named for; the index is its last file."""
    try:
        return json.loads((folder / INDEX).read_text()) == _index(folder, digest)
    except (OSError, ValueError):
        return False
