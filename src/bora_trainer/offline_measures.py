"""What a run's critic is worth on episodes that were kept out of it: separation and calibration of V, task by task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bora_critic.metrics import calibration, separation
from bora_trainer.offline_batch import Fetcher
from bora_trainer.offline_data import OfflineData
from bora_trainer.offline_phase import ENCODE_BATCH, OfflinePhase

STRIDE = 4  # steps between the frames that are judged


def measure(phase: OfflinePhase, data: OfflineData) -> dict[str, dict[str, Any]]:
    """By task: AUC of V between successful and failed episodes, calibration against returns, and how many episodes of each there were."""
    frames = data.frames
    episode = np.repeat(np.arange(len(frames.episodes)), [e.steps for e in frames.episodes])
    begin = frames.end - np.array([e.steps for e in frames.episodes])[episode]
    step = np.arange(len(frames)) - begin
    rows = np.flatnonzero(step % STRIDE == 0)
    value, success = state_values(phase, data, rows), np.array([e.success for e in frames.episodes])
    result = {}
    for number, task in enumerate(frames.tasks):
        mine = frames.task[rows] == number
        some, ended = rows[mine], success[np.unique(episode[rows[mine]])]
        counts = {'n_success': int(ended.sum()), 'n_failure': int((~ended).sum())}
        judged = calibration(value[mine], data.returns[some])
        result[task] = {
            **separation(value[mine], step[some], episode[some], success[episode[some]]), **counts,
            'v_error': judged.error, 'v_bias': judged.bias, 'v_explained': judged.explained,
        }  # fmt: skip
    return result


@torch.no_grad()
def state_values(phase: OfflinePhase, data: OfflineData, rows: np.ndarray) -> np.ndarray:
    """v(z,s,0) [N] of the frames `rows` under the phase's present model and critic."""
    source = Fetcher(phase.actor.model, data, phase.device)
    critic, first = phase.critic.critic.eval(), torch.zeros(1, dtype=torch.long, device=phase.device)
    parts: list[Tensor] = []
    for begin in range(0, len(rows), ENCODE_BATCH):
        some = rows[begin : begin + ENCODE_BATCH]
        features = critic.features(phase.look(source, some))
        parts.append(critic.v(features, source.positions(data.frames.proprio[some]), first)[:, 0].cpu())
    return torch.cat(parts).numpy()
