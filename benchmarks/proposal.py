"""`proposal_ms`: the shipped model alone, from images to chunk, as the policy process would need it without a graph around it."""

from __future__ import annotations

import numpy as np
import torch
from timing import emit, times_ms

from bora_bringup.summary import percentiles
from bora_common.paths import resolve
from bora_policy.policy import Policy


def main() -> None:
    torch.set_num_threads(1)
    policy = Policy.load(resolve('press_button', 'models'))
    facts = policy.model.facts
    images = np.zeros((1, len(facts.camera_names), facts.image_size, facts.image_size, 3), np.uint8)
    proprio = np.zeros((1, len(facts.joint_names)))
    noise = np.zeros((policy.denoise_steps, 1, policy.model.config.knots, len(facts.joint_names)))
    emit({'proposal_ms': percentiles(times_ms(lambda: policy.model.propose(images, proprio, ['press'], noise), 100))})


if __name__ == '__main__':
    main()
