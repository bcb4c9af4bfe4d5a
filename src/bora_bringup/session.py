"""A client of the running graph: starts episodes, follows their events and the training, and ends with a reason when a node fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bora_common import topics
from bora_common.errors import BoraError
from bora_common.types import ArbiterState, EpisodeEvent, EpisodeState, InterventionEvent, Outcome, WeightsStatus

ERROR = b'\x02'  # diagnostic_msgs/DiagnosticStatus.ERROR
IDLE = 2  # TrainingStatus.STATE_IDLE


class SessionError(BoraError):
    """The graph did not do what was asked within its deadline, or a node failed."""


@dataclass
class EpisodeResult:
    """One episode as seen by the client."""

    id: str
    round: int
    evaluation: bool
    seed: int
    outcome: Outcome = Outcome.NONE
    reason: str = ''
    started_ns: int = 0
    ended_ns: int = 0
    takeovers: int = 0
    event: EpisodeEvent | None = None  # the newest
    updates: int = 0  # of the residual in use when it started

    @property
    def duration(self) -> float:
        """Length in s of ROS time."""
        return (self.ended_ns - self.started_ns) / 1e9

    def follow(self, event: EpisodeEvent) -> None:
        """Take over what an event of this episode says."""
        self.event = event
        self.seed, self.outcome, self.reason = event.seed, event.outcome, event.reason
        self.started_ns = event.started_ns
        if event.state in (EpisodeState.ENDED, EpisodeState.AMENDED):
            self.ended_ns = event.stamp_ns


@dataclass
class Follower:
    """What the graph's event topics have said so far. Pure."""

    episodes: dict[str, EpisodeResult] = field(default_factory=dict)
    states: dict[str, EpisodeState] = field(default_factory=dict)
    current: str = ''
    nodes: dict[str, tuple[bytes, str, dict[str, str]]] = field(default_factory=dict)  # full name: level, message, values
    training: Any = None
    accepted: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    update: int = 0
    proposals: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # episode: stamp in ns and steps of each base_chunk
    interventions: list[InterventionEvent] = field(default_factory=list)
    engaged_ns: list[int] = field(default_factory=list)  # stamps of the messages with which a device engaged
    _engaged: bool = False
    _answered: set[tuple[Any, bool]] = field(default_factory=set)  # weights by version, accepted or refused

    def on_episode(self, event: EpisodeEvent) -> None:
        result = self.episodes.setdefault(event.episode, EpisodeResult(event.episode, event.round, event.evaluation, event.seed))
        if event.state == EpisodeState.RESETTING:
            result.updates = self.update
        if event.state in (EpisodeState.RESETTING, EpisodeState.READY, EpisodeState.RUNNING):
            self.current = event.episode
        result.follow(event)
        self.states[event.episode] = event.state

    def on_intervention(self, event: InterventionEvent) -> None:
        self.interventions.append(event)
        if event.state == ArbiterState.BLEND_IN and self.states.get(self.current) == EpisodeState.RUNNING:
            self.episodes[self.current].takeovers += 1

    def on_human(self, stamp_ns: int, engaged: bool) -> None:
        if engaged and not self._engaged:
            self.engaged_ns.append(stamp_ns)
        self._engaged = engaged

    def on_weights_status(self, status: WeightsStatus) -> None:
        """Counted once a version: a restarted residual actor says again what it has, a restarted trainer asks again."""
        self.update = status.active.update
        if (status.version, status.accepted) in self._answered:
            return
        self._answered.add((status.version, status.accepted))
        self.accepted += status.accepted
        self.refused += not status.accepted
        if not status.accepted:
            self.refusals.append(status.reason)

    def over(self, episode: str) -> bool:
        return self.states.get(episode) in (EpisodeState.ENDED, EpisodeState.AMENDED)

    def failed(self) -> str | None:
        """The first reason that a node gives for having stopped its work."""
        return next((f'{name}: {message}' for name, (level, message, _) in self.nodes.items() if level == ERROR), None)

    def working(self, names: Iterable[str]) -> list[str]:
        """Those of the full names that have not said that they work."""
        return [n for n in names if n not in self.nodes or self.nodes[n][1] == 'not active']

    def forget(self, names: Iterable[str]) -> None:
        """What these nodes said before counts no more: their process was started again."""
        for name in names:
            self.nodes.pop(name, None)

    def idle(self, round: int) -> bool:
        """Whether the trainer has done what it planned for this round."""
        status = self.training
        return status is not None and status.round == round and status.state == IDLE and status.round_update > 0


