"""Images as the model sees them: one crop and resize for training data, perception and evaluation."""

from __future__ import annotations

import cv2
import numpy as np

from bora_common.errors import CodecError


def to_model_size(image: np.ndarray, size: int) -> np.ndarray:
    """Centre square of `image` uint8 [H,W,3], resized to [size,size,3] by area averaging (no aliasing of thin objects)."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise CodecError(f'image has shape {image.shape} and type {image.dtype}, expected uint8 [H,W,3]')
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    return cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
