"""Worlds that plan together, against the plain loop over one world."""

import os

os.environ.setdefault('MUJOCO_GL', 'egl')

import numpy as np
import pytest
import torch

from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import Normalizer, Observation, StreamId, WeightsVersion
from bora_hil.chunk_player import FADE_STEPS, ChunkPlayer
from bora_policy.policy import Policy
from bora_policy.vla import build, small_vlm
from bora_rollout.batch import NS_PER_TICK, rollouts, zero_chain
from bora_sim.demos import observe
from bora_sim.tasks import make_task
from bora_sim.world import CAMERAS, CONTROL_TICKS, STEP_TICKS, SimWorld

torch.set_num_threads(1)
ROBOT = load_robot(resolve('fr3_hand12', 'config/robots'))
TASK = 'press_button'
STEPS = 24  # of an episode here: one whole horizon and a half


@pytest.fixture(scope='module')
def policy():
    torch.manual_seed(0)
    normalizer = Normalizer(make_task(TASK).start_pose, np.full(19, 0.05))
    model = build(ROBOT.layout, ROBOT.cameras, normalizer, vlm=small_vlm(64, 80, width=16, layers=1), knots=4, hidden=16, blocks=1)
    return Policy(model.requires_grad_(False).eval())


class ShortWorld(SimWorld):
    """A press-button world whose episodes are short and end in success as soon as the hand has moved enough."""

    def __init__(self, enough: float = np.inf):
        task = make_task(TASK)
        task.episode_steps = STEPS
        self.enough = enough
        super().__init__(task)

    @property
    def success(self) -> bool:
        return bool(np.abs(self.qpos - self.start).max() > self.enough)


def plain(world, policy, chain, seed):
    """One episode, written out: the reference. (success, steps, executed [N,D], proprio [N,D])."""
    world.reset(seed)
    sent, player, executed, proprio = world.targets, None, [], []
    for step in range(world.task.episode_steps):
        now = round(world.ticks * NS_PER_TICK)
        if step % policy.model.facts.horizon == 0:
            images = observe(world, policy.model.facts.image_size)
            seen = Observation(now, images, CAMERAS, world.qpos, world.task.instruction, f'evaluation-{seed}')
            chunk = chain.correct(policy.propose(seen), now, WeightsVersion(), StreamId())
            player = ChunkPlayer(chunk, now, sent, player, fade_steps=FADE_STEPS if player else 0)
        proprio.append(world.qpos)
        done = 0
        while done < STEP_TICKS:
            n = min(CONTROL_TICKS - world.ticks % CONTROL_TICKS, STEP_TICKS - done)
            done += n
            sent = player.position(round((world.ticks + n) * NS_PER_TICK))
            world.step_physics(sent, n)
        executed.append(sent)
        if world.success:
            return True, step + 1, np.stack(executed), np.stack(proprio)
    return False, world.task.episode_steps, np.stack(executed), np.stack(proprio)


def test_a_batch_of_one_is_the_plain_loop(policy):
    chain = zero_chain(policy, ROBOT.residual_bound)
    ended = list(rollouts([ShortWorld()], policy, chain, [7, 8], record=True))
    assert [e.trial.seed for e in ended] == [7, 8]
    for one in ended:
        success, steps, executed, proprio = plain(ShortWorld(), policy, chain, one.trial.seed)
        assert (one.trial.success, one.trial.steps) == (success, steps)
        assert np.array_equal(one.episode.executed, executed) and np.array_equal(one.episode.proprio, proprio)
        assert one.episode.images.shape == (steps, 3, 64, 64, 3) and one.episode.name == f'own_{one.trial.seed}'


def test_outcomes_do_not_depend_on_how_many_worlds_plan_together(policy):
    chain, seeds = zero_chain(policy, ROBOT.residual_bound), range(40, 46)
    world = ShortWorld()
    moved = [np.abs((path := plain(world, policy, chain, s)[3]) - path[0]).max() for s in seeds]
    world.enough = float(np.median(moved))  # some succeed, at different steps, and some do not
    alone = [plain(world, policy, chain, s)[:2] for s in seeds]
    worlds = [ShortWorld(world.enough) for _ in range(5)]
    together = {e.trial.seed: (e.trial.success, e.trial.steps) for e in rollouts(worlds, policy, chain, seeds)}
    assert [together[s] for s in seeds] == alone
    assert {success for success, _ in alone} == {True, False}


def test_the_world_of_an_ended_episode_stands_where_it_ended(policy):
    chain = zero_chain(policy, ROBOT.residual_bound)
    for ended in rollouts([ShortWorld() for _ in range(2)], policy, chain, [1, 2, 3]):
        assert ended.world.seed == ended.trial.seed and ended.world.ticks == STEPS * STEP_TICKS
        assert ended.episode is None


def test_no_scenes_no_episodes(policy):
    assert list(rollouts([ShortWorld()], policy, zero_chain(policy, ROBOT.residual_bound), [])) == []
