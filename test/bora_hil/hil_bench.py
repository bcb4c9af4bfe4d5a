"""An arbiter with a clock, and short ways to write messages down."""

from __future__ import annotations

import numpy as np

from bora_common.types import (
    ActionChunk,
    EpisodeEvent,
    EpisodeState,
    HumanInput,
    Mode,
    Outcome,
    RobotMode,
    StreamId,
    WeightsVersion,
)
from bora_hil.arbiter import Arbiter, ArbiterSettings, Decision

DT = 1.0 / 15.0
TICK = 10_000_000
K = 32


def chunk_of(positions, stamp_ns=0, epoch=0, episode='e', seq=0) -> ActionChunk:
    positions = np.asarray(positions, dtype=np.float64)
    return ActionChunk(
        stamp_ns=stamp_ns, published_ns=stamp_ns, base=positions, positions=positions, dt=DT, alpha=0.0, version=WeightsVersion(),
        model_id='m', epoch=epoch, episode=episode, id=StreamId(7, seq),
    )  # fmt: skip


def episode_of(state, stamp_ns=0, episode='e', outcome=Outcome.NONE) -> EpisodeEvent:
    return EpisodeEvent(stamp_ns, episode, 'press_button', 'press', 'fr3_hand12', 0, False, 1, state, outcome, started_ns=stamp_ns)


class Bench:
    """An arbiter with a clock, and a person and a policy that speak when told to."""

    def __init__(self, robot, task, **settings):
        self.robot, self.task = robot, task
        self.arbiter = Arbiter(robot, task, ArbiterSettings(**settings))
        self.now = 1_000_000_000
        self.steady = 5_000_000_000
        self.commands = []
        self.events = []
        self.home = task.start_pose.copy()
        self._human_seq = 0
        self._chunk_seq = 0
        self.arbiter.on_joints(self.home)

    def tick(self, count: int = 1, engaged: bool | None = None, offset: float = 0.0) -> Decision:
        """Ticks; with `engaged` given the device speaks before each."""
        for _ in range(count):
            self.now += TICK
            self.steady += TICK
            if engaged is not None:
                self.human(engaged, offset)
            decision = self.arbiter.tick(self.now, self.steady)
            self.events += decision.events
            if decision.command is not None:
                self.commands.append(decision.command)
        return decision

    def human(self, engaged=True, offset=0.0, device='pad', indices=None, positions=None):
        indices = np.arange(7) if indices is None else np.asarray(indices)
        positions = self.home[indices] + offset if positions is None else positions
        self._human_seq += 1
        self.arbiter.on_human(HumanInput(self.now, indices, positions, engaged, device, StreamId(3, self._human_seq)), self.steady)

    def chunk(self, offset=0.0, stamp_ns=None, epoch=None, episode='e', slope=0.0):
        ramp = slope * np.arange(1, K + 1)[:, None] * DT
        self._chunk_seq += 1
        chunk = chunk_of(
            self.home + offset + ramp, self.now if stamp_ns is None else stamp_ns,
            self.arbiter.epoch if epoch is None else epoch, episode, self._chunk_seq,
        )  # fmt: skip
        self.arbiter.on_chunk(chunk)
        return chunk

    def episode(self, state, **kwargs):
        self.arbiter.on_episode(episode_of(state, kwargs.pop('stamp_ns', self.now), **kwargs))

    def robot_mode(self, mode: Mode, reason: str = ''):
        self.arbiter.on_robot(RobotMode(self.now, mode, reason))

    def run(self):
        """Into AUTONOMOUS with a chunk that holds the start pose."""
        self.tick()
        self.episode(EpisodeState.RUNNING)
        self.tick()
        self.chunk()
        return self.tick()
