"""Behaviour cloning on synthetic demonstrations: the picture's brightness tells where the arm must go."""

import dataclasses

import numpy as np
import pytest
import torch
from cloning_toy import CAMERAS, JOINTS, LAYOUT, demonstrations, write

from bora_common.errors import ConfigError, ModelError
from bora_policy.vla import BoraVLA, build, small_vlm
from bora_trainer.behaviour_cloning import CHECKPOINT, Cloner, Settings, augment, clone

SETTINGS = Settings(updates=6, batch=4, warm_up=2, checkpoint_every=3)
SMALL = {'steps': 8, 'horizon': 4, 'vlm': small_vlm(32, 80, width=16, layers=1), 'knots': 4, 'hidden': 32, 'blocks': 1}
EXPERTS = pytest.mark.parametrize('expert', ['consistency', 'diffusion'])


@pytest.fixture
def data():
    return demonstrations(5, 6, 7, tasks=('press', 'open', 'press'))


def make_cloner(data, settings=SETTINGS, folder=None, **changes):
    torch.manual_seed(0)
    return Cloner(build(LAYOUT, CAMERAS, data.normalizer(), image_size=32, **SMALL, **changes), data, settings, folder)


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


@EXPERTS
def test_train_save_resume_equals_training_through(data, tmp_path, expert):
    through = make_cloner(data, expert=expert)
    through.run()
    first = make_cloner(data, folder=tmp_path, expert=expert)
    first.run(until=3)
    second = make_cloner(data, folder=tmp_path, expert=expert)
    assert second.update == 3
    second.run()
    for (name, a), (_, b) in zip(through.model.named_parameters(), second.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(through.average[name], second.average[name]), name


def test_a_checkpoint_of_something_else_or_damaged_is_refused(data, tmp_path):
    make_cloner(data, folder=tmp_path).run(until=3)
    with pytest.raises(ModelError, match='other settings'):
        make_cloner(data, dataclasses.replace(SETTINGS, rate=1e-4), tmp_path)
    with pytest.raises(ModelError, match='other settings'):
        make_cloner(demonstrations(5, 6, 8, tasks=('press', 'open', 'press')), folder=tmp_path)
    with pytest.raises(ModelError, match='other settings'):
        make_cloner(data, folder=tmp_path, expert='diffusion')
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match='damaged'):
        make_cloner(data, folder=tmp_path)


def test_a_step_trains_on_the_frames_own_instructions(data):
    cloner = make_cloner(data)
    seen = []
    tokens = cloner.model.tokens
    cloner.model.tokens = lambda pixels, ids, mask: seen.append(ids) or tokens(pixels, ids, mask)
    for _ in range(4):
        cloner.step()
    texts = {tuple(row) for row in torch.cat(seen).tolist()}
    assert texts == {tuple(row) for row in cloner.model.instruction_ids(['press it', 'open it'])[0].tolist()}


def test_bfloat16_is_near_float32_and_leaves_weights_and_average_alone(data):
    full, half = make_cloner(data), make_cloner(data, dataclasses.replace(SETTINGS, bf16=True))
    one, other = full.step()['bc'], half.step()['bc']
    assert one != other and other == pytest.approx(one, rel=0.05)
    assert {p.dtype for p in half.model.parameters()} == {t.dtype for t in half.average.values()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in half.model.parameters())


def test_images_of_another_size_are_refused(data):
    data.images = data.images[:, :, :16, :16]
    with pytest.raises(ModelError, match='the model takes'):
        make_cloner(data)


@EXPERTS
def test_it_learns_what_the_pictures_say(tmp_path, expert):
    files = [write(tmp_path / f'{i}.npz', i) for i in range(12)]
    losses = []
    settings = Settings(updates=90, batch=16, warm_up=10, rate=3e-3, average=0.9)
    model = clone(
        files, 'press', LAYOUT, CAMERAS, settings, progress=lambda update, info: losses.append(info['bc']), expert=expert, **SMALL
    )  # fmt: skip
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    model.save_pretrained(tmp_path / 'model')
    assert BoraVLA.from_pretrained(tmp_path / 'model').facts.joint_names == JOINTS


def test_training_goes_on_from_a_model_with_a_schedule_of_its_own(tmp_path):
    files = [write(tmp_path / f'{i}.npz', i, task=('press', 'open')[i % 2]) for i in range(6)]
    words = {'press': 'press it', 'open': 'open it'}
    settings = Settings(updates=20, batch=8, warm_up=5, rate=3e-3, average=0.9)
    first = clone(files, words, LAYOUT, CAMERAS, settings, **SMALL)
    first.save_pretrained(tmp_path / 'first')
    losses = []
    longer = dataclasses.replace(settings, seed=1)
    arguments = {'init': tmp_path / 'first', 'folder': tmp_path / 'work', 'cache': tmp_path / 'cache'}
    second = clone(files[:4], words, LAYOUT, CAMERAS, longer, **arguments, progress=lambda update, info: losses.append(info['bc']))
    assert len(losses) == 20 and second.normalizer.mean.tolist() == first.normalizer.mean.tolist()
    fresh = []
    clone(files[:4], words, LAYOUT, CAMERAS, longer, progress=lambda update, info: fresh.append(info['bc']), **SMALL)
    assert np.mean(losses[:5]) < np.mean(fresh[:5])
    second.save_pretrained(tmp_path / 'second')
    with pytest.raises(ModelError, match='other settings'):  # progress that began from another model
        clone(files[:4], words, LAYOUT, CAMERAS, longer, **{**arguments, 'init': tmp_path / 'second'})
    with pytest.raises(ConfigError, match='knots is given, but .*first settles'):
        clone(files, words, LAYOUT, CAMERAS, longer, init=tmp_path / 'first', knots=4)
    with pytest.raises(ModelError, match='camera_names'):
        clone(files, words, LAYOUT, CAMERAS[:1], longer, init=tmp_path / 'first')
