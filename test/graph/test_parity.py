"""The graph and one process play the same evaluation episode: what differs is timing, and all of it is named here.

The graph's step log is the reference. First, what each part of the graph made of its input is what its core makes of it in this process:
an observation's proposal, a chunk's commands, what the safety filter lets pass, the joints' motion under it and the instant of success.
Then the loop is closed: `Workcell` plays the scene again, with its own physics, images and proposals. What the graph does otherwise
for a real reason is given to it:
  * inference noise is seeded by episode and observation: the process uses the graph's names and stamps;
  * a chunk is adopted when it arrives, and inference takes its time while the robot goes on: the log says at which step, and which one;
  * the robot rests at the task's start pose, reached by a reset, where `bora eval` draws a pose around it for each scene;
  * a command is due two ticks after it was sent (joint_trajectory_controller), where a rollout gives it to the drives a tick ahead.
What is left is below a step: the first chunk is adopted within a step and not at its beginning, the filter smooths the first jump (so
the comparison starts once both are over), and the controllers interpolate cubically.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bora_bringup.graph import online, parse_arguments
from bora_common import topics
from bora_common.codec import decode_episode, decode_observation
from bora_common.paths import resolve
from bora_common.robot import load_robot, load_task
from bora_common.types import EpisodeState, Outcome, WeightsVersion
from bora_hil.chunk_player import ChunkPlayer
from bora_hw.safety import SafePoint, SafetyFilter
from bora_policy.policy import Policy
from bora_replay.cutter import Grid, steps_of
from bora_replay.steplog import read_episodes
from bora_rollout.batch import zero_chain
from bora_rollout.online import Workcell
from bora_sim.conditions import DEPLOYMENT
from bora_sim.controller import JointTrajectoryController
from bora_sim.simulated_robot import step_ns
from bora_sim.world import CONTROL_TICKS, STEP_TICKS, SimWorld

pytestmark = pytest.mark.timeout(400)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
TASK = load_task(resolve('press_button', 'config/tasks'), ROBOT)
SEED, OTHER_SEED = 1_000_001, 1_000_003
DEADLINE = 150.0  # s, of every wait; a busy machine takes its time
NODES = ('hardware', 'perception', 'base_policy', 'residual_actor', 'arbiter', 'episode_keeper', 'replay', 'simulated_robot', 'referee')
PATIENCE = {  # a busy machine must make the simulation wait and not the robot hold
    'simulated_robot': {'lockstep_timeout': 10.0},
    'hardware': {n: 60.0 for n in ('joint_state_timeout', 'clock_timeout', 'controller_timeout')} | {'command_timeout': 5.0},
    'perception': {'camera_timeout': 60.0},
}
OBJECTS = 'deployment'  # as in `bora demo`
CONTROLLER_LAG = 6  # physics steps: two ticks from a command to its due time
SETTLE = 180  # physics steps at the start pose; a multiple of 60, after which control ticks and frames fall together again
SETTLED = 12  # step from which the first chunk has faded in and the safety filter has caught up with it
UNUSED = -1  # epoch of a proposal that the arbiter is to drop
FLOAT32 = 1e-5  # rad, of a forward pass in float32 on another number of threads
ROUNDING = 1e-9  # rad, of float64 values, which the messages carry whole
REST = 1e-5  # rad, between the start pose and where the reset leaves the joints
INTERPOLATION = 2e-3  # rad, of joint states to an image's stamp between two ticks
CLOSED_LOOP = 0.03  # rad; three runs stayed below 0.01, other scenes are 0.19 away


def physics_step(stamp_ns):
    return round(stamp_ns * 300 / 1e9)


class Played:
    """One evaluation episode of the graph: its step log, and the observations as they were on the wire."""

    def __init__(self, graph, folder):
        described = online(parse_arguments(['operator=none', f'run_dir={folder}', 'realtime_factor=0.5', f'objects={OBJECTS}']), PATIENCE)
        for process in described.processes:
            nodes = [n for n in process.nodes if n.name in NODES]
            if nodes:
                graph.start(*(n.name for n in nodes), parameters={n.name: n.parameters for n in nodes})
        self.states = {}
        graph.on(topics.DIAGNOSTICS, lambda m: self.states.update({s.name: s.message for s in m.status}))
        names = [f'{graph.namespace}/{n}' for n in NODES]
        graph.wait(lambda: all(self.states.get(n, 'not active') != 'not active' for n in names), 'nodes to work', DEADLINE)
        observed = graph.record(topics.OBSERVATION)
        name = self._play(graph, observed)
        for process in graph.processes:
            process.stop()
        (self.episode,) = read_episodes(folder)
        assert self.episode.event.episode == name
        self.observations = [decode_observation(m, ROBOT.layout, ROBOT.cameras) for m in observed if m.episode == name]
        record = self.episode.record
        self.grid = Grid(min(p.stamp_ns for p in record.proposals), record.dt)
        self.origin = physics_step(self.grid.t0_ns)
        self.ticks = [t for t in record.executed if self.grid.t0_ns < t.stamp_ns <= record.end_ns]
        self.chunks = {c.id: c for c in record.chunks}

    def _play(self, graph, observed):
        episodes = graph.record(topics.EPISODE)
        request = graph.request(topics.START_EPISODE)
        request.task, request.seed, request.evaluation = TASK.name, SEED, True
        answer = graph.call(topics.START_EPISODE, request, DEADLINE)
        assert answer.success, answer.message

        def over():
            events = [decode_episode(m) for m in episodes]
            return any(e.episode == answer.episode and e.state == EpisodeState.ENDED for e in events)

        graph.wait(over, 'the end of the episode', DEADLINE)
        seen = len(observed)
        graph.wait(lambda: len(observed) > seen + 3, 'the robot to rest: a stop must not fall into the episode', DEADLINE)
        return answer.episode

    @property
    def adoptions(self):
        """(tick, chunk) wherever the arbiter went over to another chunk."""
        found = []
        for tick in self.ticks:
            if tick.chunk_id and (not found or found[-1][1].id != tick.chunk_id):
                found.append((tick, self.chunks[tick.chunk_id]))
        return found


def at_rest(world, phase):
    """As the graph begins an episode: the robot stands at the task's start pose, `phase` physics steps after its grids coincided."""
    world.teleport(TASK.start_pose)
    world.step_physics(TASK.start_pose, SETTLE + phase)


