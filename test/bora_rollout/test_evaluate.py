"""Evaluation and the building of offline data, with an untrained base model of the real robot's size."""

import os

os.environ.setdefault('MUJOCO_GL', 'egl')

import cv2
import numpy as np
import pytest
import torch

from bora_common.errors import ConfigError, ModelError
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import Normalizer, WeightsVersion
from bora_policy.packing import pack_chain
from bora_policy.policy import Policy
from bora_policy.vla import build, small_vlm
from bora_replay.buffer import TransitionBuffer
from bora_rollout.batch import Episode, zero_chain
from bora_rollout.evaluate import FIRST_SEED, evaluate, scene_seed, wilson
from bora_rollout.models import ROLLOUT_SEED, Recipe, add_transitions

torch.set_num_threads(1)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))


@pytest.fixture(scope='module')
def policy():
    from bora_sim.tasks import make_task

    torch.manual_seed(0)
    normalizer = Normalizer(make_task('press_button').start_pose, np.full(19, 0.05))
    vlm = small_vlm(64, 80, width=16, layers=1)
    model = build(ROBOT.layout, ROBOT.cameras, normalizer, vlm=vlm, knots=4, hidden=16, blocks=1).requires_grad_(False).eval()
    model.model_id = 'm' * 64
    return Policy(model)


def test_wilson_interval_of_known_counts():
    assert wilson(15, 20) == pytest.approx((0.5313, 0.8881), abs=1e-3)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1 and wilson(0, 0) == (0.0, 1.0)


def test_scenes_of_evaluations_are_apart_from_everything_else():
    assert scene_seed(0, 0) == FIRST_SEED > ROLLOUT_SEED + 10_000
    assert scene_seed(0, 9_999) < scene_seed(1, 0)
    with pytest.raises(ConfigError, match='episode'):
        scene_seed(0, 10_000)


def test_an_evaluation_can_be_repeated_and_a_zero_residual_changes_nothing(policy, tmp_path):
    chain = zero_chain(policy, ROBOT.residual_bound)
    chain.alpha = 0.5
    (tmp_path / 'zero.safetensors').write_bytes(pack_chain(chain, WeightsVersion('run', 1, 1), 'm' * 64))
    alone = evaluate('press_button', policy, None, 1, seed=3)
    corrected = evaluate('press_button', policy, tmp_path / 'zero.safetensors', 1, seed=3)
    assert {**alone, 'residual': corrected['residual']} == corrected
    assert alone['trials'] == 1 and alone['successes'] == 0 and alone['mean_steps'] == 90


def test_a_residual_of_another_model_is_refused(policy, tmp_path):
    file = tmp_path / 'other.safetensors'
    file.write_bytes(pack_chain(zero_chain(policy, ROBOT.residual_bound), WeightsVersion('run', 1, 1), 'x' * 64))
    with pytest.raises(ModelError, match='base model'):
        evaluate('press_button', policy, file, 1)
    with pytest.raises(ModelError, match='nowhere'):
        evaluate('press_button', policy, tmp_path / 'nowhere', 1)


def test_failures_are_shown_and_the_set_of_objects_counts(policy, tmp_path):
    standard = evaluate('press_button', policy, None, 2, seed=3)
    shown = evaluate('press_button', policy, None, 2, seed=3, variant='deployment', failures=tmp_path / 'failures.png')
    assert shown == {**standard, 'variant': 'deployment', 'mean_steps': 90.0}  # an untrained model fails everywhere
    sheet = cv2.imread(str(tmp_path / 'failures.png'))
    assert sheet.shape[1] > 2 * 240 and sheet.std() > 10
    with pytest.raises(ConfigError, match='objects "standart".*standard'):
        evaluate('press_button', policy, None, 1, variant='standart')


def test_processes_share_the_scenes(policy, tmp_path):
    policy.model.save_pretrained(tmp_path / 'model')
    done = []
    shared = evaluate(
        'press_button', tmp_path / 'model', None, 2, 3, batch=1, workers=2,
        progress=lambda n, trial: done.append((n, trial.seed)),
    )  # fmt: skip
    policy.model.model_id = 'm' * 64
    assert {**shared, 'model': 'm' * 64} == evaluate('press_button', policy, None, 2, 3, batch=1)
    assert [n for n, _ in done] == [1, 2] and {s for _, s in done} == {scene_seed(3, 0), scene_seed(3, 1)}


def test_an_evaluation_that_can_not_be_is_refused(policy):
    for wrong in ({'batch': 0}, {'workers': 0}):
        with pytest.raises(ConfigError, match='expected 1 or more'):
            evaluate('press_button', policy, None, 1, **wrong)
    with pytest.raises(ConfigError, match='as files'):
        evaluate('press_button', policy, None, 2, workers=2)


@pytest.mark.parametrize(('success', 'failure', 'terminal'), [(True, False, True), (False, True, True), (False, False, False)])
def test_an_episode_becomes_overlapping_transitions(policy, success, failure, terminal):
    rng = np.random.default_rng(0)
    count, limit, facts = 20, 90, policy.model.facts
    images = rng.integers(0, 255, (count, 3, 64, 64, 3), dtype=np.uint8)
    motion = rng.normal(0, 0.1, (2, count, 19))
    buffer = TransitionBuffer(
        10, facts.steps, 19, len(facts.token_names), facts.token_width, dt=facts.dt, joint_names=ROBOT.layout.names,
        token_names=facts.token_names, model_id='m' * 64,
    )  # fmt: skip
    add_transitions(buffer, policy, Episode('e', images, motion[0], motion[1], success, failure), Recipe(stride=8), 'press', limit)
    assert len(buffer) == 3  # at steps 0, 8 and 16
    assert buffer.column('mask').sum(1).tolist() == [20, 12, 4]
    assert np.allclose(buffer.column('executed')[1, :12], motion[1][8:], atol=1e-6)
    assert np.allclose(buffer.column('proprio'), motion[0][[0, 8, 16]], atol=1e-6)
    assert buffer.column('done').any(1).tolist() == [terminal] * 3
    assert buffer.column('reward')[0].sum() == pytest.approx(float(success) - 20 / limit, abs=1e-5)
