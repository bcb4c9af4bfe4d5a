"""The whole computation at its smallest, in one process; and what it is made of."""

import os

os.environ.setdefault('MUJOCO_GL', 'egl')

import json
from dataclasses import replace

import numpy as np
import pytest

from bora_common.errors import ConfigError
from bora_replay.buffer import TransitionBuffer
from bora_rollout import offline_table
from bora_rollout.evaluate import scene_seed
from bora_rollout.job import Job
from bora_rollout.models import ROLLOUT_SEED
from bora_rollout.offline_results import METHODS, VARIANTS
from bora_rollout.offline_table import HELD_OUT_SEED, QUICK, Plan, build_table, stages_of
from bora_rollout.stages import Result
from bora_sim import rendering

SMALLEST = replace(QUICK, tasks=('press_button',), demonstrations=2, poor_fraction=0.0, own=2, held_out=2, trials=1)


def test_every_method_is_trained_and_evaluated_on_both_sets():
    names = {stage.name for stage in stages_of(Plan())}
    assert names >= {f'evaluation/{m}/{v}' for m in METHODS for v in VARIANTS} | {f'train/{m}' for m in METHODS}
    assert len([n for n in names if n.startswith('demonstrations/')]) == 5 and 'hand-over' in names


def test_scenes_of_training_and_evaluation_are_disjoint():
    stages = {stage.name: stage for stage in stages_of(Plan())}
    first = [stages[name].inputs['seed'] for name in ('demonstrations/press_button', 'own', 'held-out')]
    assert first == [0, ROLLOUT_SEED, HELD_OUT_SEED] and first[-1] + Plan().held_out < scene_seed(0, 0)
    Plan(demonstrations=ROLLOUT_SEED).check()
    for broken in (Plan(demonstrations=ROLLOUT_SEED + 1), Plan(own=HELD_OUT_SEED - ROLLOUT_SEED + 1), Plan(held_out=1)):
        with pytest.raises(ConfigError, match='offline table: (demonstrations|own|held_out) is'):
            broken.check()
    with pytest.raises(ConfigError, match='press_buton'):
        Plan(tasks=('press_buton',)).check()


def test_controls_see_what_bora_sees():
    """From the same base, with as many updates, on the same demonstrations; only the critics see own episodes."""
    stages = {stage.name: stage for stage in stages_of(Plan())}
    settings = {m: stages[f'train/{m}'].inputs['settings'] for m in METHODS}
    later = ('bc-longer', 'bc-filtered', 'decoupled-critic', 'bora-offline')
    assert len({settings[m]['updates'] for m in later}) == 1 and len({json.dumps(settings[m]['actor']) for m in later}) == 1
    for method in later:
        needs = set(stages[f'train/{method}'].needs)
        assert 'train/bc-consistency' in needs and ('own' in needs) == (method in ('decoupled-critic', 'bora-offline'))
    assert [m for m in METHODS if settings[m]['data']['only_successful']] == ['bc-filtered']


def in_this_process(stages, root, workers, watcher):
    """As `run_stages`, one after another without processes or cache."""
    results, waiting = {}, list(stages)
    while waiting:
        stage = next(s for s in waiting if all(need in results for need in s.needs))
        waiting.remove(stage)
        folder = root / stage.name / 'x'
        folder.mkdir(parents=True)
        job = Job(stage.inputs, folder, {need: results[need].folder for need in stage.needs}, root / 'shared')
        results[stage.name] = Result(folder, json.loads(json.dumps(stage.run(job))), 0.5, False)
    return results


def test_from_demonstrations_to_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(offline_table, 'run_stages', in_this_process)
    monkeypatch.setattr(rendering, 'render', lambda model, data, cameras, w, h: [np.full((h, w, 3), 99, np.uint8)] * len(cameras))
    other = {'task': 'press_button', 'method': 'bora-full', 'variant': 'standard', 'seed': 0}
    (tmp_path / 'build').mkdir()
    (tmp_path / 'build' / 'results.json').write_text(json.dumps([other]))
    report = build_table(SMALLEST, tmp_path / 'stages', tmp_path / 'build', tmp_path / 'docs', 1)
    written = json.loads((tmp_path / 'build' / 'results.json').read_text())
    assert other in written and {(r['method'], r['variant']) for r in written[1:]} == {(m, v) for m in METHODS for v in VARIANTS}
    assert all(r['trials'] == 1 and r['successes'] in (0, 1) and len(r['model_digest']) == 64 for r in written[1:])
    assert len({r['model_digest'] for r in written[1:] if r['method'] in ('bc-diffusion', 'bc-consistency', 'bora-offline')}) == 3
    value = json.loads((tmp_path / 'build' / 'value.json').read_text())['press_button']
    assert all(value[m]['n_success'] + value[m]['n_failure'] == 2 and 'auc' in value[m] for m in ('bora-offline', 'decoupled-critic'))
    assert json.loads((tmp_path / 'docs' / 'results' / 'offline_seed0.json').read_text()) == json.loads(json.dumps(report))
    assert '| press_button | ' in (tmp_path / 'docs' / 'results.md').read_text()
    handed = tmp_path / 'stages' / 'hand-over' / 'x' / 'press_button'
    buffer = TransitionBuffer.load(handed / 'offline.safetensors')
    assert buffer.model_id == report['rows'][-1]['model_digest'] and len(buffer) > 2 * 90 / 8
    assert (handed / 'critic').is_dir() and set(buffer.column('success')) <= {True, False}
