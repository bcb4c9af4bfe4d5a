import cv2
import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_rollout.contact_sheet import BORDER, LINE, contact_sheet, save


def test_frames_lie_in_rows_with_room_for_their_names():
    frames = [np.full((30, 40, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(frames, [str(i) for i in range(5)], columns=2)
    assert sheet.shape == (3 * (30 + LINE + BORDER) + BORDER, 2 * (40 + BORDER) + BORDER, 3)
    for i in range(5):
        top, left = i // 2 * (30 + LINE + BORDER) + BORDER, i % 2 * (40 + BORDER) + BORDER
        assert (sheet[top : top + 30, left : left + 40] == 10 * i).all()
        assert (sheet[top + 30 : top + 30 + LINE, left : left + 40] < 128).any()  # the name
    assert (sheet[2 * (30 + LINE + BORDER) + BORDER :, 40 + 2 * BORDER :] == 255).all()  # no sixth one


def test_it_is_written_as_rgb_and_a_bad_place_is_named(tmp_path):
    sheet = contact_sheet([np.full((8, 8, 3), (200, 0, 0), np.uint8)], ['a'])
    save(sheet, tmp_path / 'new' / 'sheet.png')
    assert np.array_equal(cv2.imread(str(tmp_path / 'new' / 'sheet.png'))[..., ::-1], sheet)
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='file'):
        save(sheet, tmp_path / 'file' / 'sheet.png')


def test_no_failures_give_an_empty_sheet():
    assert (contact_sheet([], []) == 255).all()
