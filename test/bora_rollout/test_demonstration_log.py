"""`bora replay import` on files as `bora sim demos` writes them."""

import json

import numpy as np
import pytest

from bora_bringup.cli import run
from bora_common.errors import ConfigError
from bora_replay.steplog import read_episodes
from bora_rollout.demonstration_log import convert
from bora_sim import demos


def recorded(folder, seed, steps=3, task='press_button'):
    rng = np.random.default_rng(seed)
    motion = [rng.normal(0, 0.1, (steps, 19)).astype(np.float32) for _ in range(3)]
    demo = demos.Demo(task, seed, False, True, rng.integers(0, 256, (steps, 3, 64, 64, 3), dtype=np.uint8), *motion, motion[0][0])
    folder.mkdir(exist_ok=True)
    demo.save(demos.episode_path(folder, task, seed))
    return demo


def test_the_command_writes_a_log_that_verifies(tmp_path, capsys):
    kept = [recorded(tmp_path / 'demos', seed) for seed in (7, 8)]
    assert run(['replay', 'import', str(tmp_path / 'demos'), '--out', str(tmp_path / 'run'), '--json']) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts == {'demonstrations': 2, 'successes': 2, 'steps': 6, 'transitions': 0}
    assert run(['replay', 'verify', '--json', str(tmp_path / 'run')]) == 0
    for episode, demo in zip(read_episodes(tmp_path / 'run'), kept, strict=True):
        assert episode.event.episode == f'press_button_{demo.seed:06d}' and episode.event.instruction == 'press the button'
        np.testing.assert_array_equal(np.stack([t.positions for t in episode.record.executed[1:]]), demo.executed)


def test_files_of_two_tasks_are_no_log(tmp_path, capsys):
    recorded(tmp_path / 'demos', 0, task='open_box')
    recorded(tmp_path / 'demos', 0)
    assert run(['replay', 'import', str(tmp_path / 'demos'), '--out', str(tmp_path / 'run')]) == 1
    assert 'press_button_000000.npz: task "press_button", the log is of open_box' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_an_empty_folder_and_an_unknown_task_are_errors(tmp_path):
    with pytest.raises(ConfigError, match='no demonstrations'):
        convert(tmp_path, tmp_path / 'run')
    recorded(tmp_path / 'demos', 0, task='juggle')
    with pytest.raises(ConfigError, match='juggle'):
        convert(tmp_path / 'demos', tmp_path / 'run')
