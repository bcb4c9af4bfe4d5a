"""A training session: what is published when, and what a kill leaves behind."""

import dataclasses
import json

import learner_toy as toy
import numpy as np
import pytest
import torch

from bora_common.errors import ConfigError, ModelError
from bora_common.robot import load_robot
from bora_common.types import Normalizer
from bora_critic.critic import Critic, CriticSpec, save_critic
from bora_policy.manifest import ModelFacts, write_manifest
from bora_policy.packing import unpack_chain
from bora_replay.buffer import TransitionBuffer
from bora_trainer.online import OnlineConfig, OnlineLearner, State
from bora_trainer.session import METRICS, Session, assemble

CONFIG = OnlineConfig(planned_updates=25, batch_size=16, start_episodes=1, updates_per_transition=5.0, episodes_per_round=0)


def session(folder, data=20, publish_every=10, **changes):
    torch.manual_seed(0)
    learner = OnlineLearner(toy.chain(), toy.critic(), None, dataclasses.replace(CONFIG, **changes), 'run')
    rng = np.random.default_rng(1)
    for i in range(data):
        learner.add(toy.bandit(i, rng, human=i % 2 == 0))
    return Session(learner, folder, publish_every)


def drain(one):
    """Work until idle, with a clock that stands still; the packages."""
    packages = []
    while one.state is State.TRAINING:
        package = one.work(1.0, lambda: 0.0, 7)
        packages += [package] if package else []
    return packages


def test_publications_come_every_so_many_updates_and_at_the_end(tmp_path):
    one = session(tmp_path)
    packages = drain(one)
    assert [p.version.update for p in packages] == [10, 20, 25]
    assert one.learner.counters.published == 3
    assert one.state is State.IDLE
    assert one.work(1.0, lambda: 0.0, 7) is None


def test_the_checkpoint_is_on_disk_before_the_package_is_out(tmp_path):
    one = session(tmp_path)
    package = one.work(1.0, lambda: 0.0, 7)
    killed = session(tmp_path)
    assert killed.resumed
    assert killed.learner.version == package.version
    again = killed.learner.package(7)
    assert again.data == package.data


def test_a_slice_ends_with_its_budget(tmp_path):
    ticks = iter(range(100))
    one = session(tmp_path, publish_every=1000)
    assert one.work(3.5, lambda: float(next(ticks)), 0) is None
    assert one.learner.counters.update == 3
    assert one.updates_per_second > 0


def test_a_pause_stops_updates(tmp_path):
    one = session(tmp_path)
    one.paused = True
    assert one.state is State.IDLE
    assert one.work(1.0, lambda: 0.0, 0) is None
    assert one.learner.counters.update == 0


def test_broken_weights_are_withheld_and_training_goes_on(tmp_path):
    one = session(tmp_path)
    first = one.work(1.0, lambda: 0.0, 0)
    one.answer(first.version, True, '')
    with torch.no_grad():
        one.learner.chain.current.net[0].bias.fill_(float('nan'))
    assert one.work(1.0, lambda: 0.0, 0) is None
    assert 'withheld' in one.trouble
    packages = drain(one)
    assert packages[-1].version.update == 25
    chain, _ = unpack_chain(packages[-1].data)
    assert all(bool(torch.isfinite(p).all()) for p in chain.parameters())
    assert one.learner.counters.withheld == 1


def test_answers_of_the_residual_actor(tmp_path):
    one = session(tmp_path)
    first = one.work(1.0, lambda: 0.0, 0)
    one.answer(first.version, True, '')
    second = one.work(1.0, lambda: 0.0, 0)
    one.answer(second.version, False, 'jump')
    one.answer(second.version, False, 'jump')
    counters = one.learner.counters
    assert (counters.accepted, counters.refused) == (1, 1)
    assert 'jump' in one.trouble
    assert session(tmp_path).learner.counters.refused == 1


def test_a_new_round_publishes_the_frozen_chain_at_once(tmp_path):
    one = session(tmp_path)
    last = drain(one)[-1]
    package = one.begin_round(1, 9)
    assert package.version.round == 1
    assert one.begin_round(1, 9) is None
    t = toy.bandit(0, np.random.default_rng(3), True)
    chains = [unpack_chain(p.data)[0] for p in (last, package)]
    outputs = [c.apply(t.vla, t.tokens, t.proprio)[1] for c in chains]
    assert np.allclose(*outputs, atol=1e-9)


def test_metrics_are_json_lines(tmp_path):
    drain(session(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line['update'] for line in lines] == [10, 20]
    assert all(np.isfinite(line['critic_loss']) and line['transitions'] == 20 for line in lines)


# --- from files -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A model's manifest, a critic and an offline store for the real robot's joints."""
    robot = load_robot(toy.CONFIG / 'robots/fr3_hand12.yaml')
    joints, tokens = robot.layout.names, ('camera_left', 'cognition')
    model = tmp_path / 'model'
    model.mkdir()
    facts = ModelFacts(joints, ('left', 'front', 'right'), tokens, 4, 64, 8, 4, 1 / 15)
    model_id = write_manifest(model, facts, ())
    normalizer = Normalizer(np.zeros(19), np.full(19, 0.2))
    spec = CriticSpec(model_id, joints, tokens, 4, 8, 1 / 15, tuple(normalizer.mean.tolist()), tuple(normalizer.std.tolist()), hidden=16)
    save_critic(Critic(spec), model / 'critic')
    store = TransitionBuffer(4, 8, 19, 2, 4, dt=1 / 15, joint_names=joints, token_names=tokens, model_id=model_id)
    wide = np.zeros((8, 19))
    flat = np.zeros(8, np.float32)
    done = np.arange(8) == 7
    store.insert(
        toy.transition(
            0,
            tokens=np.zeros((2, 4), np.float32),
            token_names=tokens,
            proprio=np.zeros(19),
            vla=wide,
            executed=wide,
            reward=flat,
            done=done,
            mask=np.ones(8, bool),
            human=np.zeros(8, bool),
            beta=flat,
            next_tokens=np.zeros((2, 4), np.float32),
            next_proprio=np.zeros(19),
            model_id=model_id,
        )  # fmt: skip
    )
    store.save(model / 'offline.safetensors')
    return robot, model, spec


def test_a_learner_is_put_together_from_files(files):
    robot, model, _ = files
    learner = assemble(model, model / 'critic', model / 'offline.safetensors', robot, CONFIG, 'run', 'cpu')
    assert np.allclose(learner.chain.bound, robot.residual_bound)
    assert assemble(model, model / 'critic', None, robot, CONFIG, 'run', 'cpu').draw is not None


def test_files_that_do_not_belong_together_are_refused_by_name(files):
    robot, model, spec = files
    save_critic(Critic(dataclasses.replace(spec, model_id='other')), model / 'foreign')
    with pytest.raises(ModelError, match='model_id'):
        assemble(model, model / 'foreign', None, robot, CONFIG, 'run', 'cpu')
    save_critic(Critic(dataclasses.replace(spec, dt=0.1)), model / 'slow')
    with pytest.raises(ModelError, match='dt'):
        assemble(model, model / 'slow', None, robot, CONFIG, 'run', 'cpu')
    store = TransitionBuffer.load(model / 'offline.safetensors')
    store.model_id = 'other'
    store.save(model / 'foreign.safetensors')
    with pytest.raises(ConfigError, match='model_id'):
        assemble(model, model / 'critic', model / 'foreign.safetensors', robot, CONFIG, 'run', 'cpu')
    with pytest.raises(ModelError, match='does not exist'):
        assemble(model / 'nowhere', model / 'critic', None, robot, CONFIG, 'run', 'cpu')
