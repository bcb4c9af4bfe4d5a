"""How a scripted person judges an episode: what looks wrong, and when the rest can be left to the policy."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bora_sim.expert import GOOD, Skill
from bora_sim.tasks import make_task
from bora_sim.tasks.base import STEP_S


@dataclass(frozen=True)
class OperatorSkill:
    """How a person watches and moves. Times in s of ROS time."""

    reaction: float  # how long something must look wrong before the person acts
    foresight: float  # how far ahead a miss is seen
    patience: float  # without progress
    reserve: float  # left of the episode when the person stops waiting
    hand_back: float  # probability of handing back once the hand is well placed, instead of finishing the job
    motion: Skill


SKILLS = {
    'skilled': OperatorSkill(reaction=0.08, foresight=0.35, patience=1.2, reserve=2.6, hand_back=0.2, motion=GOOD),
    'late': OperatorSkill(reaction=0.5, foresight=0.0, patience=1.8, reserve=2.2, hand_back=0.2, motion=GOOD),
    'mediocre': OperatorSkill(
        reaction=0.25, foresight=0.2, patience=1.6, reserve=2.6, hand_back=0.2, motion=Skill(speed=0.14, bias=(0.002, 0.010), pauses=0.3)
    ),
}  # fmt: skip


class Path:
    """Where a point of the hand has been lately, for a look ahead."""

    SPAN = 0.1  # s

    def __init__(self) -> None:
        self._places: deque[tuple[float, np.ndarray]] = deque()

    def add(self, t: float, place: np.ndarray) -> np.ndarray:
        """Velocity [3] (m/s) with the place [3] at `t` s."""
        self._places.append((t, place))
        while len(self._places) > 2 and t - self._places[1][0] >= self.SPAN:
            self._places.popleft()
        span = t - self._places[0][0]
        return (place - self._places[0][1]) / span if span > 1e-6 else np.zeros(3)


def seconds_to(height: float, velocity: np.ndarray) -> float:
    """Time (s) until a point that sinks at `velocity` [3] has come down by `height` (m)."""
    return 0.0 if height <= 0.003 else height / max(-float(velocity[2]), 1e-6)


class Watch(abc.ABC):
    """A person's judgement of one task: a reason to take over, and whether the hand is well placed to hand back."""

    task: ClassVar[str]

    def __init__(self, skill: OperatorSkill):
        self.skill = skill
        self.limit = make_task(self.task).episode_steps * STEP_S
        self.begin()

    @abc.abstractmethod
    def begin(self) -> None:
        """Forget what was seen; the episode or a new stretch of the policy's work starts."""

    @abc.abstractmethod
    def trouble(self, t: float, elapsed: float, measured: np.ndarray, truth: Mapping[str, float]) -> str:
        """What looks wrong at `t` s (since `begin`), `elapsed` s into the episode; empty when all is well."""

    @abc.abstractmethod
    def well_placed(self, measured: np.ndarray, truth: Mapping[str, float]) -> bool:
        """Whether the rest could be left to the policy."""
