"""The tasks by name."""

from __future__ import annotations

from bora_common.errors import ConfigError, nearest
from bora_sim.tasks.base import Instance, Outcome, Task, digest
from bora_sim.tasks.open_box import OpenBox
from bora_sim.tasks.pick_and_place import PickAndPlace
from bora_sim.tasks.plush_toy import PlushToy
from bora_sim.tasks.press_button import PressButton
from bora_sim.tasks.pull_tissue import PullTissue

__all__ = ['Instance', 'Outcome', 'TASKS', 'Task', 'digest', 'make_task']

TASKS: dict[str, type[Task]] = {task.name: task for task in (PressButton, PlushToy, PickAndPlace, OpenBox, PullTissue)}


def make_task(name: str) -> Task:
    """The task of that name. Raises ConfigError naming the nearest one."""
    if name not in TASKS:
        raise ConfigError(f'no task "{name}", {nearest(name, TASKS)}')
    return TASKS[name]()
