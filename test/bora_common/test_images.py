"""One crop and resize for everybody."""

from __future__ import annotations

import numpy as np
import pytest

from bora_common.errors import CodecError
from bora_common.images import to_model_size


def test_centre_square_is_kept():
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, 20:140] = 200  # the centre square alone
    out = to_model_size(image, 64)
    assert out.shape == (64, 64, 3) and out.dtype == np.uint8
    assert (out == 200).all()


def test_thin_objects_are_averaged_not_lost():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, 64] = 255
    assert to_model_size(image, 64)[:, 32].mean() == pytest.approx(127.5, abs=1)


def test_model_size_passes_unchanged():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_model_size(image, 64), image)


@pytest.mark.parametrize('image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)])
def test_other_images_are_refused(image):
    with pytest.raises(CodecError, match='uint8'):
        to_model_size(image, 64)
