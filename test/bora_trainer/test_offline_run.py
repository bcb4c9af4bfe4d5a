"""Whole runs of the offline phase on files: the hand-over, what is refused, kill -9, and two processes for one."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import offline_toy as toy
import offline_worker
import pytest
import torch
from safetensors.torch import load_file

from bora_common.errors import ConfigError, ModelError
from bora_critic.critic import MANIFEST, load_critic
from bora_policy.policy import Policy
from bora_policy.vla import BoraVLA
from bora_trainer.offline_run import FACTS, pick_device, train_offline
from bora_trainer.offline_state import CHECKPOINT
from bora_trainer.replicas import Replicas

WORKER = Path(offline_worker.__file__)
PATIENCE = 500  # s, for a process of its own on a machine that is busy with other things


def start(*arguments, **environment):
    return subprocess.Popen([sys.executable, str(WORKER), *map(str, arguments)], env=os.environ | environment)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A folder with a finished run, its facts and what it reported."""
    folder, reports = tmp_path_factory.mktemp('run'), []
    config = toy.run_config(folder, run={'tensorboard': True, 'log_every': 2})
    return folder, train_offline(config, lambda *report: reports.append(report)), reports


def test_the_hand_over_fits_together(finished):
    folder, facts, reports = finished
    model = BoraVLA.from_pretrained(folder / 'model')
    critic = load_critic(folder / 'model' / 'critic', model_id=model.model_id, joints=model.facts.joint_names, k=toy.K)
    assert facts['model_digest'] == model.model_id and critic.spec.token_names == model.facts.token_names
    assert Policy.load(folder / 'model').model.model_id == model.model_id
    written = json.loads((folder / 'model' / FACTS).read_text())
    assert written['settings']['ppo']['start'] == 6 and written['gate_open_fraction'] == 1.0
    held_out = written['held_out']['press_button']
    assert (held_out['n_success'], held_out['n_failure']) == (1, 1) and 'auc_mean' in held_out and 'ranking_q' in held_out
    assert [r[1] for r in reports if r[0] == 'head start'] == [1, 2]
    assert [r[1] for r in reports if r[0] == 'hand-over'] == [1, 2, 3]
    assert json.loads((folder / 'model' / 'critic' / MANIFEST).read_text())['facts']['updates'] == 3  # a new one, not that of the training
    assert [r[1] for r in reports if r[0] == 'training'] == list(range(1, 13))


def test_the_curves_are_written(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0] / 'model.work' / 'tensorboard')).Reload()
    assert [e.step for e in events.Scalars('offline/bc_loss')] == [2, 4, 6, 8, 10, 12]
    assert [e.step for e in events.Scalars('offline/clip_fraction')] == [8, 10, 12]


def test_a_finished_run_only_hands_over_again(finished):
    folder, _, _ = finished
    before = (folder / 'model' / 'model.safetensors').read_bytes()
    reports = []
    train_offline(toy.run_config(folder), lambda *report: reports.append(report))
    assert (folder / 'model' / 'model.safetensors').read_bytes() == before
    assert not [r for r in reports if r[0] == 'training']


@pytest.mark.timeout(2 * PATIENCE)
def test_kill_and_resume_equals_training_through(finished, tmp_path):
    """The checkpoint of update 8 is what is left of a run that was killed at its 10th."""
    folder = tmp_path / 'killed'
    process = start('killed', folder, 10)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert (folder / 'model.work' / CHECKPOINT).is_file() and not (folder / 'model').exists()
    facts = train_offline(toy.run_config(folder))
    assert facts['model_digest'] == finished[1]['model_digest']
    for name in ('model/model.safetensors', 'model/critic/critic.safetensors'):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name


@pytest.mark.timeout(2 * PATIENCE)
def test_two_processes_are_as_one_with_the_joint_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    group = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    processes = [start('replica', tmp_path / 'gradients', RANK=str(rank), **group) for rank in range(2)]
    alone = offline_worker.gradients(Replicas())
    assert [p.wait(PATIENCE) for p in processes] == [0, 0]
    together = load_file(tmp_path / 'gradients')
    assert together.keys() == alone.keys() and any(n.startswith('open.actor.vlm.') for n in alone)
    assert not [n for n in alone if n.startswith('shut.actor.')]
    for name, gradient in alone.items():
        assert torch.allclose(together[name], gradient, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize(
    ('change', 'error', 'named'),
    [
        ({'data': {'demonstrations': ('/nowhere/at/all.npz',)}}, ConfigError, 'all.npz'),
        ({'data': {'at_least': 7}}, ConfigError, 'press_button: 6 episodes, expected at least 7'),
        ({'data': {'only_successful': True}}, ConfigError, 'data.only_successful: a critic'),
        ({'critic': {'kind': 'none'}}, ConfigError, 'ppo.enabled needs a critic'),
        ({'batch': 0}, ConfigError, 'batch: 0'),
        ({'ppo': {'clip': 1.5}}, ConfigError, 'ppo.clip: 1.5'),
        ({'run': {'device': 'tpu9'}}, ConfigError, 'run.device: "tpu9"'),
        ({'model': {'init': '/nowhere'}}, ModelError, '/nowhere'),
    ],
)
def test_what_can_not_be_is_refused_by_name(finished, change, error, named):
    with pytest.raises(error, match=named):
        train_offline(toy.run_config(finished[0], **change))


def test_going_on_from_a_model_keeps_its_normaliser_and_checks_its_expert(finished, tmp_path):
    folder = finished[0]
    longer = toy.run_config(
        folder, updates=2, critic={'kind': 'none'}, ppo={'enabled': False}, model={'init': str(folder / 'model')},
        data={'only_successful': True}, run={'out': str(tmp_path / 'longer')},
    )  # fmt: skip
    facts = train_offline(longer)
    model, before = BoraVLA.from_pretrained(tmp_path / 'longer'), BoraVLA.from_pretrained(folder / 'model')
    assert (model.normalizer.mean == before.normalizer.mean).all() and model.model_id != before.model_id
    assert not (tmp_path / 'longer' / 'critic').exists() and facts['gate_open_fraction'] is None
    with pytest.raises(ModelError, match='its expert is consistency, expected diffusion'):
        train_offline(dataclasses.replace(longer, model=dataclasses.replace(longer.model, expert='diffusion')))
    with pytest.raises(ModelError, match='horizon = 4, expected 3'):
        train_offline(dataclasses.replace(longer, model=dataclasses.replace(longer.model, horizon=3)))


def test_a_pixel_critic_is_trained_and_measured(finished, tmp_path):
    config = toy.run_config(finished[0], updates=7, critic={'kind': 'pixels'}, run={'out': str(tmp_path / 'decoupled')})
    facts = train_offline(config)
    assert facts['held_out']['press_button']['n_failure'] == 1
    assert not (tmp_path / 'decoupled' / 'critic').exists()


def test_rows_are_shared_out_evenly():
    assert [Replicas(rank, 2).rows(6) for rank in range(2)] == [slice(0, 3), slice(3, 6)]
    with pytest.raises(ConfigError, match='7 rows.*2 processes'):
        Replicas(0, 2).rows(7)


def test_a_device_of_cuda_is_this_process_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: chosen.append(device.index))  # takes no device without an index
    for name, rank in (('cuda', '0'), ('auto', '1'), ('cuda:3', '1')):
        monkeypatch.setenv('LOCAL_RANK', rank)
        pick_device(name)
    assert chosen == [0, 1, 3]
    assert pick_device('cpu') == torch.device('cpu')
