"""Stage: one run of the offline phase. The only place that knows how the trainer is called."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from bora_rollout.job import Job, write_whole
from bora_trainer.offline_config import OfflineConfig, load_config
from bora_trainer.offline_run import train_offline

MODEL, WORK, SETTINGS = 'model', 'work', 'settings.yaml'
BASE = 'train/bc-consistency'
PLACES = {'data': ('demonstrations', 'own_rollouts', 'held_out', 'cache'), 'model': ('init',)}


def settings_of(config: OfflineConfig) -> dict[str, Any]:
    """A run's settings without the places of its files: those follow from what the stage needs."""
    content = dataclasses.asdict(config)
    del content['run']
    for section, names in PLACES.items():
        for name in names:
            del content[section][name]
    return content


def train(job: Job) -> dict[str, Any]:
    """Train a model as `settings` say on what the needed stages left; the facts of the run. Goes on from its checkpoint."""
    file = job.folder / SETTINGS
    write_whole(file, yaml.safe_dump(job.inputs['settings']))
    config = load_config(file)
    data = dataclasses.replace(
        config.data, demonstrations=_folders(job, 'demonstrations/'), own_rollouts=_folders(job, 'own'), held_out=_folders(job, 'held-out'),
        cache=str(job.shared / 'frames'),
    )  # fmt: skip
    init = str(job.needs[BASE] / MODEL) if BASE in job.needs else ''
    run = dataclasses.replace(config.run, out=str(job.folder / MODEL), work=str(job.folder / WORK), device='cpu', threads=1)
    config = dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, init=init), run=run)
    facts = train_offline(config, lambda stage, done, total, info: job.report(done, total))
    return {name: value for name, value in facts.items() if name != 'settings'}


def _folders(job: Job, prefix: str) -> tuple[str, ...]:
    return tuple(str(folder) for name, folder in sorted(job.needs.items()) if name.startswith(prefix))
