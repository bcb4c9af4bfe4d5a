"""A model directory's manifest: the digest of every file and what the model was made for. Its own SHA-256 is the model's id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bora_common.errors import ModelError, nearest

FORMAT = 'bora-model-1'
MANIFEST = 'manifest.json'


@dataclass(frozen=True)
class ModelFacts:
    """What a base model was made for."""

    joint_names: tuple[str, ...]  # D, layout order
    camera_names: tuple[str, ...]  # C
    token_names: tuple[str, ...]  # T, the cognition token last
    token_width: int  # W
    image_size: int  # px, square
    steps: int  # k
    horizon: int  # steps played before the next chunk is adopted
    dt: float  # s

    def expect(self, path: Path, **expected: Any) -> None:
        """Raises ModelError when a fact differs from the one given by keyword; None is not compared."""
        for name, value in expected.items():
            if not hasattr(self, name):
                raise ModelError(f'{path}: no fact "{name}", {nearest(name, [f.name for f in fields(self)])}')
            found = getattr(self, name)
            value = tuple(value) if isinstance(value, list) else value
            if value is not None and found != value:
                raise ModelError(f'{path}: made for {name} = {_text(found)}, expected {_text(value)}')


def _text(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, facts: ModelFacts, files: tuple[str, ...]) -> str:
    """Write manifest.json over `files` of the folder; the model's id."""
    content = {'format': FORMAT, 'facts': asdict(facts), 'files': {name: file_digest(folder / name) for name in sorted(files)}}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True) + '\n')
    return file_digest(folder / MANIFEST)


def read_manifest(folder: Path, required: tuple[str, ...] = ()) -> tuple[ModelFacts, str]:
    """(facts, model id) of a directory whose files all match. Raises ModelError naming the file and what was expected."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ModelError(f'model directory {folder} does not exist')
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f'{path}: missing; a model directory holds {MANIFEST}') from None
    except ValueError as error:
        raise ModelError(f'{path}: not JSON: {error}') from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ModelError(f'{path}: format {content.get("format") if isinstance(content, dict) else None!r}, expected "{FORMAT}"')
    try:
        facts = ModelFacts(**{k: tuple(v) if isinstance(v, list) else v for k, v in content['facts'].items()})
        files = dict(content['files'])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f'{path}: facts or files are unreadable: {error}') from None
    for name in required:
        if name not in files:
            raise ModelError(f'{path}: does not list "{name}"')
    for name, digest in files.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise ModelError(f'{file}: missing, but listed in {MANIFEST}')
        if file_digest(file) != digest:
            raise ModelError(f'{file}: SHA-256 is {file_digest(file)[:12]}…, expected {str(digest)[:12]}… (damaged or replaced)')
    return facts, file_digest(path)
