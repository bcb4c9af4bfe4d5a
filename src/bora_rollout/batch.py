"""Episodes of a policy on several simulated worlds that plan together: one forward pass of the VLA serves all of them.

Every world plays `horizon` steps of its chunk on its own, then all of them are observed and planned for at once; a world whose episode has
ended takes the next scene at the next planning. What an episode sees and does follows from its scene's seed alone, so that the batch size
changes results by no more than the rounding of a forward pass over another number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bora_common.types import Observation, Proposal, StreamId, WeightsVersion
from bora_hil.chunk_player import FADE_STEPS, ChunkPlayer
from bora_policy.policy import Policy
from bora_policy.residual import ResidualChain, ResidualSpec
from bora_sim.demos import observe
from bora_sim.world import CAMERAS, CONTROL_TICKS, STEP_TICKS, SimWorld

NS_PER_TICK = 1_000_000_000 / 300


@dataclass(frozen=True)
class Trial:
    """Outcome of one episode."""

    seed: int
    success: bool
    steps: int


@dataclass(frozen=True)
class Episode:
    """An episode of N steps at the step rate, from a demonstration or the policy itself."""

    name: str
    images: np.ndarray  # uint8 [N,C,H,W,3], before each step
    proprio: np.ndarray  # [N,D] rad, before each step
    executed: np.ndarray  # [N,D] rad, command in force at the end of each step
    success: bool
    failure: bool = False  # it ended in a failure


@dataclass(frozen=True)
class Ended:
    """An episode at its end. `world` stands there until the next one is asked for."""

    trial: Trial
    world: SimWorld
    episode: Episode | None  # where it was asked for


def zero_chain(policy: Policy, bound: np.ndarray) -> ResidualChain:
    """The chain of no weights for a base policy; `bound` [D] rad."""
    facts = policy.model.facts
    spec = ResidualSpec(facts.steps, len(facts.joint_names), len(facts.token_names), facts.token_width)
    return ResidualChain(spec, policy.model.normalizer, bound, facts.joint_names)


def rollouts(
    worlds: Sequence[SimWorld], policy: Policy, chain: ResidualChain, seeds: Iterable[int], *, record: bool = False
) -> Iterator[Ended]:
    """One episode a seed, at most len(worlds) at a time, in the order in which they end.

    Each lasts from the reset to success, a failure that ends it, or the time limit, with a new chunk every `horizon` steps. `record`: with
    what was seen and executed at every step.
    """
    waiting, free, running = iter(seeds), list(worlds), []
    while True:
        running += [_Run(free.pop(), seed, policy.model.facts.image_size, record) for seed in islice(waiting, len(free))]
        if not running:
            return
        proposals, going = policy.propose_batch([run.observe() for run in running]), []
        for run, proposal in zip(running, proposals, strict=True):
            run.adopt(proposal, chain)
            if run.play(policy.model.facts.horizon):
                yield run.end()
                free.append(run.world)
            else:
                going.append(run)
        running = going


class _Run:
    """An episode on its way."""

    def __init__(self, world: SimWorld, seed: int, size: int, record: bool):
        world.reset(seed)
        self.world, self._size, self._record = world, size, record
        self._sent, self._player, self._steps = world.targets, None, 0
        self._images: list[np.ndarray] = []
        self._proprio: list[np.ndarray] = []
        self._executed: list[np.ndarray] = []

    @property
    def _now_ns(self) -> int:
        return round(self.world.ticks * NS_PER_TICK)

    def observe(self) -> Observation:
        """What the policy sees now."""
        self._look()
        world = self.world
        images = self._images[-1]
        if not self._record:
            self._images.clear()
        return Observation(self._now_ns, images, CAMERAS, world.qpos, world.task.instruction, f'evaluation-{world.seed}')

    def _look(self) -> None:
        if len(self._images) == len(self._executed):
            self._images.append(observe(self.world, self._size))

    def adopt(self, proposal: Proposal, chain: ResidualChain) -> None:
        """Play this proposal from now on, cross-faded from the one before."""
        chunk = chain.correct(proposal, self._now_ns, WeightsVersion(), StreamId())
        self._player = ChunkPlayer(chunk, self._now_ns, self._sent, self._player, fade_steps=FADE_STEPS if self._player else 0)

    def play(self, steps: int) -> bool:
        """Advance by at most `steps`; whether that was the end."""
        limit = self.world.task.episode_steps
        for _ in range(min(steps, limit - self._steps)):
            if self._record:
                self._look()
                self._proprio.append(self.world.qpos)
            self._step()
            self._steps += 1
            if self._record:
                self._executed.append(self._sent)
            if self.world.success or (self.world.failure and self.world.task.failure_ends):
                return True
        return self._steps >= limit

    def _step(self) -> None:
        """One step of 1/15 s, the targets renewed at 100 Hz."""
        world, done = self.world, 0
        while done < STEP_TICKS:
            n = min(CONTROL_TICKS - world.ticks % CONTROL_TICKS, STEP_TICKS - done)
            done += n
            self._sent = self._player.position(round((world.ticks + n) * NS_PER_TICK))
            world.step_physics(self._sent, n)

    def end(self) -> Ended:
        """The outcome."""
        world, episode = self.world, None
        if self._record:
            rows = (np.stack(self._images), np.stack(self._proprio), np.stack(self._executed))
            episode = Episode(f'own_{world.seed}', *rows, world.success, world.failure and world.task.failure_ends and not world.success)
        return Ended(Trial(world.seed, world.success, self._steps), world, episode)
