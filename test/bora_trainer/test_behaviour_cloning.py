"""Behaviour cloning on synthetic demonstrations: the picture's brightness tells where the arm must go."""

import dataclasses

import numpy as np
import pytest
import torch

from bora_common.errors import ConfigError, ModelError
from bora_common.types import JointLayout
from bora_policy.vla import BoraVLA, build, small_vlm
from bora_trainer.behaviour_cloning import CHECKPOINT, Cloner, Demonstrations, Settings, augment, clone, load_demonstrations

JOINTS = ('a', 'b')
CAMERAS = ('left', 'right')
LAYOUT = JointLayout(JOINTS)
SETTINGS = Settings(updates=6, batch=4, warm_up=2, checkpoint_every=3)
SMALL = {'steps': 8, 'horizon': 4, 'vlm': small_vlm(32, 80, width=16, layers=1), 'knots': 4, 'hidden': 32, 'blocks': 1}


def episode(seed, length=6):
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 1)
    images = np.full((length, 2, 32, 32, 3), round(255 * level), np.uint8)
    goal = np.float32([level, -level])
    ramp = np.linspace(1 / length, 1, length, dtype=np.float32)[:, None]
    return {'images': images, 'proprio': (ramp - 1 / length) * goal, 'intended': ramp * goal}


def write(path, seed, joints=JOINTS, cameras=CAMERAS):
    np.savez_compressed(path, **episode(seed), joints=np.array(joints), cameras=np.array(cameras))
    return path


@pytest.fixture
def data():
    return Demonstrations([episode(i, 5 + i) for i in range(3)], 'press')


def make_cloner(data, settings=SETTINGS, folder=None):
    torch.manual_seed(0)
    return Cloner(build(LAYOUT, CAMERAS, data.normalizer(), image_size=32, **SMALL), data, settings, folder)


def test_a_chunk_starts_at_its_frame_and_never_leaves_its_episode(data):
    chunks, mask = data.chunks(np.array([0, 3, 5]), 8)  # episodes of 5, 6 and 7 frames
    assert mask.sum(1).tolist() == [5, 2, 6]
    assert np.array_equal(chunks[0, :5], data.intended[:5])
    assert np.array_equal(chunks[1, :2], data.intended[3:5]) and np.all(chunks[1, 2:] == data.intended[4])
    assert np.array_equal(chunks[2, :6], data.intended[5:11])


def test_files_are_read_by_joint_and_camera_name(tmp_path):
    straight = load_demonstrations([write(tmp_path / 'a.npz', 1)], 'press', LAYOUT, CAMERAS)
    path = tmp_path / 'b.npz'
    content = episode(1)
    content['images'] = content['images'].copy()
    content['images'][:, 0] = 7  # what the file calls "right"
    swapped = {n: content[n][:, ::-1] for n in ('proprio', 'intended')}
    np.savez_compressed(path, images=content['images'], **swapped, joints=np.array(JOINTS[::-1]), cameras=np.array(CAMERAS[::-1]))
    turned = load_demonstrations([path], 'press', LAYOUT, CAMERAS)
    assert np.array_equal(turned.intended, straight.intended)
    assert np.all(turned.images[:, 1] == 7) and not np.any(turned.images[:, 0] == 7)


@pytest.mark.parametrize('defect', ['no file', 'not a file of arrays', 'camera', 'field'])
def test_unusable_files_are_named(tmp_path, defect):
    path = tmp_path / 'bad.npz'
    if defect == 'not a file of arrays':
        path.write_bytes(b'hello')
    elif defect == 'camera':
        write(path, 1, cameras=('left', 'top'))
    elif defect == 'field':
        np.savez(path, proprio=np.zeros((3, 2)))
    with pytest.raises(ConfigError, match='bad.npz'):
        load_demonstrations([path], 'press', LAYOUT, CAMERAS)
    with pytest.raises(ConfigError, match='no demonstrations'):
        load_demonstrations([], 'press', LAYOUT, CAMERAS)


def test_the_rate_warms_up_and_ends_at_zero(data):
    cloner = make_cloner(data, Settings(updates=100, warm_up=10))
    rates = []
    for cloner.update in range(101):
        rates.append(cloner.rate())
    assert rates[0] == pytest.approx(7e-5) and max(rates) == pytest.approx(7e-4) == rates[10]
    assert np.all(np.diff(rates[10:]) < 0) and rates[100] == pytest.approx(0, abs=1e-9)


def test_jitter_stays_within_the_picture_and_differs_by_image():
    pixels = torch.full((2, 3, 3, 4, 4), 0.1)
    changed = augment(pixels, SETTINGS, torch.Generator().manual_seed(0))
    assert changed.shape == pixels.shape and changed.abs().max() <= 1
    assert len({round(float(v), 5) for v in changed[:, :, 0, 0, 0].flatten()}) == 6


def test_the_average_follows_the_weights(data):
    cloner = make_cloner(data)
    before = {n: t.clone() for n, t in cloner.average.items()}
    cloner.step()
    keep = 2 / 11
    for name, parameter in cloner.model.named_parameters():
        assert torch.allclose(cloner.average[name], keep * before[name] + (1 - keep) * parameter, atol=1e-6)


def test_train_save_resume_equals_training_through(data, tmp_path):
    through = make_cloner(data)
    through.run()
    first = make_cloner(data, folder=tmp_path)
    first.run(until=3)
    second = make_cloner(data, folder=tmp_path)
    assert second.update == 3
    second.run()
    for (name, a), (_, b) in zip(through.model.named_parameters(), second.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(through.average[name], second.average[name]), name


def test_a_checkpoint_of_something_else_or_damaged_is_refused(data, tmp_path):
    make_cloner(data, folder=tmp_path).run(until=3)
    with pytest.raises(ModelError, match='other settings'):
        make_cloner(data, dataclasses.replace(SETTINGS, rate=1e-4), tmp_path)
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match='damaged'):
        make_cloner(data, folder=tmp_path)


def test_it_learns_what_the_pictures_say(tmp_path):
    files = [write(tmp_path / f'{i}.npz', i) for i in range(12)]
    losses = []
    settings = Settings(updates=90, batch=16, warm_up=10, rate=3e-3, average=0.9)
    model = clone(
        files, 'press', LAYOUT, CAMERAS, settings, progress=lambda update, info: losses.append(info['bc']), **SMALL
    )  # fmt: skip
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    model.save_pretrained(tmp_path / 'model')
    assert BoraVLA.from_pretrained(tmp_path / 'model').facts.joint_names == JOINTS