class Session:
    """rclpy client around a Follower. Single-threaded: everything happens inside `pump`."""

    def __init__(self, namespace: str, watch: Callable[[], None]):
        """`watch` is called in every turn and raises when a process has ended."""
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        from bora_common.node import make_executor

        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.follower, self._watch = Follower(), watch
        self.node = rclpy.create_node('session', namespace=namespace, context=self._context, start_parameter_services=False)
        self._executor = make_executor(self._context)
        self._executor.add_node(self.node)
        self._subscribe()
        self._start, self._transitions = self._client(topics.START_EPISODE), self._client(topics.GET_TRANSITIONS)

    def _subscribe(self) -> None:
        from bora_common import codec
        from bora_common.node import interface, qos

        f = self.follower
        stamp = codec.stamp_to_ns

        def on_training(msg: Any) -> None:
            f.training = msg

        handlers = {
            topics.EPISODE: lambda m: f.on_episode(codec.decode_episode(m)),
            topics.INTERVENTION: lambda m: f.on_intervention(codec.decode_intervention(m)),
            topics.HUMAN_COMMAND: lambda m: f.on_human(stamp(m.header.stamp), m.engaged),
            topics.BASE_CHUNK: lambda m: f.proposals.setdefault(m.episode, []).append((stamp(m.header.stamp), m.steps)),
            topics.TRAINING: on_training,
            topics.WEIGHTS_STATUS: lambda m: f.on_weights_status(codec.decode_weights_status(m)),
            topics.DIAGNOSTICS: self._on_diagnostics,
        }
        for spec, handler in handlers.items():
            self.node.create_subscription(interface(spec.type), spec.name, handler, qos(spec))

    def _client(self, spec: topics.ServiceSpec) -> Any:
        from bora_common.node import interface

        return self.node.create_client(interface(spec.type), spec.name)

    def _on_diagnostics(self, msg: Any) -> None:
        for status in msg.status:
            self.follower.nodes[status.name] = (bytes(status.level), status.message, {v.key: v.value for v in status.values})

    def pump(self, seconds: float = 0.1) -> None:
        """Take what has come. Raises when a process has ended or a node reports a failure."""
        self._executor.spin_once(timeout_sec=seconds)
        self._watch()
        failure = self.follower.failed()
        if failure:
            raise SessionError(failure)

    def until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Pump until `done`, at most `timeout` s of wall time; whether it is."""
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                return False
            self.pump()
        return True

    def wait(self, done: Callable[[], bool], timeout: float, what: Callable[[], str]) -> None:
        """As `until`, but raises SessionError saying what was waited for."""
        if not self.until(done, timeout):
            raise SessionError(f'waited {timeout:g} s for {what()}')

    def wait_until_working(self, names: Iterable[str], timeout: float) -> None:
        """Wait until every node has said on /diagnostics that it works."""
        names = list(names)
        self.wait(lambda: not self.follower.working(names), timeout, lambda: f'nodes to work: {", ".join(self.follower.working(names))}')
        self.wait(self._start.service_is_ready, timeout, lambda: 'the service start_episode')

    def run_episode(self, round: int, evaluation: bool, seed: int, timeout: float, task: str = '') -> EpisodeResult:
        """Start an episode and wait for its end; an empty task is the graph's own."""
        from bora_common.node import interface

        request = interface(topics.START_EPISODE.type).Request(task=task, round=round, evaluation=evaluation, seed=seed)
        future = self._start.call_async(request)
        self.wait(future.done, 10.0, lambda: 'an answer of start_episode')
        answer = future.result()
        if not answer.success:
            raise SessionError(f'start_episode was refused: {answer.message}')
        name = answer.episode
        self.wait(lambda: self.follower.over(name), timeout, lambda: f'the end of episode {name} ({self._state(name)})')
        return self.follower.episodes[name]

    def logged(self, timeout: float = 5.0) -> int | None:
        """Transitions in the log, as the replay node says; None when it does not answer within `timeout` s."""
        from bora_common.node import interface

        if not self._transitions.service_is_ready():
            return None
        future = self._transitions.call_async(interface(topics.GET_TRANSITIONS.type).Request(from_seq=2**63))
        deadline = time.monotonic() + timeout
        while not future.done() and time.monotonic() < deadline:
            self.pump()
        if not future.done():
            self._transitions.remove_pending_request(future)
            return None
        return int(future.result().end_seq)

    def _state(self, episode: str) -> str:
        state = self.follower.states.get(episode)
        return state.name.lower() if state is not None else 'never seen'

    def close(self) -> None:
        """Destroy the node; safe to call twice."""
        if self._context.ok():
            self._executor.shutdown()
            self.node.destroy_node()
            self._context.try_shutdown()
