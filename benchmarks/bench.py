"""Timings of this machine, written to build/bench.json: `make bench`. Each figure is p50, p99 and n, or a ratio measured in this run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bora_bringup.summary import percentiles, provenance
from bora_common.paths import resolve
from bora_policy.policy import Policy
from bora_replay.buffer import TransitionBuffer
from bora_sim.world import CAMERAS, SimWorld

TASK = 'press_button'
OUT = Path('build/bench.json')


def times_ms(work: Callable[[], object], n: int, warm_up: int = 3) -> list[float]:
    """Milliseconds of `n` calls."""
    for _ in range(warm_up):
        work()
    spent = []
    for _ in range(n):
        begin = time.perf_counter()
        work()
        spent.append((time.perf_counter() - begin) * 1e3)
    return spent


def simulation() -> dict[str, object]:
    """Simulated seconds a second without images; milliseconds for the three cameras at the size the graph uses."""
    world = SimWorld(TASK, 0)
    target = world.targets
    seconds = 5.0
    begin = time.perf_counter()
    for _ in range(round(seconds * 100)):
        world.step_physics(target)
    factor = seconds / (time.perf_counter() - begin)
    return {'sim_realtime_factor': round(factor, 1), 'render_ms': percentiles(times_ms(lambda: world.render(160, 120, CAMERAS), 50))}


def proposal() -> dict[str, object]:
    """Milliseconds of one proposal of the shipped model: images to chunk."""
    policy = Policy.load(resolve(TASK, 'models'))
    facts = policy.model.facts
    shape = (1, len(facts.camera_names), facts.image_size, facts.image_size, 3)
    images, proprio = np.zeros(shape, np.uint8), np.zeros((1, len(facts.joint_names)))
    noise = np.zeros((policy.denoise_steps, 1, policy.model.config.knots, len(facts.joint_names)))
    return {'proposal_ms': percentiles(times_ms(lambda: policy.model.propose(images, proprio, ['press'], noise), 100))}


def replay() -> dict[str, object]:
    """Time of sampling a batch ÷ time of copying the same bytes."""
    buffer = TransitionBuffer.load(resolve(TASK, 'models') / 'offline.safetensors')
    rng = np.random.default_rng(0)
    batch = buffer.sample(rng, 64)
    arrays = [np.asarray(v) for v in batch.values()]
    sample = np.median(times_ms(lambda: buffer.sample(rng, 64), 200))
    copy = np.median(times_ms(lambda: [a.copy() for a in arrays], 200))
    return {'replay_sample_ratio': round(float(sample / copy), 2)}


def main() -> None:
    torch.set_num_threads(1)
    figures = {**simulation(), **proposal(), **replay(), **provenance(0)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=1) + '\n')
    print(json.dumps(figures, indent=1))


if __name__ == '__main__':
    main()
