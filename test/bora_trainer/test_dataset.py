import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cloning_toy import CAMERAS, JOINTS, LAYOUT, content, demonstrations, write
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import ConfigError
from bora_common.types import JointLayout
from bora_trainer.dataset import Demonstrations, load_demonstrations

WORDS = {'press': 'press it', 'open': 'open it', 'pull': 'pull it'}


def load(files, instruction='press it', **arguments):
    return load_demonstrations(files, instruction, LAYOUT, CAMERAS, **arguments)


@pytest.fixture
def files(tmp_path):
    """Five episodes of three tasks, two of them failed."""
    tasks = (('press', True), ('open', True), ('press', False), ('pull', True), ('open', False))
    return [write(tmp_path / f'{i}.npz', i, length=4 + i, task=task, success=success) for i, (task, success) in enumerate(tasks)]


def test_a_chunk_starts_at_its_frame_and_never_leaves_its_episode():
    data = demonstrations(5, 6, 7)
    chunks, mask = data.chunks(np.array([0, 3, 5]), 8)
    assert mask.sum(1).tolist() == [5, 2, 6]
    assert np.array_equal(chunks[0, :5], data.intended[:5])
    assert np.array_equal(chunks[1, :2], data.intended[3:5]) and np.all(chunks[1, 2:] == data.intended[4])
    assert np.array_equal(chunks[2, :6], data.intended[5:11])


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), k=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_valid_steps_of_a_chunk_are_the_episodes_next_ones(lengths, k):
    data = demonstrations(*lengths)
    frames = np.arange(len(data))
    chunks, mask = data.chunks(frames, k)
    left = np.concatenate([np.arange(n, 0, -1) for n in lengths])
    assert mask.sum(1).tolist() == np.minimum(left, k).tolist() and np.all(np.diff(mask.astype(int), axis=1) <= 0)
    for frame in frames:
        assert np.array_equal(chunks[frame][mask[frame]], data.intended[frame : frame + mask[frame].sum()])


def test_every_frame_knows_its_task_and_instruction(files):
    data = load(files, WORDS)
    assert (data.tasks, data.instructions) == (('open', 'press', 'pull'), ('open it', 'press it', 'pull it'))
    assert [data.tasks[t] for t in data.task] == ['press'] * 4 + ['open'] * 5 + ['press'] * 6 + ['pull'] * 7 + ['open'] * 8
    assert [(e.name, e.steps, e.success) for e in data.episodes][2:4] == [('2', 6, False), ('3', 7, True)]
    assert [e.instruction for e in data.episodes] == [WORDS[e.task] for e in data.episodes]


def test_frames_are_drawn_evenly_over_tasks_and_within_a_task():
    data = demonstrations(2, 30, 4, tasks=('few', 'many', 'few'))
    frames = data.draw(6000, torch.Generator().manual_seed(0))
    counts = np.bincount(frames, minlength=36)
    few, many = np.r_[counts[:2], counts[32:]], counts[2:32]
    assert abs(few.sum() - 3000) < 200
    assert few.min() > 400 and few.max() < 600 and many.min() > 60 and many.max() < 145
    assert np.array_equal(frames, data.draw(6000, torch.Generator().manual_seed(0)))


def test_the_normaliser_is_that_of_all_tasks_and_has_a_floor(files):
    data = load(files, WORDS)
    assert np.allclose(data.normalizer().mean, data.intended.mean(0), atol=1e-6)
    assert np.allclose(data.normalizer().std, np.maximum(data.intended.std(0), 0.05), atol=1e-6)
    data.intended = np.full_like(data.intended, 0.3)
    assert np.allclose(data.normalizer().std, 0.05)


def test_failed_episodes_can_be_left_out(files):
    data = load(files, WORDS, only_successful=True)
    assert [e.name for e in data.episodes] == ['0', '1', '3'] and len(data) == len(data.images) == 4 + 5 + 7
    whole = load(files, WORDS)
    assert np.array_equal(data.intended, whole.intended[np.r_[0:9, 15:22]]) and data.digest != whole.digest
    with pytest.raises(ConfigError, match='demonstrations of open: 1 successful episodes, expected at least 2'):
        load(files, WORDS, only_successful=True, at_least=2)
    write(files[3], 3, task='pull', success=False)
    with pytest.raises(ConfigError, match='pull: 0 successful episodes'):
        load(files, WORDS, only_successful=True)


def test_files_are_read_by_joint_and_camera_name(tmp_path):
    straight = load([write(tmp_path / 'a.npz', 1)])
    turned = content(1)
    turned['images'] = turned['images'].copy()
    turned['images'][:, 0] = 7  # what the file calls "right"
    swapped = {n: turned[n][:, ::-1] for n in ('proprio', 'executed', 'intended')}
    path = write(tmp_path / 'b.npz', images=turned['images'], **swapped, joints=np.array(JOINTS[::-1]), cameras=np.array(CAMERAS[::-1]))
    found = load([path])
    for name in swapped:
        assert np.array_equal(getattr(found, name), getattr(straight, name))
    assert np.all(found.images[:, 1] == 7) and not np.any(found.images[:, 0] == 7)


