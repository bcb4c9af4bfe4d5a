import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from policy_toy import CAMERAS, JOINTS, STEPS

from bora_common.errors import ModelError
from bora_common.types import JointLayout, Observation
from bora_policy.manifest import file_digest
from bora_policy.policy import Policy, noise_seed
from bora_policy.vla import BoraVLA, build

FILES = ('config.json', 'model.safetensors', 'normalizer.json', 'tokenizer.json')


@pytest.fixture(scope='module')
def saved(small_vla, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models') / 'toy'
    small_vla.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / 'copy')


def images(seed=0, batch=1, size=32):
    return np.random.default_rng(seed).integers(0, 256, (batch, 2, size, size, 3), dtype=np.uint8)


def observation(seed=0, **changes):
    proprio = np.random.default_rng(seed).normal(0, 0.3, 5)
    return dataclasses.replace(Observation(10**9, images(seed)[0], CAMERAS, proprio, 'press the button', 'e-0001'), **changes)


def test_saving_and_loading_changes_nothing(small_vla, saved):
    loaded = BoraVLA.from_pretrained(saved)
    assert loaded.model_id == small_vla.model_id == file_digest(saved / 'manifest.json')
    assert loaded.facts == small_vla.facts
    ours, theirs = Policy(small_vla).propose(observation()), Policy(loaded).propose(observation())
    assert np.array_equal(ours.positions, theirs.positions) and np.array_equal(ours.tokens, theirs.tokens)


def test_saving_twice_gives_the_same_identity(small_vla, saved, tmp_path):
    assert BoraVLA.from_pretrained(saved).save_pretrained(tmp_path / 'again') == file_digest(saved / 'manifest.json')


def test_the_proposal_says_what_it_is(small_vla, saved):
    proposal = Policy.load(saved, joint_names=JOINTS, camera_names=CAMERAS).propose(observation(), epoch=4)
    assert proposal.token_names == ('camera_left', 'camera_right', 'cognition')
    assert proposal.tokens.shape == (3, small_vla.facts.token_width) and proposal.tokens.dtype == np.float32
    assert proposal.positions.shape == (STEPS, 5) and np.all(np.isfinite(proposal.positions))
    assert (proposal.epoch, proposal.episode, proposal.stamp_ns) == (4, 'e-0001', 10**9)
    assert proposal.model_id == file_digest(saved / 'manifest.json')


def test_a_batch_equals_its_members(small_vla):
    policy = Policy(small_vla)
    alone = [policy.propose(observation(i)).positions for i in range(3)]
    assert np.allclose(np.stack(alone), [p.positions for p in policy.propose_batch([observation(i) for i in range(3)])], atol=1e-5)


def test_noise_follows_episode_and_stamp(small_vla):
    policy = Policy(small_vla, denoise_steps=3)
    one = policy.propose(observation()).positions
    assert np.array_equal(one, policy.propose(observation()).positions)
    assert not np.array_equal(one, policy.propose(observation(episode='e-0002')).positions)
    assert noise_seed('a', 1) != noise_seed('a', 2) != noise_seed('b', 2)


def test_cameras_are_taken_by_name(small_vla):
    policy, seen = Policy(small_vla), observation()
    swapped = dataclasses.replace(seen, images=seen.images[::-1], camera_names=CAMERAS[::-1])
    assert np.array_equal(policy.propose(seen).positions, policy.propose(swapped).positions)
    with pytest.raises(ModelError, match='camera "right" is missing'):
        policy.propose(dataclasses.replace(seen, camera_names=('left', 'top')))


def test_every_token_reads_the_instruction_and_padding_does_not_count(small_vla):
    one, other = (small_vla.encode(images(), [text]) for text in ('press the button', 'open the box'))
    assert torch.all((one - other).abs().amax(-1) > 0)
    pixels = small_vla.pixels(torch.from_numpy(images()))
    ids, mask = small_vla.instruction_ids(['press'])
    assert ids.shape == mask.shape == (1, 1)
    padded, zeros = torch.nn.functional.pad(ids, (0, 5), value=5), torch.nn.functional.pad(mask, (0, 5))
    assert torch.allclose(small_vla.tokens(pixels, ids, mask), small_vla.tokens(pixels, padded, zeros), atol=1e-6)
    together = small_vla.encode(images().repeat(2, 0), ['press', 'press the button'])
    assert torch.allclose(together[:1], small_vla.encode(images(), ['press']), atol=1e-6)
    assert small_vla.instruction_ids(['press ' * 9])[0].shape == (1, 6) and small_vla.instruction_ids([''])[0].shape == (1, 1)