class Bench(SimWorld):
    """The workplace of the graph for `Workcell`: its drives lag by what the controllers take."""

    def __init__(self, seed, phase):
        self._phase = phase
        super().__init__(TASK.name, seed, OBJECTS, conditions=replace(DEPLOYMENT, latency=DEPLOYMENT.latency + CONTROLLER_LAG))

    def reset(self, seed):
        super().reset(seed)
        at_rest(self, self._phase)


class AsInTheGraph:
    """A policy with the graph's noise that answers at the step at which the graph's arbiter adopted the answer."""

    def __init__(self, policy, played):
        self.model, self._policy, self._played = policy.model, policy, played
        # not at step 0: the arbiter begins the episode's epoch with its first tick, and drops a proposal from before
        self._adopted = {max(1, played.grid.step_at(t.stamp_ns)): played.grid.index(c.stamp_ns) for t, c in played.adoptions}
        self.proprio, self._made = [], {}

    def propose(self, observation, epoch, proposal_id):
        step = len(self.proprio)
        self.proprio.append(observation.proprio)
        if step in self._adopted.values() or not self._made:
            named = replace(
                observation, episode=self._played.episode.event.episode, stamp_ns=step_ns(self._played.origin + STEP_TICKS * step)
            )  # fmt: skip
            made = self._policy.propose(named, epoch, proposal_id)
            self._made[step] = replace(made, stamp_ns=observation.stamp_ns, episode=observation.episode)
        source = self._adopted.get(step)
        if source is None:
            return replace(self._made[max(self._made)], epoch=UNUSED, id=proposal_id)
        return replace(self._made[source], epoch=epoch, id=proposal_id)


class Twin:
    """The episode in one process."""

    def __init__(self, policy, played, seed):
        answers = AsInTheGraph(policy, played)
        world = Bench(seed, played.origin % 60)
        cell = Workcell(world, ROBOT, TASK, answers, None)
        end = cell.play(zero_chain(policy, ROBOT.residual_bound), 'twin', seed, 0, WeightsVersion())
        self.success, self.commands = end.success, np.stack([s.executed for s in steps_of(end.record)])
        self.proprio = np.stack(answers.proprio)


def difference(a, b):
    """Largest absolute difference over the steps that both have, rad."""
    n = min(len(a), len(b))
    return float(np.abs(np.asarray(a)[:n] - np.asarray(b)[:n]).max())


def same_proposals(policy, played):
    """What the model says of an observation does not depend on which side asks it."""
    proposals = {p.observation_id: p for p in played.episode.record.proposals}
    pairs = [(o, proposals[o.id]) for o in played.observations if o.id in proposals][:8]
    assert pairs
    return max(difference(policy.propose(o).positions, p.positions) for o, p in pairs)


def same_playing(played):
    """Largest difference of the arbiter's commands from the chunks' own course, within what the joints' velocities allow in a tick."""
    adopted, player, worst = {id(t): c for t, c in played.adoptions}, None, 0.0
    for before, tick in zip(played.ticks, played.ticks[1:], strict=False):
        if id(tick) in adopted:
            player = ChunkPlayer(adopted[id(tick)], tick.stamp_ns, before.requested, player)
        if player is not None and tick.chunk_id:  # the last ticks may be those of a hold already
            reach = ROBOT.velocity * ((tick.stamp_ns - before.stamp_ns) * 1e-9)
            command = np.clip(player.position(tick.stamp_ns), before.requested - reach, before.requested + reach)
            worst = max(worst, difference(np.clip(command, ROBOT.lower, ROBOT.upper), tick.requested))
    return worst


