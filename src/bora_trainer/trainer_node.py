"""Node `trainer`: learns the residual from executed transitions, replay -> weights."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from bora_common import codec, topics
from bora_common.node import BoraNode, interface, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import EpisodeState, WeightsPackage
from bora_msgs.msg import TrainingStatus
from bora_trainer.actor_update import RECIPES, recipe
from bora_trainer.critic_update import TARGETS, CriticConfig
from bora_trainer.online import OnlineConfig
from bora_trainer.session import Session, assemble

PAGE = 64  # transitions asked for at once
FETCH_PATIENCE = 10.0  # s until an unanswered request is given up
WORK_PERIOD, SLICE = 0.02, 0.1  # s: callbacks are served after every slice of updates
CONFIRM = 3.0  # s after a resume until unconfirmed weights are sent again
_DEFAULT = OnlineConfig()


class TrainerNode(BoraNode):
    """Thin shell over `Session`: topics in, packages out, gaps of the stream fetched from the log."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot description, a file or its name within config/robots/'),
        Parameter('model', 'press_button', 'base model, a directory or its name within models/'),
        Parameter('critic', '', 'directory of the inherited critic; <model>/critic when empty'),
        Parameter('offline', '', 'offline transitions; <model>/offline.safetensors when empty, none without them'),
        Parameter('run_dir', 'runs/trainer', 'folder of checkpoint and metrics'),
        Parameter('run', '', 'name of the run in weight versions; the name of the folder around run_dir when empty'),
        Parameter('seed', 0, 'of sampling and initial weights', low=0, high=2**31 - 1),
        Parameter('device', 'cpu', 'torch device'),
        Parameter('threads', 1, 'threads of torch; 0 leaves them as they are', low=0, high=64),
        Parameter('recipe', 'weighted', 'loss of the residual actor', choices=tuple(RECIPES)),
        Parameter('targets', _DEFAULT.critic.targets, 'targets of the critic', choices=TARGETS),
        Parameter('planned_updates', _DEFAULT.planned_updates, 'updates in a round', low=1, high=1_000_000),
        Parameter('updates_per_transition', _DEFAULT.updates_per_transition, 'updates that a transition pays for', low=0.0, high=100.0),
        Parameter('episodes_per_round', _DEFAULT.episodes_per_round, 'episodes that complete a round; 0: unknown', low=0, high=10_000),
        Parameter('start_episodes', _DEFAULT.start_episodes, 'episodes before the first update', low=1, high=1000),
        Parameter('settle_time', 5.0, 'time without an episode after which a round counts as complete', 's', 0.5, 3600.0),
        Parameter('batch_size', _DEFAULT.batch_size, 'transitions in an update, half of them offline', low=2, high=4096),
        Parameter('capacity', _DEFAULT.capacity, 'transitions in the online buffer', low=100, high=10_000_000),
        Parameter('actor_rate', _DEFAULT.actor_rate, "the actor's learning rate", low=1e-7, high=1e-1),
        Parameter('critic_rate', _DEFAULT.critic.learning_rate, "the critic's learning rate", low=1e-7, high=1e-1),
        Parameter('publish_every', 50, 'updates between publications', low=1, high=100_000),
        Parameter('tensorboard', False, 'write TensorBoard files beside metrics.jsonl'),
    )  # fmt: skip

    def __init__(self, name: str = 'trainer', **kwargs: Any):
        super().__init__(name, **kwargs)

    def setup(self) -> None:
        p = self.params
        if p.threads:
            torch.set_num_threads(p.threads)
        robot = load_robot(resolve(p.robot_config, 'config/robots'))
        self._layout = robot.layout
        model = resolve(p.model, 'models')
        folder = Path(p.run_dir).expanduser().resolve()
        learner = assemble(
            model, Path(p.critic) if p.critic else model / 'critic', self._offline_file(model), robot, self._config(),
            p.run or folder.parent.name, p.device,
        )  # fmt: skip
        self.session = Session(learner, folder, p.publish_every, p.tensorboard)
        self._end = 0  # one past the newest transition known to be in the log
        self._fetch: Any = None
        self._fetch_started = 0.0
        self._running, self._last_episode = False, math.inf
        self._unconfirmed_since = time.monotonic() if self.session.resumed and learner.counters.published else math.inf
        self._state: Any = None
        self._weights, self._training = self.advertise(topics.WEIGHTS), self.advertise(topics.TRAINING)
        self._client = self.client(topics.GET_TRANSITIONS)
        self.subscribe(topics.REPLAY, self._on_transition)
        self.subscribe(topics.EPISODE, self._on_episode)
        self.subscribe(topics.WEIGHTS_STATUS, self._on_weights_status)
        self.timer(WORK_PERIOD, self._work, steady=True)
        self.timer(1.0, self._each_second, steady=True)

    def _offline_file(self, model: Path) -> Path | None:
        if self.params.offline == 'none':
            return None
        return Path(self.params.offline) if self.params.offline else model / 'offline.safetensors'

    def _config(self) -> OnlineConfig:
        p = self.params
        return OnlineConfig(
            planned_updates=p.planned_updates, updates_per_transition=p.updates_per_transition, episodes_per_round=p.episodes_per_round,
            start_episodes=p.start_episodes, batch_size=p.batch_size, capacity=p.capacity, seed=p.seed, actor_rate=p.actor_rate,
            recipe=recipe(p.recipe), critic=CriticConfig(targets=p.targets, learning_rate=p.critic_rate),
        )  # fmt: skip

    def stop(self) -> None:
        if self.failure is None:
            self.session.close()

    # --- transitions ----------------------------------------------------------------------------------------------------------------

    def _on_transition(self, msg: Any) -> None:
        transition = codec.decode_transition(msg, self._layout)
        gap = transition.seq > self._end
        self.session.learner.add(transition)
        self._end = max(self._end, transition.seq + 1)
        if gap:
            self._sync()

    def _sync(self) -> None:
        """Ask the log for what the stream did not bring: after a start, a lost message, a restart of either side."""
        now = time.monotonic()
        if self._fetch is not None:
            if now - self._fetch_started < FETCH_PATIENCE:
                return
            self._client.remove_pending_request(self._fetch)
            self._fetch = None
        if not self._client.service_is_ready():
            return
        missing = self.session.learner.online.missing(self._end)
        request = interface(topics.GET_TRANSITIONS.type).Request(from_seq=missing[0] if missing else self._end, max_count=PAGE)
        self._fetch, self._fetch_started = self._client.call_async(request), now
        self._fetch.add_done_callback(self.guard(self._on_page, topics.GET_TRANSITIONS.name))

    def _on_page(self, future: Any) -> None:
        if future is not self._fetch:
            return
        self._fetch, page = None, future.result()
        before = self.session.learner.online.distinct
        for msg in page.transitions:
            self._on_transition(msg)
        self._end = max(self._end, page.end_seq)
        if self.session.learner.online.distinct > before:
            self._sync()

    # --- rounds and weights ---------------------------------------------------------------------------------------------------------

    def _on_episode(self, msg: Any) -> None:
        event = codec.decode_episode(msg)
        over = event.state in (EpisodeState.ENDED, EpisodeState.AMENDED)
        self.session.paused = event.evaluation and not over
        if event.evaluation:
            return
        self._running, self._last_episode = not over, time.monotonic()
        if not over:
            self._send(self.session.begin_round(event.round, self.now_ns()))

    def _on_weights_status(self, msg: Any) -> None:
        status = codec.decode_weights_status(msg)
        if status.active == self.session.learner.version:
            self._unconfirmed_since = math.inf
        self.session.answer(status.version, status.accepted or status.active == status.version, status.reason)
        self._report()

    def _send(self, weights: WeightsPackage | None) -> None:
        if weights is not None:
            self._weights.publish(codec.encode_weights(weights))
            self._report()

    # --- work -----------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._send(self.session.work(SLICE, time.monotonic, self.now_ns()))
        if self.session.state is not self._state:
            self._report()

    def _each_second(self) -> None:
        now, learner = time.monotonic(), self.session.learner
        self._sync()
        if not self._running and now - self._last_episode > self.params.settle_time and learner.episodes(learner.counters.round):
            learner.finish_round()
        if now - self._unconfirmed_since > CONFIRM:  # stopped between checkpoint and publication
            self._unconfirmed_since = math.inf
            self._weights.publish(codec.encode_weights(learner.package(self.now_ns())))
        self._report()

    def _report(self) -> None:
        learner, counters = self.session.learner, self.session.learner.counters
        self._state = self.session.state
        msg = TrainingStatus(
            id=codec.encode_id(self.next_id('training')), state=int(self._state), run=learner.run, round=counters.round,
            update=counters.update, planned_updates=learner.config.planned_updates, round_update=counters.round_update,
            transitions=learner.online.distinct, last_seq=max(self._end - 1, 0), alpha=learner.alpha, published=counters.published,
            accepted=counters.accepted, refused=counters.refused, updates_per_second=self.session.updates_per_second,
            metric_names=list(learner.info), metric_values=[float(v) for v in learner.info.values()],
        )  # fmt: skip
        msg.header.stamp = self.get_clock().now().to_msg()
        self._training.publish(msg)

    def diagnostic_values(self) -> dict[str, object]:
        counters = self.session.learner.counters
        return {'state': self.session.state.name, 'withheld': counters.withheld, 'trouble': self.session.trouble, **vars(counters)}


main = main_of(TrainerNode)

if __name__ == '__main__':
    main()
