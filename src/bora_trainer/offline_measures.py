"""What a run's critic is worth on episodes that were kept out of it, task by task: separation, calibration, ranking of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bora_critic.losses import masked_error
from bora_critic.metrics import action_ranking, calibration, neighbours, separation
from bora_trainer.losses import chunk_value
from bora_trainer.offline_batch import Fetcher
from bora_trainer.offline_data import OfflineData
from bora_trainer.offline_phase import ENCODE_BATCH, OfflinePhase

STRIDE = 4  # steps between the frames that are judged


def measure(phase: OfflinePhase, data: OfflineData) -> dict[str, dict[str, Any]]:
    """By task: AUC of V between successful and failed episodes, calibration against returns, ranking of actions, counts of episodes.

    Actions are ranked between near states of different episodes: near in the tokens of the VLA, whatever the critic reads.
    """
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
            **ranking(phase, data, some, step[some], episode[some]),
        }  # fmt: skip
    return result


@torch.no_grad()
def ranking(phase: OfflinePhase, data: OfflineData, rows: np.ndarray, step: np.ndarray, episode: np.ndarray) -> dict[str, float | None]:
    """How often Q prefers the executed chunk that turned out better in one state (`bora_critic.metrics.action_ranking`). Frames `rows`."""
    source, k = Fetcher(phase.actor.model, data, phase.device), phase.critic.k
    model, critic = phase.actor.model, phase.critic.critic.eval()
    tokens, features, chunks, masks, away = [], [], [], [], []
    for begin in range(0, len(rows), ENCODE_BATCH):
        some = rows[begin : begin + ENCODE_BATCH]
        batch = source.rows(some, following=False)
        z = phase.actor.tokens(model.pixels(batch.images), batch.ids, batch.words)
        proposed = model.expert.mean(z, batch.s, z.new_zeros(len(some), model.config.knots, len(model.layout)))
        error = masked_error(batch.executed, proposed, batch.mask.unsqueeze(-1)).square().mean(-1).sum(1)
        tokens.append(z), features.append(critic.features({'tokens': z, 'images': batch.images}))
        chunks.append(batch.executed), masks.append(batch.mask), away.append(error / batch.mask.sum(1))
    z, features, chunks, masks = (torch.cat(parts) for parts in (tokens, features, chunks, masks))
    s = source.positions(data.frames.proprio[rows])
    pairs = neighbours(torch.cat([z.flatten(1), s], 1).cpu().numpy(), episode, data.returns[rows], step=step)
    steps, judged = torch.arange(k, device=phase.device), [np.zeros((0, 2, 2), np.float32)]
    for begin in range(0, len(pairs), ENCODE_BATCH):
        both = [torch.from_numpy(pairs[begin : begin + ENCODE_BATCH, side]).to(phase.device) for side in (0, 1)]
        mask = masks[both[0]] & masks[both[1]]  # what one of them did later is no difference between the two
        q = [[chunk_value(critic.q(features[at], s[at], chunks[by], steps).mean(0), mask) for by in both] for at in both]
        judged.append(torch.stack([torch.stack(values, -1) for values in q], 1).cpu().numpy())
    found = action_ranking(np.concatenate(judged), torch.cat(away).cpu().numpy()[pairs])
    return {f'ranking_{name}': number for name, number in found.items()}


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
