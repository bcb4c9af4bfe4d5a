"""Watching a job that goes on in stages: a person sees how far it is, and when it stands still, falls back or runs out of time."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping

import numpy as np

from bora_common.kinematics import HAND_JOINTS
from bora_sim.expert import Expert, make_expert
from bora_sim.expert.grasp import GraspExpert
from bora_sim.expert.open_box import OpenBoxExpert
from bora_sim.watch.base import OperatorSkill, Path, Watch, seconds_to

STAGE = 1.0  # progress that a stage is worth; within one it is in m


class ProgressWatch(Watch):
    """Judges by one number that rises as the job goes on."""

    STEP = 0.008  # progress that counts as going on
    BACK = 0.06  # loss of it that counts as going wrong
    SLACK = 1.3  # of the patience: a grasp takes its time
    MARGIN = 0.7  # s beyond what the job takes, less what a person's reserve adds
    LOST = 'the object is lost'

    def __init__(self, skill: OperatorSkill):
        self.expert: Expert = make_expert(self.task, skill=skill.motion)
        super().__init__(skill)

    def begin(self) -> None:
        self._path = Path()
        self._best, self._best_since = -math.inf, 0.0

    @abc.abstractmethod
    def progress(self, measured: np.ndarray, truth: Mapping[str, float]) -> float:
        """How far the job is."""

    @abc.abstractmethod
    def work(self, truth: Mapping[str, float]) -> float:
        """Seconds that the rest of it takes a person."""

    @abc.abstractmethod
    def miss(self, t: float, measured: np.ndarray, truth: Mapping[str, float]) -> str:
        """What the hand is about to do wrong; empty when it is on its way."""

    def trouble(self, t: float, elapsed: float, measured: np.ndarray, truth: Mapping[str, float]) -> str:
        self.expert.look(truth)
        missing = self.miss(t, measured, truth)
        progress = self.progress(measured, truth)
        if progress > self._best + self.STEP:
            self._best, self._best_since = progress, t
        if missing:
            return missing
        if progress < self._best - self.BACK:
            return self.LOST if self._best > 0 else 'the hand goes astray'
        if t - self._best_since > self.SLACK * self.skill.patience:
            return 'no progress'
        reserve = self.work(truth) + self.MARGIN + self.skill.reserve - 2.6
        return 'time is running out' if elapsed > self.limit - reserve else ''


class GraspWatch(ProgressWatch):
    """Judges a grasp: where the hand comes down, whether it takes hold, whether the object comes with it."""

    expert: GraspExpert
    ASIDE = 0.028  # m beside the object that still makes a grasp
    LOW = 0.025  # m above the grasp from where it can't be mended
    TOUCHED = 0.02  # progress that a touching thumb, or finger, is worth

    def aside(self, measured: np.ndarray, truth: Mapping[str, float]) -> np.ndarray:
        """Offset [3] (m) of the grasp point from where it should be."""
        return self.expert.place(measured, self.expert.POINT) - self.expert.grasp(truth)[0]

    @abc.abstractmethod
    def taken(self, truth: Mapping[str, float]) -> float:
        """Progress with the object in the hand, from STAGE on; 0 while it isn't."""

    def progress(self, measured: np.ndarray, truth: Mapping[str, float]) -> float:
        touched = self.TOUCHED * (truth['thumb'] + min(truth['fingers'], 1.0))
        return self.taken(truth) or touched - float(np.linalg.norm(self.aside(measured, truth)))

    def miss(self, t: float, measured: np.ndarray, truth: Mapping[str, float]) -> str:
        offset = self.aside(measured, truth)
        velocity = self._path.add(t, self.expert.place(measured, self.expert.POINT))
        ahead = seconds_to(float(offset[2]) - self.LOW, velocity)
        if self.taken(truth) or ahead > self.skill.foresight:
            return ''
        meeting = offset[:2] + velocity[:2] * ahead
        return 'the hand comes down beside the object' if float(np.hypot(*meeting)) > self.ASIDE else ''

    def well_placed(self, measured: np.ndarray, truth: Mapping[str, float]) -> bool:
        self.expert.look(truth)
        offset = self.aside(measured, truth)
        opened = float(np.abs(measured[-len(HAND_JOINTS) :] - self.expert.OPEN).max()) < 0.25
        return not self.taken(truth) and opened and float(np.hypot(*offset[:2])) < 0.010 and 0.02 < offset[2] < 0.09


