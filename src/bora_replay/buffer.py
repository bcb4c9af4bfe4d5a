"""Transitions in preallocated arrays: insert by sequence number, sample by one fancy index an array, save and load as safetensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize_arrays

from bora_common.errors import ConfigError, LogError
from bora_common.types import Transition

FORMAT = 'bora-transitions-1'


class SeenNumbers:
    """Set of sequence numbers that stays small: everything below `_below` plus the few that came early."""

    def __init__(self) -> None:
        self._below = 0
        self._above: set[int] = set()

    def __len__(self) -> int:
        return self._below + len(self._above)

    def __contains__(self, number: int) -> bool:
        return number < self._below or number in self._above

    def add(self, number: int) -> None:
        self._above.add(number)
        while self._below in self._above:
            self._above.remove(self._below)
            self._below += 1

    def missing(self, end: int) -> list[int]:
        """Numbers below `end` that were never added."""
        return [n for n in range(self._below, end) if n not in self._above]


class TransitionBuffer:
    """Ring of transitions of one robot, horizon and model.

    `k` chunk steps, `D` joints, `T` tokens of width `W`. Tokens are stored as `token_dtype`, positions (rad) as float32. Where
    `token_names` or `model_id` are left empty, the first transition inserted decides them.
    """

    def __init__(
        self,
        capacity: int,
        k: int,
        D: int,
        T: int,
        W: int,
        *,
        dt: float = 1 / 15,
        joint_names: Sequence[str] = (),
        token_names: Sequence[str] = (),
        model_id: str = '',
        token_dtype: str = 'float16',
    ):
        if min(capacity, k, D, T, W) < 1:
            raise ConfigError(f'buffer: capacity, k, D, T and W must be positive, got {(capacity, k, D, T, W)}')
        if token_dtype not in ('float16', 'float32'):
            raise ConfigError(f'buffer: token_dtype "{token_dtype}" is not valid, valid: float16, float32')
        if joint_names and len(joint_names) != D:
            raise ConfigError(f'buffer: {len(joint_names)} joint names for D = {D}')
        if token_names and len(token_names) != T:
            raise ConfigError(f'buffer: {len(token_names)} token names for T = {T}')
        self.capacity, self.k, self.D, self.T, self.W, self.dt = capacity, k, D, T, W, float(dt)
        self.joint_names, self.token_names, self.model_id = tuple(joint_names), tuple(token_names), model_id
        self.episodes: list[str] = []  # names behind the column `episode`
        self._episode_index: dict[str, int] = {}
        self._arrays = self._allocate(token_dtype)
        self._size = 0
        self._next = 0
        self._seen = SeenNumbers()

    def _allocate(self, token_dtype: str) -> dict[str, np.ndarray]:
        n, k, d = self.capacity, self.k, self.D
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            'tokens': ((self.T, self.W), token_dtype),
            'proprio': ((d,), np.float32),
            'vla': ((k, d), np.float32),
            'executed': ((k, d), np.float32),
            'reward': ((k,), np.float32),
            'done': ((k,), bool),
            'mask': ((k,), bool),
            'human': ((k,), bool),
            'beta': ((k,), np.float32),
            'truncated': ((), bool),
            'first': ((), np.int32),
            'next_tokens': ((self.T, self.W), token_dtype),
            'next_proprio': ((d,), np.float32),
            'success': ((), bool),
            'alpha': ((), np.float32),
            'round': ((), np.int32),
            'seq': ((), np.int64),
            'stamp_ns': ((), np.int64),
            'episode': ((), np.int32),
        }
        return {name: np.zeros((n, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def __len__(self) -> int:
        return self._size

    @property
    def distinct(self) -> int:
        """Number of distinct transitions ever inserted, those that the ring has overwritten included."""
        return len(self._seen)

    def __contains__(self, seq: int) -> bool:
        return seq in self._seen

    def missing(self, end_seq: int) -> list[int]:
        """Sequence numbers below `end_seq` that were never inserted."""
        return self._seen.missing(end_seq)

    def column(self, name: str) -> np.ndarray:
        """Read-only view [len, ...] of one array, in storage order."""
        view = self._arrays[name][: self._size]
        view.flags.writeable = False
        return view

    def insert(self, transition: Transition) -> bool:
        """Store a transition; False when its seq was inserted before. Raises ConfigError when it belongs to another robot or model."""
        self._check(transition)
        if transition.seq in self._seen:
            return False
        slot = self._next
        for name, array in self._arrays.items():
            array[slot] = self._episode_of(transition.episode) if name == 'episode' else getattr(transition, name)
        self._seen.add(transition.seq)
        self._next = (slot + 1) % self.capacity
        self._size = min(self._size + 1, self.capacity)
        return True

    def _episode_of(self, name: str) -> int:
        if name not in self._episode_index:
            self._episode_index[name] = len(self.episodes)
            self.episodes.append(name)
        return self._episode_index[name]

    def _check(self, t: Transition) -> None:
        self.model_id = self.model_id or t.model_id
        self.token_names = self.token_names or tuple(t.token_names)
        expected_found = {
            'chunk steps and joints': ((self.k, self.D), np.shape(t.executed)),
            'token shape': ((self.T, self.W), np.shape(t.tokens)),
            'token names': (self.token_names, tuple(t.token_names)),
            'model digest': (self.model_id, t.model_id),
        }
        for what, (expected, found) in expected_found.items():
            if expected != found:
                raise ConfigError(f'transition {t.seq} of {t.episode}: {what} is {found}, expected {expected}')
        if abs(t.dt - self.dt) > 1e-6:
            raise ConfigError(f'transition {t.seq} of {t.episode}: dt is {t.dt:g} s, expected {self.dt:g} s')

    def sample(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        """Batch [n, ...] drawn uniformly with replacement; keys are the columns."""
        if self._size == 0:
            raise LogError('buffer: nothing to sample from')
        return self.take(rng.integers(0, self._size, n))

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Batch of the given storage indices [n]."""
        return {name: array.take(indices, axis=0) for name, array in self._arrays.items()}

    # --- files --------------------------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        return {
            'format': FORMAT, 'k': self.k, 'dt': self.dt, 'joint_names': list(self.joint_names), 'token_names': list(self.token_names),
            'token_width': self.W, 'model_id': self.model_id,
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write all stored transitions atomically, oldest first, with a digest of the arrays."""
        path = Path(path)
        order = (np.arange(self._size) + (self._next if self._size == self.capacity else 0)) % self.capacity
        arrays = {name: np.ascontiguousarray(array[order]) for name, array in self._arrays.items()}
        metadata = {key: json.dumps(value) for key, value in self._facts().items()}
        metadata |= {'episodes': json.dumps(self.episodes), 'sha256': _digest(arrays)}
        temporary = path.with_name(path.name + '.tmp')
        with open(temporary, 'wb') as file:
            file.write(serialize_arrays(arrays, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        capacity: int | None = None,
        k: int | None = None,
        dt: float | None = None,
        joint_names: Sequence[str] | None = None,
        token_names: Sequence[str] | None = None,
        token_width: int | None = None,
        model_id: str | None = None,
    ) -> TransitionBuffer:
        """Buffer from a file; what is given must agree with what the file says.

        Raises ConfigError naming the fact that differs, LogError where the file is missing or damaged.
        """
        arrays, metadata = _read(Path(path))
        facts = {key: json.loads(metadata[key]) for key in ('k', 'dt', 'joint_names', 'token_names', 'token_width', 'model_id', 'episodes')}
        wanted = {
            'k': k, 'joint_names': None if joint_names is None else list(joint_names),
            'token_names': None if token_names is None else list(token_names), 'token_width': token_width, 'model_id': model_id,
        }  # fmt: skip
        for name, value in wanted.items():
            if value is not None and value != facts[name]:
                raise ConfigError(f'{path}: {name} is {facts[name]!r}, expected {value!r}')
        if dt is not None and abs(dt - facts['dt']) > 1e-6:
            raise ConfigError(f'{path}: dt is {facts["dt"]!r} s, expected {dt!r} s')
        count, joints = arrays['proprio'].shape
        buffer = cls(
            max(capacity or count, 1), facts['k'], joints, arrays['tokens'].shape[1], facts['token_width'], dt=facts['dt'],
            joint_names=facts['joint_names'], token_names=facts['token_names'], model_id=facts['model_id'],
            token_dtype=str(arrays['tokens'].dtype),
        )  # fmt: skip
        buffer._fill(arrays, facts['episodes'])
        return buffer

    def _fill(self, arrays: dict[str, np.ndarray], episodes: list[str]) -> None:
        count = min(len(arrays['seq']), self.capacity)
        for name, array in self._arrays.items():
            array[:count] = arrays[name][len(arrays[name]) - count :]
        for seq in arrays['seq']:
            self._seen.add(int(seq))
        self._size, self._next = count, count % self.capacity
        for name in episodes:
            self._episode_of(name)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(memoryview(np.ascontiguousarray(arrays[name])).cast('B') if arrays[name].size else b'')
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a transitions file, its digest checked."""
    if not path.exists():
        raise LogError(f'transitions file {path} does not exist')
    try:
        with safe_open(path, framework='numpy') as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise LogError(f'transitions file {path} is damaged: {error}') from None
    if metadata.get('format') != json.dumps(FORMAT):
        raise LogError(f'transitions file {path}: format is {metadata.get("format")}, expected {FORMAT}')
    if metadata.get('sha256') != _digest(arrays):
        raise LogError(f'transitions file {path} is damaged: its digest does not fit its arrays')
    return arrays, metadata
