"""Settings of the offline phase: the shipped methods, files, and what is refused."""

import dataclasses

import pytest

from bora_common.errors import ConfigError
from bora_common.paths import share
from bora_trainer.offline_config import OfflineConfig, load_config

METHODS = ('bc-consistency', 'bc-diffusion', 'bc-longer', 'bc-filtered', 'decoupled-critic', 'bora-offline')


@pytest.mark.parametrize('name', METHODS)
def test_every_method_is_there_and_can_be(name):
    config = load_config(name)
    assert config.name == name
    data = dataclasses.replace(config.data, demonstrations=('somewhere',))
    assert dataclasses.replace(config, data=data).check()


def test_no_other_methods_are_shipped():
    assert sorted(p.stem for p in (share() / 'config' / 'offline').glob('*.yaml')) == sorted(METHODS)


def test_the_controls_differ_from_bora_offline_in_what_they_control_for_only():
    bora, longer, filtered, decoupled = (load_config(n) for n in ('bora-offline', 'bc-longer', 'bc-filtered', 'decoupled-critic'))
    for control in (longer, filtered, decoupled):
        assert (control.updates, control.batch, control.actor, control.model) == (bora.updates, bora.batch, bora.actor, bora.model)
    assert not longer.ppo.enabled and longer.critic.kind == 'none' and longer.data == bora.data
    assert filtered == dataclasses.replace(longer, name='bc-filtered', data=dataclasses.replace(longer.data, only_successful=True))
    assert decoupled == dataclasses.replace(bora, name='decoupled-critic', critic=dataclasses.replace(bora.critic, kind='pixels'))


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        ('updats: 3', 'unknown key "updats", did you mean "updates"'),
        ('ppo: {gat: actor}', 'unknown key "ppo.gat", did you mean "gate"'),
        ('ppo: {gate: door}', "ppo.gate is 'door', "),
        ('updates: many', "updates is 'many', expected int"),
        ('updates: true', 'updates is True, expected int'),
        ('bf16: 1', 'bf16 is 1, expected bool'),
        ('ppo: 3', 'ppo must hold a mapping'),
        ('[1, 2]', 'file must hold a mapping'),
        ('a: [', 'not YAML'),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, named):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match='mine.yaml') as caught:
        load_config(path)
    assert named in str(caught.value) and '\n' not in str(caught.value).split('not YAML')[0]


def test_files_override_defaults(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('batch: 4\ncritic: {kind: tokens, gamma: 1}\ndata: {demonstrations: [a, b], own_rollouts: c}\n')
    config = load_config(path)
    assert (config.batch, config.critic.gamma, config.updates) == (4, 1.0, OfflineConfig().updates)
    assert config.data.demonstrations == ('a', 'b') and config.data.own_rollouts == ('c',)
    assert config.own_batch == 1 and str(config.work) == 'build/offline/bora-offline.work'


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "bora-offline"'):
        load_config('bora-ofline')
