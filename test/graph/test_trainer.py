"""The trainer and the critic as processes, beside a log and a residual actor that this test plays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bora_common import topics
from bora_common.codec import (
    decode_scored,
    decode_weights,
    encode_chunk,
    encode_episode,
    encode_proposal,
    encode_transition,
    encode_weights_status,
)
from bora_common.node import interface
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import (
    ActionChunk,
    EpisodeEvent,
    EpisodeState,
    Proposal,
    StreamId,
    Transition,
    WeightsStatus,
    WeightsVersion,
)
from bora_critic.critic import Critic, CriticSpec, save_critic
from bora_policy.manifest import ModelFacts, write_manifest
from bora_policy.packing import unpack_chain

pytestmark = pytest.mark.timeout(120)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
JOINTS, TOKENS = ROBOT.layout.names, ('camera_front', 'cognition')
K, D, T, W, DT = 8, 19, 2, 8, 1 / 15
IDLE = 2


@pytest.fixture
def model(tmp_path):
    """(model directory with a critic, model id)"""
    folder = tmp_path / 'model'
    folder.mkdir()
    model_id = write_manifest(folder, ModelFacts(JOINTS, ('left', 'front', 'right'), TOKENS, W, 64, K, 4, DT), ())
    torch.manual_seed(0)
    save_critic(Critic(CriticSpec(model_id, JOINTS, TOKENS, W, K, DT, (0.0,) * D, (0.2,) * D, hidden=16)), folder / 'critic')
    return folder, model_id


def transition(seq: int, model_id: str, round_number: int = 1) -> Transition:
    """One-chunk episode in which a person moved every joint by 0.03 rad."""
    rng = np.random.default_rng(seq)
    vla, done = rng.normal(0, 0.1, (K, D)), np.arange(K) == K - 1
    return Transition(
        seq=seq, stamp_ns=10**9 * (seq + 1), episode=f'e{seq}', round=round_number, task='press_button', robot=ROBOT.name,
        tokens=rng.normal(size=(T, W)).astype(np.float32), token_names=TOKENS, proprio=vla[0], vla=vla, executed=vla + 0.03,
        reward=done.astype(np.float32), done=done, mask=np.ones(K, bool), human=np.ones(K, bool), beta=np.ones(K, np.float32),
        truncated=False, first=0, next_tokens=np.zeros((T, W), np.float32), next_proprio=vla[-1], success=True, dt=DT, model_id=model_id,
    )  # fmt: skip


class Surroundings:
    """The log, the episode keeper and the residual actor around a trainer process."""

    def __init__(self, graph, model, run_dir):
        self.graph, (self.folder, self.model_id), self.run_dir = graph, model, run_dir
        self.log: list[Transition] = []
        self.weights, self.pages = [], 0
        self.refuse: set[tuple[int, int]] = set()  # (round, update) whose weights are refused
        self.episode, self.replay = graph.publisher(topics.EPISODE), graph.publisher(topics.REPLAY)
        self.answers = graph.publisher(topics.WEIGHTS_STATUS)
        self.training = graph.record(topics.TRAINING)
        graph.on(topics.WEIGHTS, self._on_weights)
        graph.node.create_service(interface(topics.GET_TRANSITIONS.type), topics.GET_TRANSITIONS.name, self._page)

    def start(self, **parameters):
        values = {'model': str(self.folder), 'offline': 'none', 'run_dir': str(self.run_dir), 'batch_size': 16, 'planned_updates': 40}
        values |= {'publish_every': 20, 'episodes_per_round': 12, 'updates_per_transition': 0.0, 'start_episodes': 1, **parameters}
        process = self.graph.start('trainer', parameters={'trainer': values})
        self.graph.wait_matched(self.replay)
        return process

    def _page(self, request, response):
        self.pages += 1
        page = self.log[request.from_seq : request.from_seq + request.max_count]
        response.transitions = [encode_transition(t, ROBOT.layout) for t in page]
        response.next_seq, response.end_seq = request.from_seq + len(page), len(self.log)
        return response

    def _on_weights(self, message):
        weights = decode_weights(message)
        self.weights.append(weights)
        accepted = (weights.version.round, weights.version.update) not in self.refuse
        active = weights.version if accepted else WeightsVersion()
        self.answers.publish(
            encode_weights_status(WeightsStatus(1, weights.version, accepted, 'because', active, StreamId(9, len(self.weights))))
        )

    def add(self, count: int, send=lambda seq: True) -> None:
        for seq in range(len(self.log), len(self.log) + count):
            self.log.append(transition(seq, self.model_id))
            if send(seq):
                self.replay.publish(encode_transition(self.log[-1], ROBOT.layout))

    def event(self, number: int, state: EpisodeState, evaluation: bool = False) -> None:
        event = EpisodeEvent(1, 'e', 'press_button', 'press', ROBOT.name, number, evaluation, 0, state)
        self.episode.publish(encode_episode(event))

    def wait_status(self, condition, what):
        return self.graph.wait(lambda: next((m for m in reversed(self.training) if condition(m)), None), what, 40.0)


def test_rounds_gaps_refusals_and_a_kill(graph, model, tmp_path):
    around = Surroundings(graph, model, tmp_path / 'run' / 'trainer')
    around.refuse = {(1, 40)}
    process = around.start()
    around.event(1, EpisodeState.RUNNING)
    around.add(12, send=lambda seq: seq % 3)  # a third of the stream is lost, and fetched from the log
    status = around.wait_status(lambda m: m.state == IDLE and m.refused == 1, 'the first round')
    assert (status.run, status.round, status.round_update, status.transitions, status.last_seq) == ('run', 1, 40, 12, 11)
    assert (status.published, status.accepted) == (2, 1)
    assert [w.version.update for w in around.weights] == [20, 40]
    chain, _ = unpack_chain(around.weights[0].data, digest=around.weights[0].sha256, model_id=around.model_id)
    t = around.log[0]
    assert np.abs(chain.apply(t.vla, t.tokens, t.proprio)[1] - t.vla).max() > 1e-4

    process.kill()
    around.training.clear()
    around.start()
    status = around.wait_status(lambda m: m.transitions == 12, 'all transitions fetched again')
    assert (status.run, status.round, status.update, status.published, status.refused) == ('run', 1, 40, 2, 1)

    around.event(2, EpisodeState.RUNNING)
    graph.wait(lambda: around.weights[-1].version.round == 2, 'the frozen chain')
    around.log += [transition(seq, around.model_id, 2) for seq in range(12, 24)]  # none of it is sent
    status = around.wait_status(lambda m: m.round == 2 and m.state == IDLE and m.accepted == 4, 'the second round')
    assert (status.update, status.transitions) == (80, 24)
    frozen, _ = unpack_chain(around.weights[-1].data)
    assert len(frozen.frozen) == 1


def test_evaluation_pauses_and_a_quiet_round_ends(graph, model, tmp_path):
    around = Surroundings(graph, model, tmp_path / 'run' / 'trainer')
    around.start(settle_time=1.0)
    around.event(1, EpisodeState.RUNNING, evaluation=True)
    around.wait_status(lambda m: m.state == IDLE and m.update == 0, 'the pause')
    around.event(1, EpisodeState.ENDED, evaluation=True)
    around.event(1, EpisodeState.RUNNING)
    around.add(3)
    around.wait_status(lambda m: m.round == 1 and m.transitions == 3 and m.state == 0, 'data')
    around.event(1, EpisodeState.ENDED)
    around.wait_status(lambda m: m.state == IDLE and m.round_update == 40, 'the rest of the plan')


def test_a_foreign_checkpoint_stops_the_start_with_a_reason(graph, model, tmp_path):
    around = Surroundings(graph, model, tmp_path / 'run' / 'trainer')
    process = around.start()
    assert process.stop() == 0  # writes its checkpoint
    process = graph.start(
        'trainer',
        parameters={'trainer': {'model': str(around.folder), 'offline': 'none', 'run_dir': str(around.run_dir), 'recipe': 'literal'}},
    )
    assert process.wait() == 1
    assert 'recipe' in process.output


def test_the_critic_scores_chunks(graph, model):
    folder, model_id = model
    graph.start('critic', parameters={'critic': {'critic': str(folder / 'critic')}})
    base_chunk, chunk, values = graph.publisher(topics.BASE_CHUNK), graph.publisher(topics.CHUNK), graph.record(topics.VALUE)
    positions = np.zeros((K, D))
    proposal = Proposal(5, positions, DT, np.ones((T, W), np.float32), TOKENS, np.zeros(D), model_id, id=StreamId(3, 1))
    final = ActionChunk(5, 6, positions, positions, DT, 0.0, WeightsVersion(), model_id, base_id=StreamId(3, 1), id=StreamId(4, 1))
    chunk.publish(encode_chunk(final, ROBOT.layout))  # in either order
    base_chunk.publish(encode_proposal(proposal, ROBOT.layout))
    graph.wait(lambda: values, 'a score')
    scored = decode_scored(values[0])
    assert scored.chunk_id == StreamId(4, 1) and scored.q.shape == (K,) and 0 <= scored.risk <= 1
