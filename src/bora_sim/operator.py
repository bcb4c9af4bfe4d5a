"""A scripted person at the controls: watches the scene, takes over early when the episode goes wrong, and hands back.

Pure: time, the last sent command and the truth are arguments; out come a deadman state and joint targets, as a joint-level device has
them. The person's targets start from the last sent command and are integrated on their own; where the robot could not follow, the person
starts again from where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bora_common.errors import ConfigError, nearest
from bora_sim.expert import Expert, make_expert
from bora_sim.watch import SKILLS, WATCHES, OperatorSkill, Watch

__all__ = ['OperatorCommand', 'OperatorSkill', 'SKILLS', 'ScriptedOperator', 'WATCHES', 'Watch']

NS = 1_000_000_000
LOST = 0.25  # rad between own target and sent command beyond which the person starts again from the sent one
MAX_PERIOD, MIN_PERIOD = 0.1, 1e-3  # s


@dataclass(frozen=True)
class OperatorCommand:
    """What the device says: `targets` [19] rad, meaningful while `engaged`; `reason` names why the person took over or let go."""

    engaged: bool
    targets: np.ndarray
    reason: str


class ScriptedOperator:
    """The person. Call `begin` when an episode starts to run, `end` when it no longer does, `update` at the device's rate between."""

    def __init__(self, task: str, skill: str = 'skilled', seed: int = 0):
        if skill not in SKILLS:
            raise ConfigError(f'operator skill "{skill}" is not valid, {nearest(skill, SKILLS)}')
        if task not in WATCHES:
            raise ConfigError(f'no operator for task "{task}", {nearest(task, WATCHES)}')
        self.skill = SKILLS[skill]
        self._seed = seed
        self._watch = WATCHES[task](self.skill)
        self._expert: Expert = make_expert(task, seed=seed, skill=self.skill.motion)
        self._running = False
        self.engaged = False
        self.takeovers = 0

    def begin(self, seed: int, now_ns: int) -> None:
        """An episode starts to run."""
        self._rng = np.random.default_rng((self._seed, abs(int(seed))))
        self._expert.reset(int(self._rng.integers(2**31)))
        self._running, self.engaged = True, False
        self._start_ns = self._last_ns = now_ns
        self.takeovers = 0
        self._look_again(now_ns)

    def end(self) -> None:
        """The episode no longer runs: hands off."""
        self._running = self.engaged = False

    def update(self, now_ns: int, sent: np.ndarray, measured: np.ndarray, truth: Mapping[str, float]) -> OperatorCommand:
        """The device's state at `now_ns`, from the last sent command [19], the measured joints [19] and the task's truth."""
        sent = np.asarray(sent, dtype=np.float64)
        if not self._running:
            return OperatorCommand(False, sent.copy(), '')
        period = (now_ns - self._last_ns) / NS
        self._last_ns = now_ns
        return self._drive(now_ns, period, sent, measured, truth) if self.engaged else self._look(now_ns, sent, measured, truth)

    def _look_again(self, now_ns: int) -> None:
        self._watch.begin()
        self._watch_ns = now_ns
        self._wrong_ns: int | None = None

    def _look(self, now_ns: int, sent: np.ndarray, measured: np.ndarray, truth: Mapping[str, float]) -> OperatorCommand:
        since, elapsed = (now_ns - self._watch_ns) / NS, (now_ns - self._start_ns) / NS
        trouble = self._watch.trouble(since, elapsed, measured, truth)
        if not trouble:
            self._wrong_ns = None
        elif self._wrong_ns is None:
            self._wrong_ns = now_ns
        if self._wrong_ns is None or (now_ns - self._wrong_ns) / NS < self.skill.reaction:
            return OperatorCommand(False, sent.copy(), '')
        self.engaged = True
        self.takeovers += 1
        self._hands_back = self._rng.random() < self.skill.hand_back and not trouble.startswith('time')
        self._targets = sent.copy()
        self._expert.restart()
        return OperatorCommand(True, self._targets.copy(), trouble)

    def _drive(self, now_ns: int, period: float, sent: np.ndarray, measured: np.ndarray, truth: Mapping[str, float]) -> OperatorCommand:
        if self._hands_back and self._watch.well_placed(measured, truth):
            self.engaged = False
            self._look_again(now_ns)
            return OperatorCommand(False, sent.copy(), 'well placed')
        if np.abs(self._targets - sent)[:7].max() > LOST:
            self._targets = sent.copy()
        if period >= MIN_PERIOD:
            self._targets = self._expert.step(self._targets, truth, min(period, MAX_PERIOD))
        return OperatorCommand(True, self._targets.copy(), '')
