"""`offline_ratio`: updates a second of the offline phase at batch 64, divided by those of a bare torch loop of the same modules.

Both make the second stage's update, cloning, critic and PPO, on random frames of the table's size. The bare loop has its batch ready: no
rows are drawn, nothing is disturbed, jittered, averaged or checked.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from timing import emit, times_ms

from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_critic import targets
from bora_critic.losses import critic_loss, value_loss
from bora_critic.value_model import follow, target_of
from bora_policy.likelihood import log_ratio
from bora_trainer.dataset import Demonstrations, Episode
from bora_trainer.offline_batch import Noise
from bora_trainer.offline_config import load_config
from bora_trainer.offline_data import OfflineData
from bora_trainer.offline_phase import OfflinePhase
from bora_trainer.offline_run import make_critic, make_model
from bora_trainer.policy_losses import bc_loss, gae, ppo_loss, weigh_advantages

BATCH, EPISODES, STEPS, ROUNDS, UPDATES = 64, 8, 100, 6, 6


def frames_of(joints: int, cameras: int, size: int = 64) -> Demonstrations:
    """Random episodes of one task, every other one successful."""
    rng = np.random.default_rng(0)
    count = EPISODES * STEPS
    images = rng.integers(0, 256, (count, cameras, size, size, 3), np.uint8)
    proprio, executed, intended = (rng.normal(0, 0.3, (count, joints)).astype(np.float32) for _ in range(3))
    episodes = [Episode(f'press_{i}', 'press_button', 'press the button', STEPS, bool(i % 2), False) for i in range(EPISODES)]
    return Demonstrations(images, proprio, executed, intended, episodes)


def make_phase() -> OfflinePhase:
    """In the second stage, with the gate open."""
    config = load_config('bora-offline')
    config = dataclasses.replace(config, batch=BATCH, ppo=dataclasses.replace(config.ppo, start=0, gate='none'))
    config = dataclasses.replace(config, critic=dataclasses.replace(config.critic, warm_up=0))
    robot = load_robot(resolve(config.data.robot, 'config/robots'))
    data = OfflineData(frames_of(len(robot.layout), len(robot.cameras)), {'press_button': STEPS}, config.critic.gamma)
    model = make_model(config, robot, data.frames)
    return OfflinePhase(model, make_critic(config, model, data), data, config)


def bare(phase: OfflinePhase):
    """One update of the same modules on one batch, as a function without arguments. They are the modules of `phase`, which changes."""
    model, critic, config = phase.actor.model, phase.critic.critic, phase.config
    old, target = phase.actor.old, target_of(critic)
    generator = torch.Generator().manual_seed(0)
    rows = phase.demonstrations.rows(np.arange(BATCH))
    noise = Noise.draw(model, config.actor, BATCH, generator)
    actor_optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    critic_optimiser = torch.optim.AdamW(critic.parameters(), lr=1e-4, fused=True)
    pixels, following = model.pixels(rows.images), model.pixels(rows.next_images)
    every, first = torch.arange(phase.critic.k), torch.zeros(1, dtype=torch.long)
    steps = every[:: phase.critic.k // config.critic.sub_steps]

    def update() -> None:
        z = model.tokens(pixels, rows.ids, rows.words)
        clone, _ = bc_loss(model.expert, z, rows.s, rows.intended, rows.mask, noise.sigma, noise.knots)
        mean = model.expert.mean(z, rows.s, noise.xi)
        seen = {'tokens': z.detach()}
        with torch.no_grad():
            after = {'tokens': model.tokens(following, rows.ids, rows.words)}
            v_next = target.v(target.features(after), rows.next_s, first)[:, 0]
            y = targets.chunk(rows.reward, rows.done, rows.mask, v_next, config.critic.gamma)[:, steps]
            goal = target.q(target.features(seen), rows.s, rows.executed, steps).amin(0)
        features = critic.features(seen)
        loss_q, _ = critic_loss(critic.q(features, rows.s, rows.executed, steps), y, rows.mask[:, steps])
        loss_v, _ = value_loss(critic.v(features, rows.s, steps), goal, rows.mask[:, steps], config.critic.expectile)
        critic_optimiser.zero_grad(set_to_none=True)
        (loss_q + loss_v).backward()
        critic_optimiser.step()
        follow(target, critic, config.critic.target_rate)
        with torch.no_grad():
            features = target.features(seen)
            q, v = target.q(features, rows.s, rows.executed, every).amin(0), target.v(features, rows.s, every)
            advantage = weigh_advantages(gae(q, v, rows.done, rows.mask, config.critic.gamma, 0.0), rows.mask, config.ppo.advantage_clip)
            before = old.expert.mean(old.tokens(pixels, rows.ids, rows.words), rows.s, noise.xi)
        improve, _ = ppo_loss(log_ratio(mean, before, rows.intended), advantage, rows.mask, config.ppo.clip)
        actor_optimiser.zero_grad(set_to_none=True)
        (clone + config.ppo.weight * improve).backward()
        actor_optimiser.step()

    return update


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    phase = make_phase()
    phase.step()  # makes the old policy
    loop, ours, alone = bare(phase), [], []
    for _ in range(ROUNDS):  # in turns, so that a machine that slows down slows both
        ours += times_ms(phase.step, UPDATES, 1)
        alone += times_ms(loop, UPDATES, 1)
    ours, alone = np.median(ours), np.median(alone)
    emit({
        'offline_updates_per_s': round(1e3 / ours, 2), 'offline_bare_updates_per_s': round(1e3 / alone, 2),
        'offline_ratio': round(alone / ours, 3),
    })  # fmt: skip


if __name__ == '__main__':
    main()
