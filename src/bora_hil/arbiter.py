"""Decides, tick by tick, who moves the robot. One table, one call that decides and commands; time is an argument.

Inputs are only noted when they arrive; `tick` takes them up in a fixed order (robot, episode, human, policy), walks the table and
returns the command that follows from the state it ends in. So a takeover noted before a tick is in force at that tick, and no policy
command can be decided before it and sent after it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from bora_common.robot import RobotSpec, TaskSpec
from bora_common.types import (
    ActionChunk,
    ArbiterState,
    EpisodeEvent,
    EpisodeState,
    HumanInput,
    InterventionEvent,
    JointCommand,
    Mode,
    RobotMode,
    Source,
    StreamId,
)
from bora_hil.chunk_player import FADE_STEPS, ChunkPlayer
from bora_hil.human import HumanTargets
from bora_hil.reset import ResetTrajectory
from bora_hil.table import TABLE, Event

S = ArbiterState
SOURCES = {
    S.RESET: Source.RESET,
    S.HOLD: Source.HOLD,
    S.AUTONOMOUS: Source.POLICY,
    S.BLEND_IN: Source.HUMAN,
    S.HUMAN: Source.HUMAN,
    S.BLEND_OUT: Source.POLICY,
    S.FAULT: Source.HOLD,
}


@dataclass(frozen=True)
class ArbiterSettings:
    """Tuning of the arbiter; times in s."""

    period: float = 0.01  # of the control tick
    horizon: int = 16  # steps played before a newer chunk is adopted
    blend_time: float = 0.2  # of the human's share between 0 and 1
    device_timeout: float = 0.15  # silence of the engaged device, steady clock
    chunk_max_age: float = 1.0  # of a chunk's observation when the chunk is adopted
    human_smoothing: float = 0.02  # a device's targets are reached over this time: its messages are rarer than the ticks
    reset_speed: float = 0.3  # fraction of the velocity and acceleration limits
    reset_settle: float = 0.3  # at the start pose before it counts as reached
    event_max_age: float = 1.0  # an older start or resume is history and sets nothing in motion


@dataclass(frozen=True)
class Decision:
    """Outcome of one tick: the command (none before the robot's joints were seen) and the transitions made."""

    command: JointCommand | None
    events: tuple[InterventionEvent, ...] = ()


class Arbiter:
    """The arbiter of one robot; see the module's text for the order of things."""

    def __init__(self, robot: RobotSpec, task: TaskSpec, settings: ArbiterSettings = ArbiterSettings()):
        self.robot = robot
        self.task = task
        self.settings = settings
        self._period_ns = round(settings.period * 1e9)
        self.state = S.HOLD
        self.epoch = 0
        self.sent: np.ndarray | None = None  # [D] rad, last command
        self.dropped: Counter[str] = Counter()  # chunks, by reason
        self._events: list[InterventionEvent] = []
        self._measured: np.ndarray | None = None
        self._robot_held = False  # by a person
        self._modes: list[RobotMode] = []
        self._episode: EpisodeEvent | None = None
        self._episode_news = False
        self._human = HumanTargets(settings.device_timeout, settings.human_smoothing)
        self._chunk: ActionChunk | None = None  # newest, not adopted yet
        self._player: ChunkPlayer | None = None
        self._trajectory: ResetTrajectory | None = None
        self._arrived = False  # at the start pose of the present reset
        self._frozen: np.ndarray | None = None  # command at takeover or release
        self._blend_ns = 0  # start of the ramp of the human's share
        self._tick_ns: int | None = None

    # --- inputs: noted, taken up at the next tick -----------------------------------------------------------------------------

    def on_joints(self, positions: np.ndarray) -> None:
        """Measured joint positions [D] rad."""
        self._measured = np.asarray(positions, dtype=np.float64)

    def on_robot(self, mode: RobotMode) -> None:
        """Mode of the hardware node."""
        self._modes.append(mode)

    def on_episode(self, event: EpisodeEvent) -> None:
        """Event of the episode keeper; only the newest counts."""
        if event.state == EpisodeState.AMENDED:
            return
        self._episode, self._episode_news = event, True

    def on_human(self, human: HumanInput, steady_ns: int) -> None:
        """A person's targets, heard at `steady_ns` of the steady clock."""
        self._human.take(human, steady_ns)

    def on_chunk(self, chunk: ActionChunk) -> None:
        """A corrected chunk; the newest of this epoch replaces one that was not adopted."""
        if chunk.epoch != self.epoch:
            self.dropped['of another epoch'] += 1
        elif self._chunk is None or chunk.stamp_ns >= self._chunk.stamp_ns:
            self._chunk = chunk

    # --- the tick ---------------------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int, steady_ns: int) -> Decision:
        """Take up what was noted, walk the table, command. `now_ns`: ROS time; `steady_ns`: steady clock, for the device's silence."""
        if self._measured is None:
            return Decision(None)
        self._events = []
        if self.sent is None:
            self.sent = self._clip(self._measured)
            self._events.append(InterventionEvent(now_ns, self.state, self.state, 0.0, self.epoch, 'arbiter started'))
        self._take_robot(now_ns)
        self._take_episode(now_ns)
        self._take_human(now_ns, steady_ns)
        self._take_chunk(now_ns)
        self._finish(now_ns)
        command = self._command(now_ns)
        self.sent, self._tick_ns = command.positions, now_ns
        return Decision(command, tuple(self._events))

    @property
    def beta(self) -> float:
        """The human's share at the last tick."""
        return self._beta(self._tick_ns) if self._tick_ns is not None else 0.0

    @property
    def playing(self) -> bool:
        """True while a chunk with steps left is played."""
        return self._player is not None and not self._player.exhausted(self._tick_ns)

    @property
    def running(self) -> bool:
        """True while an episode runs."""
        return self._episode is not None and self._episode.state == EpisodeState.RUNNING

    def _apply(self, event: Event, now_ns: int, reason: str = '', device: str = '') -> bool:
        """Walk the table once; False where the event is ignored in this state."""
        rule = TABLE.get((self.state, event))
        if rule is None:
            return False
        previous, self.state = self.state, rule.state
        if rule.new_epoch:
            self.epoch += 1
            self._player = self._chunk = None
        self._enter(event, now_ns)
        stamp_ns = max(now_ns, self._episode.stamp_ns) if event == Event.START and self._episode else now_ns
        self._events.append(
            InterventionEvent(stamp_ns, self.state, previous, self._beta(now_ns), self.epoch, reason or event.value, device)
        )
        return True

    def _enter(self, event: Event, now_ns: int) -> None:
        """What a state starts from: always the last sent command, except after a fault."""
        if event in (Event.TAKEOVER, Event.RELEASE):
            self._frozen = self.sent
            self._blend_ns = now_ns - self._period_ns if event == Event.TAKEOVER else now_ns
        if self.state not in (S.BLEND_IN, S.HUMAN):
            self._human.end()
        if event == Event.RESET:
            self._trajectory = ResetTrajectory(
                now_ns, self.sent, self.task.start_pose, self.robot.velocity, self.robot.acceleration, self.settings.reset_speed
            )
        if event == Event.CLEARED:
            self.sent = self._clip(self._measured)

    # --- what was noted -----------------------------------------------------------------------------------------------------------

    def _take_robot(self, now_ns: int) -> None:
        for mode in self._modes:
            was_held, self._robot_held = self._robot_held, mode.held_by_person
            if mode.mode == Mode.FAULT:
                self._apply(Event.FAULT, now_ns, f'robot fault: {mode.reason}')
                continue
            self._apply(Event.CLEARED, now_ns)
            if self._robot_held:
                self._apply(Event.ROBOT_HOLD, now_ns, f'robot held: {mode.reason}')
            elif was_held and self._resetting and not self._arrived:
                self._apply(Event.RESET, now_ns)
            elif mode.resumed and self.running and self._fresh(mode.stamp_ns, now_ns):
                self._apply(Event.RESUME, now_ns)
        self._modes.clear()

    def _take_episode(self, now_ns: int) -> None:
        if not self._episode_news:
            return
        self._episode_news = False
        event = self._episode
        if event.state == EpisodeState.RESETTING:
            self._arrived = False
            if not self._robot_held:
                self._apply(Event.RESET, now_ns)
        elif event.state == EpisodeState.RUNNING:
            if not self._robot_held and self._fresh(event.stamp_ns, now_ns):
                self._apply(Event.START, now_ns)
        elif event.state == EpisodeState.ENDED:
            self._apply(Event.END, now_ns, f'episode ended: {event.outcome.name.lower()}')

    def _fresh(self, stamp_ns: int, now_ns: int) -> bool:
        """False for what a late joiner hears of the past: it must not set the robot in motion."""
        return (now_ns - stamp_ns) * 1e-9 <= self.settings.event_max_age

    def _take_human(self, now_ns: int, steady_ns: int) -> None:
        news = self._human.news(steady_ns)
        if news is None:
            if self._human.device is not None and self._human.silent(steady_ns):
                self._apply(Event.SILENCE, now_ns, f'device silent for {self.settings.device_timeout:g} s', self._human.device)
            return
        if not news.engaged:
            if self._human.device is not None:
                self._apply(Event.RELEASE, now_ns, device=news.device)
            return
        if self._human.device is None and self.running and not self._robot_held:
            if self._apply(Event.TAKEOVER, now_ns, device=news.device):
                self._human.begin(news, self.sent, now_ns)
        if self._human.device is not None:
            self._human.aim(news, now_ns)

    def _take_chunk(self, now_ns: int) -> None:
        """Adopt the newest chunk where the policy has the turn and the playing one has played its horizon."""
        if self._chunk is None or self.state not in (S.AUTONOMOUS, S.BLEND_OUT):
            return
        if self._player is not None and self._player.played(now_ns) < self.settings.horizon:
            return
        chunk, self._chunk = self._chunk, None
        reason = self._unfit(chunk, now_ns)
        if reason:
            self.dropped[reason] += 1
            return
        first = self.state == S.BLEND_OUT and self._player is None
        self._player = ChunkPlayer(chunk, now_ns, self.sent, self._player, fade_steps=0 if first else FADE_STEPS)
        if first:
            self._blend_ns = now_ns

    def _unfit(self, chunk: ActionChunk, now_ns: int) -> str:
        """Why a chunk can't be played; empty where it can."""
        if chunk.episode != self._episode.episode:
            return 'of another episode'
        if (now_ns - chunk.stamp_ns) * 1e-9 > self.settings.chunk_max_age or now_ns >= chunk.due_ns(len(chunk.positions) - 1):
            return 'too old'
        return ''

    def _finish(self, now_ns: int) -> None:
        """Transitions that follow from time alone."""
        if self.state == S.RESET and self._trajectory.finished(now_ns, self.settings.reset_settle):
            self._arrived = True
            self._apply(Event.ARRIVED, now_ns)
        elif self.state == S.BLEND_IN and self._beta(now_ns) >= 1.0:
            self._apply(Event.BLENDED_IN, now_ns, device=self._human.device)
        elif self.state == S.BLEND_OUT and self._player is not None and self._beta(now_ns) <= 0.0:
            self._apply(Event.BLENDED_OUT, now_ns)

    # --- the command --------------------------------------------------------------------------------------------------------------

    @property
    def _resetting(self) -> bool:
        return self._episode is not None and self._episode.state == EpisodeState.RESETTING

    def _beta(self, now_ns: int) -> float:
        """The human's share: ramps up from the first tick of a takeover, and down once a chunk proposed after the release plays."""
        if self.state == S.HUMAN:
            return 1.0
        ramp = min(max((now_ns - self._blend_ns) * 1e-9 / self.settings.blend_time, 0.0), 1.0)
        if self.state == S.BLEND_IN:
            return ramp
        if self.state == S.BLEND_OUT:
            return 1.0 if self._player is None else 1.0 - ramp
        return 0.0

    def _command(self, now_ns: int) -> JointCommand:
        beta = self._beta(now_ns)
        target = self.sent
        if self.state == S.FAULT:  # whatever is heard after the fault is cleared must be near the robot
            target = self.sent = self._measured
        elif self.state == S.RESET:
            target = self._trajectory.position(now_ns)
        elif self.state in (S.BLEND_IN, S.HUMAN):
            target = self._frozen + beta * (self._human.targets(now_ns) - self._frozen)
        elif self._player is not None:
            target = self._player.position(now_ns)
            if self.state == S.BLEND_OUT:
                target = self._frozen + (1.0 - beta) * (target - self._frozen)
        source, chunk_id, step = SOURCES[self.state], StreamId(), -1
        if self._player is not None:
            chunk_id, step = self._player.chunk.id, self._player.step(now_ns)
        elif self.state == S.BLEND_OUT:
            source = Source.HUMAN  # the person's last command stays until the policy has answered
        return JointCommand(now_ns, self._limit(target, now_ns), source, beta, self.epoch, chunk_id, step)

    def _limit(self, target: np.ndarray, now_ns: int) -> np.ndarray:
        """Within the position limits, and no further from the last command than the velocity limits allow for the time since."""
        elapsed = self._period_ns if self._tick_ns is None else min(max(now_ns - self._tick_ns, 0), 2 * self._period_ns)
        reach = self.robot.velocity * (elapsed * 1e-9)
        return self._clip(np.clip(target, self.sent - reach, self.sent + reach))

    def _clip(self, positions: np.ndarray) -> np.ndarray:
        return np.clip(positions, self.robot.lower, self.robot.upper)
