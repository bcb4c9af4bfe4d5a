"""Collections that were interrupted are completed; files of another recipe are refused."""

import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_rollout import demonstrations
from bora_rollout.demonstrations import complete, demonstrate
from bora_rollout.job import Job
from bora_sim import demos


@pytest.fixture
def recorded(monkeypatch):
    """Seeds in the order in which they are recorded, by a recorder that writes empty episodes; odd ones fail."""
    seeds = []

    def collect(task, episodes, seed, poor_fraction, workers, out, progress):
        out.mkdir(parents=True, exist_ok=True)
        files = []
        for s in range(seed, seed + episodes):
            seeds.append(s)
            images, none = np.zeros((1, 3, 64, 64, 3), np.uint8), np.zeros((1, 19), np.float32)
            demo = demos.Demo(task, s, demos.is_poor(s, poor_fraction), s % 2 == 0, images, none, none, none, none[0])
            files.append(demos.episode_path(out, task, s))
            demo.save(files[-1])
            progress(files[-1], demo.success, 1)
        return files

    monkeypatch.setattr(demonstrations.demos, 'collect', collect)
    return seeds


def test_only_what_is_missing_is_recorded(tmp_path, recorded):
    files = complete('press_button', 6, 10, 0.5, 1, tmp_path)
    assert recorded == [10, 11, 12, 13, 14, 15]
    for lost in (1, 3, 4):
        files[lost].unlink()
    recorded.clear()
    progress = []
    assert complete('press_button', 6, 10, 0.5, 1, tmp_path, lambda done, total: progress.append((done, total))) == files
    assert recorded == [11, 13, 14] and progress == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert all(file.is_file() for file in files)


def test_a_folder_of_another_share_of_poor_demonstrations_is_refused(tmp_path, recorded):
    complete('press_button', 8, 0, 0.0, 1, tmp_path)
    with pytest.raises(ConfigError, match='press_button_00000.*another share'):
        complete('press_button', 8, 0, 0.9, 1, tmp_path)


def test_a_file_that_is_no_demonstration_is_named(tmp_path, recorded):
    file = complete('press_button', 1, 0, 0.0, 1, tmp_path)[0]
    file.write_bytes(b'not a zip')
    with pytest.raises(ConfigError, match=f'{file.name}: not a demonstration'):
        complete('press_button', 1, 0, 0.0, 1, tmp_path)


def test_the_stage_counts_successes_and_poor_ones(tmp_path, recorded):
    job = Job({'task': 'press_button', 'episodes': 7, 'seed': 4, 'poor_fraction': 1.0}, tmp_path, {}, tmp_path)
    assert demonstrate(job) == {'episodes': 7, 'successes': 4, 'poor': 7}
