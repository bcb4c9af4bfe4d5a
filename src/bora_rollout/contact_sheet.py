"""One picture of many: the last frames of episodes, with their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bora_common.errors import ConfigError

COLUMNS = 6
BORDER, LINE = 4, 18  # px


def contact_sheet(frames: Sequence[np.ndarray], names: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """uint8 [H,W,3] of frames uint8 [h,w,3] in rows of `columns`, each with its name below. An empty sheet for no frames."""
    if not frames:
        return np.full((LINE + 2 * BORDER, 200, 3), 255, np.uint8)
    h, w = frames[0].shape[:2]
    columns = min(columns, len(frames))
    cell = (h + LINE + BORDER, w + BORDER)
    sheet = np.full((-(-len(frames) // columns) * cell[0] + BORDER, columns * cell[1] + BORDER, 3), 255, np.uint8)
    for i, (frame, name) in enumerate(zip(frames, names, strict=True)):
        top, left = i // columns * cell[0] + BORDER, i % columns * cell[1] + BORDER
        sheet[top : top + h, left : left + w] = frame
        cv2.putText(sheet, name, (left, top + h + LINE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def save(sheet: np.ndarray, path: Path) -> None:
    """Write an RGB picture as PNG. Raises ConfigError naming the file."""
    good, data = cv2.imencode('.png', np.ascontiguousarray(sheet[..., ::-1]))
    if not good:
        raise ConfigError(f'{path}: picture of {sheet.shape} can not be encoded')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror}') from None
