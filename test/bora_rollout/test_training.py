"""The command line of the offline phase: what overrides what, what is refused, and one short run to its end."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'bora_trainer'))  # for offline_toy
import offline_toy as toy

from bora_bringup.cli import run
from bora_common.errors import ConfigError
from bora_policy.vla import BoraVLA
from bora_rollout.training import main, parse
from bora_trainer.offline_config import load_config


def test_options_override_the_file_that_is_named():
    config = parse(['--config', 'bc-filtered', '--updates', '7', '--data.demonstrations', 'a', 'b', '--ppo.gate', 'ppo', '--bf16'])
    expected = load_config('bc-filtered')
    assert config == dataclasses.replace(
        expected, updates=7, bf16=True, data=dataclasses.replace(expected.data, demonstrations=('a', 'b')),
        ppo=dataclasses.replace(expected.ppo, gate='ppo'),
    )  # fmt: skip
    assert parse([]) == load_config('bora-offline')


@pytest.mark.parametrize('wrong', [['--updats', '7'], ['--ppo.gate', 'door'], ['--updates', 'many']])
def test_wrong_options_are_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(wrong)
    assert caught.value.code == 2 and wrong[0].lstrip('-') in capsys.readouterr().err


def test_named_errors_are_one_line(capsys):
    assert main(['--config', 'bora-ofline']) == 1
    assert run(['train', 'offline', '--data.demonstrations', '/nowhere/x.npz']) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and 'did you mean "bora-offline"' in lines[0] and '/nowhere/x.npz' in lines[1]
    with pytest.raises(ConfigError, match='does not exist'):
        parse(['--config', 'no/such/file.yaml'])


def test_bora_train_offline_trains_and_says_where(tmp_path, capsys):
    config = toy.run_config(tmp_path)
    options = ['--config', 'bc-diffusion', '--data.demonstrations', *config.data.demonstrations]
    small = ['--model.width', '16', '--model.layers', '1', '--model.hidden', '32', '--model.blocks', '1', '--model.steps', '8']
    rest = ['--updates', '3', '--batch', '4', '--actor.warm-up', '1', '--model.horizon', '4', '--run.no-tensorboard', '--run.device', 'cpu']
    assert run(['train', '--out', str(tmp_path / 'model'), 'offline', *options, *small, *rest]) == 0
    model = BoraVLA.from_pretrained(tmp_path / 'model')
    assert f'model: model {model.model_id[:12]}' in capsys.readouterr().out.replace('\n', '')
    assert (model.config.expert, model.config.denoise_steps, model.facts.steps) == ('diffusion', 10, 8)