class PlushToyWatch(GraspWatch):
    """The toy must come off the table and stay in the hand."""

    task = 'plush_toy'
    LOST = 'the toy slips'

    def taken(self, truth: Mapping[str, float]) -> float:
        return STAGE + truth['lift'] if truth['lift'] > 0.012 and truth['thumb'] and truth['fingers'] else 0.0

    def work(self, truth: Mapping[str, float]) -> float:
        return 1.2 if self.taken(truth) else 3.7


class PickAndPlaceWatch(GraspWatch):
    """The package must go over the rim and into the basket."""

    task = 'pick_and_place'
    LOST = 'the package slips'

    def taken(self, truth: Mapping[str, float]) -> float:
        if truth['inside']:
            return 2 * STAGE + 0.1 * truth['held'] - 0.02 * truth['hand']
        if truth['over'] < 1.0:  # all of it above or in the basket
            return 1.5 * STAGE - truth['bottom']
        if truth['bottom'] < 0.008 or not (truth['thumb'] and truth['fingers']):
            return 0.0
        way = (truth['x'] - truth['basket_x'], truth['y'] - truth['basket_y'], truth['z'] - 0.03)
        return STAGE - math.hypot(*way)

    def work(self, truth: Mapping[str, float]) -> float:
        return 1.0 if truth['inside'] else 3.2 if self.taken(truth) else 6.2


class PullTissueWatch(GraspWatch):
    """The sheet must come with the hand until it is free."""

    task = 'pull_tissue'
    ASIDE = 0.020
    LOST = 'the sheet slips'

    def taken(self, truth: Mapping[str, float]) -> float:
        return STAGE + truth['lowest'] if truth['pulled'] > 0.006 and truth['thumb'] and truth['fingers'] else 0.0

    def work(self, truth: Mapping[str, float]) -> float:
        return 1.0 if self.taken(truth) else 3.0


class OpenBoxWatch(ProgressWatch):
    """The fingers must get under the overhang and the lid must come with them."""

    task = 'open_box'
    expert: OpenBoxExpert
    LOST = 'the lid falls shut'
    SWINGING = 0.12  # rad past where it was closed

    def begin(self) -> None:
        super().begin()
        self._closed = math.inf

    def _swings(self, truth: Mapping[str, float]) -> bool:
        self._closed = min(self._closed, truth['angle'])
        return truth['angle'] > self._closed + self.SWINGING

    def progress(self, measured: np.ndarray, truth: Mapping[str, float]) -> float:
        if self._swings(truth):
            return STAGE + 0.2 * truth['angle']
        tips = self.expert.in_plane(self.expert.place(measured, self.expert.TIPS), truth)
        return 0.02 * truth['hand'] - float(np.hypot(*(tips - self.expert.hold(truth, truth['angle']))))

    def work(self, truth: Mapping[str, float]) -> float:
        return 2.2 if self._swings(truth) else 4.3

    def miss(self, t: float, measured: np.ndarray, truth: Mapping[str, float]) -> str:
        place = self.expert.place(measured, self.expert.TIPS)
        velocity = self._path.add(t, place)
        if self._swings(truth):
            return ''
        tips = self.expert.in_plane(place, truth)
        c, s = math.cos(truth['angle']), math.sin(truth['angle'])
        above = tips[1] * c - tips[0] * s - self.expert.BELOW
        ahead = seconds_to(above - 0.004, velocity)
        if above < -0.006 or ahead > self.skill.foresight:
            return ''
        meeting = self.expert.in_plane(place + velocity * ahead, truth)
        return 'the fingers come down on the lid' if meeting[0] * c + meeting[1] * s < truth['length'] + 0.004 else ''

    def well_placed(self, measured: np.ndarray, truth: Mapping[str, float]) -> bool:
        self.expert.look(truth)
        tips = self.expert.in_plane(self.expert.place(measured, self.expert.TIPS), truth)
        return abs(tips[0] - self.expert.before(truth)[0]) < 0.008 and 0.0 < tips[1] < 0.06 and not self._swings(truth)
