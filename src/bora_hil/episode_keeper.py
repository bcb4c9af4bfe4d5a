"""The life of an episode: reset, run, end, late marks. Pure; time is an argument; every method returns the events to publish."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from bora_common.errors import BoraError
from bora_common.robot import RobotSpec, TaskSpec
from bora_common.types import ArbiterState, EpisodeEvent, EpisodeState, InterventionEvent, Outcome
from bora_hil.labels import RewardScheme, place_rewards
from bora_hil.table import Event

ACTIVE = (EpisodeState.RESETTING, EpisodeState.READY, EpisodeState.RUNNING)
Events = tuple[EpisodeEvent, ...]


class EpisodeError(BoraError):
    """A request that does not fit the episode's state; answered to the caller, nothing changes."""


@dataclass(frozen=True)
class KeeperSettings:
    """Times in s of ROS time."""

    dt: float = 1.0 / 15.0  # of a step
    late_mark_time: float = 2.0  # after the end, in which a mark still changes the outcome
    reset_timeout: float = 60.0  # for the start pose, and again for the scene
    ready_time: float = 0.2  # between READY and RUNNING
    clock_skew: float = 0.5  # by which a mark's stamp may be ahead: another process may have seen a newer /clock
    rewards: RewardScheme = RewardScheme()


