"""Demonstration files as a step log of the live graph's format, on request with the proposals of a base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bora_common.errors import ConfigError, ModelError
from bora_common.paths import resolve
from bora_common.robot import load_robot, load_task
from bora_common.types import Observation, Proposal, StreamId
from bora_replay import demonstrated
from bora_replay.steplog import Session
from bora_sim.tasks.base import STEP_S

ROBOT = 'fr3_hand12'


def convert(demos: Path, out: Path, model: str = '', stride: int = 8) -> list[demonstrated.Written]:
    """Write the demonstrations of one task, in the folder `demos`, as the log of the new run folder `out`.

    `model`: a model directory, or a name within models/; it proposes at every `stride`-th frame. None when empty.
    """
    files = sorted(demos.glob('*.npz'))
    if not files:
        raise ConfigError(f'{demos}: no demonstrations (*.npz) in it')
    robot = load_robot(resolve(ROBOT, 'config/robots'))
    task = load_task(resolve(f'{demonstrated.task_of(files[0])}.yaml', 'config/tasks'), robot)
    session = Session(robot.name, robot.layout.names, task.name, task.episode_steps, STEP_S, robot.cameras)
    propose = proposer(Path(resolve(model, 'models')), session) if model else None
    with Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(task.name, total=len(files))
        return demonstrated.write(out, session, task, files, propose, stride, lambda one: progress.advance(bar))


def proposer(model: Path, session: Session) -> demonstrated.Propose:
    """The proposals of a base model for observations."""
    import torch  # slow to load, and of no use without a model

    from bora_policy.policy import Policy

    torch.set_num_threads(1)
    policy = Policy.load(model, joint_names=session.joint_names, camera_names=session.cameras)
    size = policy.model.facts.image_size

    def propose(observations: Sequence[Observation], epoch: int, ids: Sequence[StreamId]) -> list[Proposal]:
        for o in observations:
            if o.images.shape[1:3] != (size, size):
                raise ModelError(f'{model}: takes images of {size} px, {o.episode} has {o.images.shape[1:3]}')
        return policy.propose_batch(observations, epoch, ids)

    return propose
