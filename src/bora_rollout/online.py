"""Online residual learning in one process: the graph's own cores, with the scripted person at the controls, and no ROS.

An episode runs in simulated time without latency: a proposal at every step of 1/15 s, the arbiter at 100 Hz, the person at 50 Hz. What
comes out is the record that the graph's step log would hold, cut by the same cutter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from bora_common.paths import resolve
from bora_common.robot import RobotSpec, TaskSpec, load_robot, load_task
from bora_common.types import (
    EpisodeEvent,
    EpisodeState,
    ExecutedCommand,
    HumanInput,
    JointCommand,
    Observation,
    Outcome,
    Proposal,
    StreamId,
    WeightsVersion,
)
from bora_hil.arbiter import Arbiter
from bora_hil.labels import place_rewards
from bora_policy.policy import Policy
from bora_policy.residual import ResidualChain
from bora_replay.cutter import EpisodeRecord, cut, steps_of
from bora_rollout.batch import NS_PER_TICK
from bora_rollout.evaluate import evaluate
from bora_sim.demos import observe
from bora_sim.operator import ScriptedOperator
from bora_sim.world import CAMERAS, CONTROL_TICKS, STEP_TICKS, SimWorld
from bora_trainer.online import OnlineConfig, OnlineLearner, State
from bora_trainer.session import assemble

ONLINE_SEED = 2_000_000  # scenes of online episodes; evaluations, demonstrations and own episodes of the base have others
SEED_STRIDE = 10_000
DEVICE_TICKS = 6  # physics steps between two messages of the person's device, 50 Hz
SOURCE = 1  # of every stream of this process


@dataclass(frozen=True)
class OnlineEpisode:
    """One finished episode and what it cost the person."""

    record: EpisodeRecord
    success: bool
    takeovers: int


class Workcell:
    """Robot, person and arbiter around a policy: plays one episode at a time."""

    def __init__(self, world: SimWorld, robot: RobotSpec, task: TaskSpec, policy: Policy, operator: ScriptedOperator | None):
        """`operator` None: nobody intervenes."""
        self.world, self.robot, self.task, self.policy, self.operator = world, robot, task, policy, operator

    def play(self, chain: ResidualChain, episode: str, seed: int, round: int, version: WeightsVersion) -> OnlineEpisode:
        """One episode of base model and `chain` from the reset to success, a failure that ends it, or the time limit."""
        world, run = self.world, _Run(self, chain, episode, seed, round, version)
        run.begin()
        for _ in range(self.task.episode_steps):
            run.propose()
            end = world.ticks + STEP_TICKS
            while world.ticks < end:
                run.advance(min(CONTROL_TICKS - world.ticks % CONTROL_TICKS, end - world.ticks))
            if world.success or (world.failure and self.task.failure_ends):
                break
        return run.end()


class _Run:
    """What one episode gathers."""

    def __init__(self, cell: Workcell, chain: ResidualChain, episode: str, seed: int, round: int, version: WeightsVersion):
        self._cell, self._chain, self._version = cell, chain, version
        self._arbiter = Arbiter(cell.robot, cell.task)
        self._ids = count()
        self._event = EpisodeEvent(
            0, episode, cell.task.name, cell.task.instruction, cell.robot.name, round, False, seed, EpisodeState.RUNNING, started_ns=0
        )
        self._ticks: list[ExecutedCommand] = []
        self._proposals: list[Proposal] = []
        self._chunks, self._interventions = [], []

    @property
    def _now_ns(self) -> int:
        return round(self._cell.world.ticks * NS_PER_TICK)

    def _id(self) -> StreamId:
        return StreamId(SOURCE, next(self._ids))

    def begin(self) -> None:
        """Reset the scene; the robot stands at its start pose and the episode runs."""
        cell = self._cell
        cell.world.reset(self._event.seed)
        self._arbiter.on_joints(cell.world.qpos)
        self._arbiter.tick(-1, 0)
        self._arbiter.on_episode(self._event)
        if cell.operator is not None:
            cell.operator.begin(self._event.seed, 0)

    def propose(self) -> None:
        """Proposal and corrected chunk of what is seen now."""
        cell, now_ns = self._cell, self._now_ns
        images = observe(cell.world, cell.policy.model.facts.image_size)
        observation = Observation(now_ns, images, CAMERAS, cell.world.qpos, cell.task.instruction, self._event.episode, id=self._id())
        proposal = cell.policy.propose(observation, self._arbiter.epoch, self._id())
        chunk = self._chain.correct(proposal, now_ns, self._version, self._id())
        self._proposals.append(proposal)
        self._chunks.append(chunk)
        self._arbiter.on_chunk(chunk)

    def advance(self, n: int) -> None:
        """`n` physics steps under the arbiter's next command."""
        cell, world = self._cell, self._cell.world
        if cell.operator is not None and world.ticks % DEVICE_TICKS == 0 and self._arbiter.sent is not None:
            self._hear(cell.operator)
        now_ns = round((world.ticks + n) * NS_PER_TICK)
        self._arbiter.on_joints(world.qpos)
        decision = self._arbiter.tick(now_ns, now_ns)
        self._interventions.extend(decision.events)
        self._ticks.append(_executed(decision.command))
        world.step_physics(decision.command.positions, n)

    def _hear(self, operator: ScriptedOperator) -> None:
        now_ns = self._now_ns
        said = operator.update(now_ns, self._arbiter.sent, self._cell.world.qpos, self._cell.world.task_values)
        driven = np.arange(len(said.targets)) if said.engaged else np.empty(0, np.intp)
        self._arbiter.on_human(HumanInput(now_ns, driven, said.targets[driven], said.engaged, 'scripted', self._id()), now_ns)

    def end(self) -> OnlineEpisode:
        """Rewards placed, record closed."""
        cell, world, e, end_ns = self._cell, self._cell.world, self._event, self._now_ns
        outcome = Outcome.SUCCESS if world.success else Outcome.FAILURE if world.failure and cell.task.failure_ends else Outcome.TIMEOUT
        takeovers = 0
        if cell.operator is not None:
            takeovers = cell.operator.takeovers
            cell.operator.end()
        dt = cell.policy.model.facts.dt
        event = EpisodeEvent(
            end_ns, e.episode, e.task, e.instruction, e.robot, e.round, False, e.seed, EpisodeState.ENDED, outcome, started_ns=0,
            rewards=place_rewards(0, end_ns, outcome, self._interventions, dt),
        )  # fmt: skip
        record = EpisodeRecord(
            event, end_ns, self._ticks, self._proposals, self._chunks, self._interventions, cell.task.episode_steps, dt
        )  # fmt: skip
        return OnlineEpisode(record, world.success, takeovers)


