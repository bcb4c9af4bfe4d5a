"""The scripted experts by task."""

from __future__ import annotations

from bora_common.errors import ConfigError, nearest
from bora_sim.expert.base import ARM, GOOD, HAND, PALM_DOWN, POOR, Expert, Skill
from bora_sim.expert.open_box import OpenBoxExpert
from bora_sim.expert.pick_and_place import PickAndPlaceExpert
from bora_sim.expert.plush_toy import PlushToyExpert
from bora_sim.expert.press_button import PressButtonExpert
from bora_sim.expert.pull_tissue import PullTissueExpert

__all__ = ['ARM', 'EXPERTS', 'Expert', 'GOOD', 'HAND', 'PALM_DOWN', 'POOR', 'Skill', 'make_expert']

EXPERTS: dict[str, type[Expert]] = {
    expert.task: expert for expert in (PressButtonExpert, PlushToyExpert, PickAndPlaceExpert, OpenBoxExpert, PullTissueExpert)
}


def make_expert(task: str, *, poor: bool = False, seed: int = 0, skill: Skill | None = None) -> Expert:
    """The expert of a task. Raises ConfigError naming the nearest task."""
    if task not in EXPERTS:
        raise ConfigError(f'no expert for task "{task}", {nearest(task, EXPERTS)}')
    expert = EXPERTS[task]
    return expert(skill or (expert.poor if poor else GOOD), seed)
