"""The judgement of a scripted person by task."""

from __future__ import annotations

from bora_sim.watch.base import SKILLS, OperatorSkill, Watch
from bora_sim.watch.press_button import PressButtonWatch
from bora_sim.watch.progress import OpenBoxWatch, PickAndPlaceWatch, PlushToyWatch, PullTissueWatch

__all__ = ['OperatorSkill', 'SKILLS', 'WATCHES', 'Watch']

WATCHES: dict[str, type[Watch]] = {
    watch.task: watch for watch in (PressButtonWatch, PlushToyWatch, PickAndPlaceWatch, OpenBoxWatch, PullTissueWatch)
}
