"""Where bora's own files are: the ament share directory of an installed package, or the source tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bora_common.errors import ConfigError


def share() -> Path:
    """Folder that holds `config/`, `launch/` and `models/`. Raises ConfigError when there is none."""
    source = Path(__file__).resolve().parents[2]
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p] + [Path(sys.prefix)]
    for folder in [source, *(p / 'share' / 'bora_bringup' for p in prefixes)]:
        if (folder / 'config' / 'robots').is_dir():
            return folder
    raise ConfigError(f'share directory of bora_bringup not found: neither {source} nor AMENT_PREFIX_PATH holds config/robots')


def resolve(path: str | Path, folder: str) -> Path:
    """An existing path as it is; else a name within `folder` of the share directory, with .yaml added where that is meant."""
    direct = Path(path).expanduser()
    if direct.exists():
        return direct.resolve()
    inside = share() / folder / str(path)
    return inside if inside.exists() or inside.suffix or folder == 'models' else inside.with_suffix('.yaml')