SPOILT = np.full((6, 2), np.nan, np.float32)
DEFECTS = {
    'bytes': (b'hello', 'not a demonstration'),
    'torn': (None, 'not a demonstration'),
    'camera': ({'cameras': np.array(['left', 'top'])}, 'camera "right" is missing'),
    'joint': ({'joints': np.array(['a', 'c'])}, 'joint "b" is missing'),
    'joints': ({'joints': np.array(['a'])}, '1 joint names but values of shape'),
    'field': ({'without': 'executed'}, 'executed'),
    'task': ({'without': 'task'}, 'task'),
    'images': ({'without': 'images'}, 'images'),
    'instruction': ({'task': 'pres'}, 'task "pres" has no instruction, did you mean "press"'),
    'nan': ({'intended': SPOILT}, 'intended: position of a joint is not finite'),
    'lengths': ({'intended': np.zeros((5, 2), np.float32)}, r'intended of shape \(5, 2\), expected \(6, 2\)'),
    'frames': ({'images': content(0, 4)['images']}, '4 frames of images for 6 steps'),
    'empty': ({n: v[:0] for n, v in content(0).items() if v.ndim > 1}, r'proprio of shape \(0, 2\), expected \(1, 2\)'),
    'floats': ({'images': content(0)['images'].astype(np.float32)}, 'float32'),
    'flat': ({'images': content(0)['images'][:, 0]}, 'square RGB pictures'),
    'oblong': ({'images': content(0)['images'][:, :, :16]}, 'square RGB pictures'),
    'size': ({'images': content(0)['images'][:, :, :16, :16]}, 'images of 16 px, others have 32 px'),
}


@pytest.mark.parametrize('defect', DEFECTS)
def test_unusable_files_are_named(tmp_path, defect):
    path, (changes, message) = tmp_path / 'bad.npz', DEFECTS[defect]
    if isinstance(changes, bytes):
        path.write_bytes(changes)
    elif changes is None:
        path.write_bytes(write(path).read_bytes()[:-200])
    else:
        write(path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load([write(tmp_path / 'good.npz', 1), path], WORDS)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_images_that_are_damaged_within_the_file_are_named(tmp_path):
    path = write(tmp_path / 'bad.npz', images=np.random.default_rng(0).integers(0, 256, (6, 2, 32, 32, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[5000] ^= 255  # images come first in the file
    path.write_bytes(data)
    with pytest.raises(ConfigError, match='bad.npz: damaged images'):
        load([path], cache=tmp_path / 'cache')
    assert list((tmp_path / 'cache').iterdir()) == []


def test_no_or_missing_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='no demonstrations'):
        load([])
    with pytest.raises(ConfigError, match='nowhere.npz'):
        load([tmp_path / 'nowhere.npz'])


def test_arrays_that_do_not_fit_are_refused():
    data = demonstrations(3, 4)
    with pytest.raises(ConfigError, match='6 frames of executed, the episodes have 7'):
        Demonstrations(data.images, data.proprio, data.executed[:6], data.intended, data.episodes)


# --- cache ------------------------------------------------------------------------------------------------------------------------------


def test_cached_frames_are_the_same_and_mapped_from_one_file(files, tmp_path):
    plain, made, found = load(files, WORDS), load(files, WORDS, cache=tmp_path / 'c'), load(files, WORDS, cache=tmp_path / 'c')
    for data in (made, found):
        assert data.digest == plain.digest and np.array_equal(data.images, plain.images) and np.array_equal(data.proprio, plain.proprio)
        assert not data.images.flags.owndata and isinstance(data.images.base, np.memmap)
        assert data.images[np.array([3, 1])].flags.writeable  # a batch is a copy
    assert len(list((tmp_path / 'c').iterdir())) == 1
    load(files, WORDS, cache=tmp_path / 'c', only_successful=True)
    assert len(list((tmp_path / 'c').iterdir())) == 2


def test_the_cache_follows_the_content_not_the_place(files, tmp_path):
    first = load(files, WORDS, cache=tmp_path / 'c')
    (tmp_path / 'elsewhere').mkdir()
    moved = [Path(shutil.copy(f, tmp_path / 'elsewhere')) for f in files]
    assert load(moved, WORDS).digest == first.digest
    assert load_demonstrations(files, WORDS, JointLayout(JOINTS[::-1]), CAMERAS).digest != first.digest
    assert load(files, {**WORDS, 'pull': 'pull hard'}).digest != first.digest
    write(files[0], 9, length=4)
    changed = load(files, WORDS, cache=tmp_path / 'c')
    assert changed.digest != first.digest and not np.array_equal(changed.images[:4], first.images[:4])


@pytest.mark.parametrize('defect', ['no index', 'torn'])
def test_an_unfinished_cache_is_made_again(files, tmp_path, defect):
    first = load(files, WORDS, cache=tmp_path / 'c')
    (folder,) = (tmp_path / 'c').iterdir()
    images = np.array(first.images)
    if defect == 'no index':
        (folder / 'index.json').unlink()
        (folder / 'images.npy').write_bytes(b'')
    else:
        with open(folder / 'images.npy', 'r+b') as file:
            file.truncate(1000)
    assert np.array_equal(load(files, WORDS, cache=tmp_path / 'c').images, images)
    assert [f.name for f in (tmp_path / 'c').iterdir()] == [folder.name]