def filtered(played):
    """What the safety filter makes of the arbiter's commands; the robot rested before the first."""
    first, *ticks = played.ticks
    safety, before, points = SafetyFilter(ROBOT, 0.01), first, [SafePoint(first.positions, np.zeros(len(first.positions)))]
    safety.reset(first.positions)
    for tick in ticks:
        points.append(safety.filter(tick.requested, (tick.stamp_ns - before.stamp_ns) * 1e-9))
        before = tick
    return points


def motion(played, points, seed):
    """(joints at the beginning of each step, physics step of success or None) in a scene, under the points that the graph sent."""
    begin, end = played.origin, physics_step(played.episode.record.end_ns)
    world = SimWorld(TASK.name, seed, OBJECTS)
    at_rest(world, begin % 60)
    groups = [(ROBOT.group_indices(g.name), g) for g in ROBOT.groups]
    controllers = [(at, JointTrajectoryController(g.controller, g.joints, TASK.start_pose[at])) for at, g in groups]
    sent = {physics_step(t.stamp_ns): p for t, p in zip(played.ticks, points, strict=True)}
    now, targets, joints, won = begin, TASK.start_pose.copy(), [world.qpos], None
    while now < end:
        for at, controller in controllers:
            if now in sent:
                controller.receive(controller.joints, [(sent[now].positions[at], sent[now].velocities[at], 20_000_000)], step_ns(now))
            if now % CONTROL_TICKS == 0:
                targets[at] = controller.update(step_ns(now + CONTROL_TICKS))
        until = min(now - now % CONTROL_TICKS + CONTROL_TICKS, begin + STEP_TICKS * len(joints), end)
        world.step_physics(targets, until - now)
        now = until
        if now == begin + STEP_TICKS * len(joints):
            joints.append(world.qpos)
        if world.success and won is None and now % CONTROL_TICKS == 0:  # as the referee, who sees the scene after a tick
            won = now
    return joints, won


def test_the_graph_and_one_process_play_the_same_steps(graph, tmp_path):
    played = Played(graph, tmp_path / 'run')
    record, outcome = played.episode.record, played.episode.event.outcome
    assert outcome in (Outcome.SUCCESS, Outcome.TIMEOUT)
    assert [t.hold_reason for t in played.ticks if t.held] == []
    assert np.all(np.diff([t.stamp_ns for t in played.ticks]) == 10_000_000)  # lock-step: no tick is missing
    seen = {played.grid.index(p.stamp_ns): p.proprio for p in record.proposals}
    policy = Policy.load(resolve(TASK.name, 'models'), joint_names=ROBOT.layout.names, camera_names=ROBOT.cameras)
    check_parts(played, policy, seen)
    check_closed_loop(played, policy, seen)


def check_parts(played, policy, seen):
    """Each core on the graph's own input."""
    record, points = played.episode.record, filtered(played)
    joints, won = motion(played, points, SEED)
    steps = [j for j in seen if j < len(joints)]
    apart = {j: difference([seen[j]], [joints[j]]) for j in steps}
    found = {
        'proposals': same_proposals(policy, played), 'playing': same_playing(played),
        'filter': difference([p.positions for p in points], [t.positions for t in played.ticks]),
        'joints': max(apart.values()),
        'joints on a tick': max(d for j, d in apart.items() if (played.origin + STEP_TICKS * j) % CONTROL_TICKS == 0),
    }  # fmt: skip
    assert len(steps) > 15 and found['proposals'] < FLOAT32, found
    assert max(found['playing'], found['filter']) < ROUNDING, found
    assert found['joints on a tick'] < REST and found['joints'] < INTERPOLATION, found
    success = record.episode.outcome == Outcome.SUCCESS
    assert won == (physics_step(record.end_ns) if success else None), found
    early = [points[0], *points[:-1]]  # a tick of delay would show
    assert difference([seen[j] for j in steps], [motion(played, early, SEED)[0][j] for j in steps]) > 3 * INTERPOLATION
    assert not success or motion(played, points, OTHER_SEED)[1] is None  # in another scene the same motion does not press


def check_closed_loop(played, policy, seen):
    """The whole episode in one process."""
    record, outcome = played.episode.record, played.episode.event.outcome
    twin, other = Twin(policy, played, SEED), Twin(policy, played, OTHER_SEED)
    asked = [replace(t, positions=t.requested) for t in record.executed]
    commands = np.stack([s.executed for s in steps_of(replace(record, executed=asked))])

    def apart(process):
        """(commands, joints) of the graph against a process: largest difference in rad."""
        n = min(len(commands), len(process.commands), len(process.proprio))
        steps = [j for j in seen if SETTLED <= j < n]
        joints = difference([seen[j] for j in steps], process.proprio[steps])
        return difference(commands[SETTLED:n], process.commands[SETTLED:n]), joints

    found = {'steps': (len(commands), len(twin.commands)), 'same scene': apart(twin), 'other scene': apart(other)}
    assert twin.success == (outcome == Outcome.SUCCESS), found
    assert abs(len(commands) - len(twin.commands)) <= 1, found  # an end within a step may fall on its other side
    assert max(found['same scene']) < CLOSED_LOOP, found
    assert min(found['other scene']) > 4 * CLOSED_LOOP, found  # another scene is another episode