class EpisodeKeeper:
    """Keeps one episode at a time.

    `needs_scene` is True while the robot stands at the start pose and the scene has to be reset by the shell, which answers with
    `scene_ready` or `scene_failed`. ENDED and AMENDED are stamped with the instant at which the episode ended.
    """

    def __init__(
        self,
        robot: RobotSpec,
        task: TaskSpec,
        run: str,
        settings: KeeperSettings = KeeperSettings(),
        new_seed: Callable[[], int] | None = None,
    ):
        self.robot = robot
        self.task = task
        self.settings = settings
        self.current: EpisodeEvent | None = None
        self.needs_scene = False
        self._run = run
        self._count = 0
        self._new_seed = new_seed or (lambda: random.SystemRandom().randrange(2**31))
        self._arbiter: ArbiterState | None = None
        self._interventions: list[InterventionEvent] = []
        self._since_ns = 0  # of the present wait
        self._ended_ns = 0  # when the end was said, not the end's own stamp
        self._fault = ''

    @property
    def active(self) -> bool:
        """True from the request until the end."""
        return self.current is not None and self.current.state in ACTIVE

    # --- requests ------------------------------------------------------------------------------------------------------------------

    def start(
        self, now_ns: int, task: str = '', instruction: str = '', round: int = 0, evaluation: bool = False, seed: int = -1
    ) -> Events:
        """Begin an episode: RESETTING. Empty strings stand for the keeper's task. Raises EpisodeError when it can't begin."""
        if self.active:
            raise EpisodeError(f'episode {self.current.episode} is {self.current.state.name.lower()}; abort it or let it end first')
        if task not in ('', self.task.name):
            raise EpisodeError(f'task "{task}" is not this graph\'s task, which is "{self.task.name}"')
        if self._arbiter == ArbiterState.FAULT:
            raise EpisodeError(f'{self._fault or "robot fault"}; clear the fault first')
        episode = EpisodeEvent(
            stamp_ns=now_ns, episode=f'{self._run}-{self._count:04d}', task=self.task.name,
            instruction=instruction or self.task.instruction, robot=self.robot.name, round=round, evaluation=evaluation,
            seed=seed if seed >= 0 else self._new_seed(), state=EpisodeState.RESETTING,
        )  # fmt: skip
        self._count += 1
        self._interventions = []
        self._since_ns = now_ns
        self.needs_scene = False
        return self._emit(episode)

    def mark_success(self, now_ns: int, stamp_ns: int = 0, by: str = '', reason: str = '') -> Events:
        """The task succeeded at `stamp_ns` (0: now). Raises EpisodeError outside a running or just ended episode."""
        return self._mark(Outcome.SUCCESS, now_ns, stamp_ns, by, reason)

    def mark_failure(self, now_ns: int, stamp_ns: int = 0, by: str = '', reason: str = '') -> Events:
        """The task failed. Where a failure does not end the task, the episode is cut off there instead (aborted, not terminal)."""
        outcome = Outcome.FAILURE if self.task.failure_ends else Outcome.ABORTED
        return self._mark(outcome, now_ns, stamp_ns, by, reason or 'failure marked')

    def abort(self, now_ns: int, by: str = '', reason: str = '') -> Events:
        """End the episode without a judgement. Raises EpisodeError where none is active."""
        if not self.active:
            raise EpisodeError('no episode is active')
        return self._end(Outcome.ABORTED, now_ns, now_ns, _said(by, reason or 'aborted'))

    def scene_ready(self, now_ns: int) -> Events:
        """The scene is set (by the simulator, or by a person's word). Raises EpisodeError where nobody waits for it."""
        if not self.needs_scene:
            raise EpisodeError('no episode waits for the scene' if not self.active else 'the robot is not at the start pose yet')
        self.needs_scene = False
        self._since_ns = now_ns
        return self._emit(replace(self.current, stamp_ns=now_ns, state=EpisodeState.READY))

    def scene_failed(self, now_ns: int, reason: str) -> Events:
        """The scene can't be set: the episode is over before it began."""
        if not self.needs_scene:
            return ()
        return self._end(Outcome.ABORTED, now_ns, now_ns, f'scene reset: {reason}')

    # --- what happens ----------------------------------------------------------------------------------------------------------------

    def on_intervention(self, event: InterventionEvent, now_ns: int) -> Events:
        """Event of the arbiter."""
        self._arbiter = event.state
        if event.state == ArbiterState.FAULT:
            self._fault = event.reason
        if self.current is None or event.stamp_ns < self._first_ns:
            return ()
        self._interventions.append(event)  # after the end too: one that happened before it may be heard late
        if not self.active:
            return ()
        if event.state == ArbiterState.FAULT:
            return self._end(Outcome.ABORTED, max(event.stamp_ns, self.current.started_ns), now_ns, event.reason)
        arrived = event.previous == ArbiterState.RESET and event.reason == Event.ARRIVED.value
        if arrived and self.current.state == EpisodeState.RESETTING:
            self.needs_scene = True
            self._since_ns = now_ns
        return ()

    def tick(self, now_ns: int) -> Events:
        """What follows from time alone: the start, time-outs."""
        if not self.active:
            return ()
        state, waited_ns = self.current.state, now_ns - self._since_ns
        if state == EpisodeState.READY and waited_ns >= _ns(self.settings.ready_time):
            return self._emit(replace(self.current, stamp_ns=now_ns, started_ns=now_ns, state=EpisodeState.RUNNING))
        if state == EpisodeState.RESETTING and waited_ns > _ns(self.settings.reset_timeout):
            what = 'the scene was not reset' if self.needs_scene else 'the robot did not reach the start pose'
            return self._end(Outcome.ABORTED, now_ns, now_ns, f'{what} within {self.settings.reset_timeout:g} s')
        if state == EpisodeState.RUNNING and now_ns >= self._deadline_ns:
            return self._end(Outcome.TIMEOUT, self._deadline_ns, now_ns, f'{self.task.episode_steps} steps without a mark')
        return ()

    # --- the rest --------------------------------------------------------------------------------------------------------------------

    @property
    def _first_ns(self) -> int:
        """Interventions before it belong to what was before this episode's present state."""
        return self.current.started_ns or self.current.stamp_ns

    @property
    def _deadline_ns(self) -> int:
        return self.current.started_ns + _ns(self.task.episode_steps * self.settings.dt)

    def _mark(self, outcome: Outcome, now_ns: int, stamp_ns: int, by: str, reason: str) -> Events:
        now = self.current
        if now is None or now.state in (EpisodeState.RESETTING, EpisodeState.READY) or not now.started_ns:
            raise EpisodeError('no episode runs' if now is None or not self.active else f'episode {now.episode} has not started yet')
        stamp_ns = stamp_ns or now_ns
        if not now.started_ns < stamp_ns <= now_ns + _ns(self.settings.clock_skew):
            raise EpisodeError(f'stamp {stamp_ns} is outside episode {now.episode}, which runs from {now.started_ns} to {now_ns}')
        said = _said(by, reason or f'marked {outcome.name.lower()}')
        if now.state == EpisodeState.RUNNING:
            return self._end(outcome, min(stamp_ns, self._deadline_ns), now_ns, said)
        if now_ns - self._ended_ns > _ns(self.settings.late_mark_time):
            raise EpisodeError(f'episode {now.episode} ended more than {self.settings.late_mark_time:g} s ago')
        if now.outcome == Outcome.ABORTED:
            raise EpisodeError(f'episode {now.episode} was aborted ({now.reason})')
        if now.outcome == outcome:
            raise EpisodeError(f'episode {now.episode} is marked {outcome.name.lower()} already')
        end_ns = min(stamp_ns, now.stamp_ns)  # nothing was done after the end
        return self._emit(self._ended(EpisodeState.AMENDED, outcome, end_ns, said))

    def _end(self, outcome: Outcome, end_ns: int, now_ns: int, reason: str) -> Events:
        self._ended_ns = now_ns
        self.needs_scene = False
        return self._emit(self._ended(EpisodeState.ENDED, outcome, end_ns, reason))

    def _ended(self, state: EpisodeState, outcome: Outcome, end_ns: int, reason: str) -> EpisodeEvent:
        now, rewards = self.current, ()
        if now.started_ns:
            rewards = place_rewards(now.started_ns, end_ns, outcome, self._interventions, self.settings.dt, self.settings.rewards)
        return replace(now, stamp_ns=end_ns, state=state, outcome=outcome, reason=reason, rewards=rewards)

    def _emit(self, event: EpisodeEvent) -> Events:
        self.current = event
        return (event,)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _said(by: str, reason: str) -> str:
    return f'{reason} ({by})' if by else reason