def test_tokens_depend_on_every_camera(small_vla):
    seen = images()
    before = small_vla.encode(seen, ['press'])
    for camera in range(2):
        changed = seen.copy()
        changed[:, camera] = 255 - changed[:, camera]
        assert not torch.allclose(before, small_vla.encode(changed, ['press']), atol=1e-4)


@pytest.mark.parametrize('wrong', [images(size=16), images()[:, :1], images().astype(np.float32)])
def test_wrong_images_are_refused(small_vla, wrong):
    with pytest.raises(ModelError, match='images'):
        small_vla.encode(wrong, ['press'])


@pytest.mark.parametrize('name', [*FILES, 'manifest.json'])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelError, match=name):
        BoraVLA.from_pretrained(copy)


@pytest.mark.parametrize('name', FILES)
def test_a_flipped_bit_is_named(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 4
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match=f'{name}: SHA-256'):
        BoraVLA.from_pretrained(copy)


@pytest.mark.parametrize(
    ('expected', 'fact'),
    [({'joint_names': JOINTS[::-1]}, 'joint_names'), ({'camera_names': ('left',)}, 'camera_names'), ({'image_size': 64}, 'image_size')],
)
def test_models_for_something_else_are_refused(saved, expected, fact):
    with pytest.raises(ModelError, match=fact):
        BoraVLA.from_pretrained(saved, **expected)


def resign(folder):
    """Make the manifest agree with changed files, as a careless tool would."""
    content = json.loads((folder / 'manifest.json').read_text())
    content['files'] = {name: file_digest(folder / name) for name in content['files']}
    (folder / 'manifest.json').write_text(json.dumps(content))


def test_values_that_are_not_finite_are_refused(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / 'model.safetensors')
    tensors['cognition'][0] = float('nan')
    save_file(tensors, copy / 'model.safetensors')
    resign(copy)
    with pytest.raises(ModelError, match='"cognition" holds values that are not finite'):
        BoraVLA.from_pretrained(copy)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('config.json', '[]', 'config.json'),
        ('config.json', '{"format": "bora-vla-1", "strange": 1}', 'strange'),
        ('normalizer.json', '{"mean": [0], "std": [0]}', 'normalizer.json'),
        ('tokenizer.json', '{}', 'tokenizer.json'),
    ],
)
def test_unusable_content_is_named(copy, name, content, message):
    (copy / name).write_text(content)
    resign(copy)
    with pytest.raises(ModelError, match=message):
        BoraVLA.from_pretrained(copy)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match='nowhere'):
        BoraVLA.from_pretrained(tmp_path / 'nowhere')


def test_a_genuine_paligemma_runs_through_the_same_class(normalizer, tmp_path):
    vlm = {
        'vision_config': {
            'model_type': 'siglip_vision_model', 'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1,
            'num_attention_heads': 2, 'image_size': 28, 'patch_size': 14, 'projection_dim': 16, 'vision_use_head': False,
        },
        'text_config': {
            'model_type': 'gemma', 'vocab_size': 96, 'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 2,
            'num_attention_heads': 2, 'num_key_value_heads': 1, 'head_dim': 8,
        },
        'projection_dim': 16, 'hidden_size': 16, 'vocab_size': 96, 'image_token_index': 95,
    }  # fmt: skip
    torch.manual_seed(0)
    model = build(
        JointLayout(JOINTS), CAMERAS, normalizer, image_size=28, steps=STEPS, horizon=4, vlm=vlm, camera_readout='mean', knots=4, hidden=16
    ).eval()
    assert type(model.vlm).__name__ == 'PaliGemmaForConditionalGeneration'
    assert type(model.vlm.model.vision_tower).__name__ == 'SiglipVisionModel'
    model.save_pretrained(tmp_path / 'genuine')
    seen = dataclasses.replace(observation(), images=images(size=28)[0])
    loaded = Policy.load(tmp_path / 'genuine', joint_names=JOINTS)
    assert np.array_equal(loaded.propose(seen).positions, Policy(model).propose(seen).positions)
    assert loaded.propose(seen).tokens.shape == (3, 16)