def _executed(command: JointCommand) -> ExecutedCommand:
    return ExecutedCommand(
        command.stamp_ns, command.positions, command.positions, (), command.source, command.beta, command.epoch, command.chunk_id,
        command.step,
    )  # fmt: skip


@dataclass(frozen=True)
class OnlineRun:
    """What a run of several rounds did."""

    episodes: tuple[OnlineEpisode, ...]
    transitions: int
    human_steps: int
    steps: int


def learn(
    cell: Workcell,
    learner: OnlineLearner,
    rounds: int = 2,
    episodes: int = 10,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> OnlineRun:
    """Rounds of online episodes, the learner working off its updates after each; `learner.chain` is what the next episode runs."""
    done: list[OnlineEpisode] = []
    steps = human = seq = 0
    for number in range(rounds):
        learner.new_round(number)
        for e in range(episodes):
            scene = ONLINE_SEED + SEED_STRIDE * seed + episodes * number + e
            episode = cell.play(learner.chain, f'online-{seed}-{number}-{e}', scene, number, learner.version)
            done.append(episode)
            for transition in cut(episode.record, seq):
                learner.add(transition)
                seq += 1
            moved = [s.human for s in steps_of(episode.record)]
            steps, human = steps + len(moved), human + sum(moved)
            while learner.state is State.TRAINING:
                learner.update()
            progress(f'round {number + 1}', e + 1, episodes)
        learner.finish_round()
        while learner.state is State.TRAINING:
            learner.update()
    return OnlineRun(tuple(done), seq, human, steps)


def run(
    task: str,
    model: Path,
    *,
    variant: str = 'deployment',
    operator: str = 'skilled',
    rounds: int = 2,
    episodes: int = 10,
    trials: int = 100,
    seed: int = 0,
    config: OnlineConfig | None = None,
    robot_config: str = 'fr3_hand12',
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, object]:
    """Base alone, online rounds, the same scenes again: JSON-able successes, takeovers and human share.

    `model`: directory of base model, critic and offline transitions; `operator`: skill of the scripted person, or "none".
    """
    robot = load_robot(resolve(robot_config, 'config/robots'))
    policy = Policy.load(model, joint_names=robot.layout.names, camera_names=robot.cameras)
    config = config or OnlineConfig(seed=seed)
    learner = assemble(model, model / 'critic', model / 'offline.safetensors', robot, config, 'in-process', 'cpu')
    person = None if operator == 'none' else ScriptedOperator(task, operator, seed)
    world = SimWorld(task, ONLINE_SEED + SEED_STRIDE * seed, variant)
    cell = Workcell(world, robot, load_task(resolve(task, 'config/tasks'), robot), policy, person)

    def measured(what: str) -> dict[str, object]:
        return evaluate(
            task, policy, learner.chain, trials, seed, variant=variant, progress=lambda done, trial: progress(what, done, trials)
        )  # fmt: skip

    before = measured('base')
    learnt = learn(cell, learner, rounds, episodes, seed, progress)
    after = measured('final')
    keys = ('successes', 'trials', 'wilson95')
    return {
        'task': task, 'variant': variant, 'model': policy.model.model_id, 'seed': seed, 'operator': operator,
        'base_success': {k: before[k] for k in keys}, 'final_success': {k: after[k] for k in keys},
        'online_successes': sum(e.success for e in learnt.episodes), 'interventions': sum(e.takeovers for e in learnt.episodes),
        'human_time_fraction': learnt.human_steps / max(learnt.steps, 1), 'transitions': learnt.transitions,
    }  # fmt: skip
