"""The base policy as the robot sees it: an observation in, a proposal out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bora_common.errors import ModelError
from bora_common.types import Observation, Proposal, StreamId
from bora_policy.vla import BoraVLA


def noise_seed(episode: str, stamp_ns: int) -> int:
    """Seed of an observation's inference noise, so that a run can be repeated."""
    return int.from_bytes(hashlib.sha256(f'{episode}:{stamp_ns}'.encode()).digest()[:8], 'little')


class Policy:
    """A loaded VLA behind value types."""

    def __init__(self, model: BoraVLA, denoise_steps: int = 0):
        """`denoise_steps`: of the action expert; 0 takes the model's own."""
        self.model = model
        self.denoise_steps = denoise_steps or model.config.denoise_steps

    @staticmethod
    def load(
        path: str | Path,
        *,
        joint_names: Sequence[str] | None = None,
        camera_names: Sequence[str] | None = None,
        device: str = 'cpu',
        denoise_steps: int = 0,
    ) -> Policy:
        """From a model directory. Raises ModelError also when it was made for other joints or cameras."""
        expected = {
            'joint_names': None if joint_names is None else tuple(joint_names),
            'camera_names': None if camera_names is None else tuple(camera_names),
        }
        return Policy(BoraVLA.from_pretrained(path, **expected).to(device), denoise_steps)

    def propose(self, observation: Observation, epoch: int = 0, proposal_id: StreamId | None = None) -> Proposal:
        """The chunk and tokens proposed for one observation."""
        return self.propose_batch([observation], epoch, [proposal_id or StreamId()])[0]

    def propose_batch(
        self, observations: Sequence[Observation], epoch: int = 0, ids: Sequence[StreamId] | None = None
    ) -> list[Proposal]:
        """As `propose`, for several observations in one forward pass."""
        facts = self.model.facts
        images = np.stack([self._images(o) for o in observations])
        proprio = np.stack([o.proprio for o in observations])
        if proprio.shape[1:] != (len(facts.joint_names),):
            raise ModelError(f'observation: proprioception of {proprio.shape[1:]}, the model takes {len(facts.joint_names)} joints')
        noise = np.stack([self._noise(o) for o in observations], axis=1)
        tokens, positions = self.model.propose(images, proprio, [o.instruction for o in observations], noise)
        if not np.all(np.isfinite(positions)):
            raise ModelError('base model: proposed a chunk that is not finite')
        return [
            Proposal(
                stamp_ns=o.stamp_ns, positions=positions[i], dt=facts.dt, tokens=tokens[i], token_names=facts.token_names,
                proprio=np.asarray(o.proprio), model_id=self.model.model_id, epoch=epoch, episode=o.episode, observation_id=o.id,
                id=ids[i] if ids else StreamId(),
            )
            for i, o in enumerate(observations)
        ]  # fmt: skip

    def _images(self, observation: Observation) -> np.ndarray:
        """Images [C,H,W,3] in the model's camera order."""
        wanted = self.model.facts.camera_names
        if observation.camera_names == wanted:
            return observation.images
        missing = [c for c in wanted if c not in observation.camera_names]
        if missing:
            raise ModelError(f'observation: camera "{missing[0]}" is missing, the model takes {list(wanted)}')
        return observation.images[[observation.camera_names.index(c) for c in wanted]]

    def _noise(self, observation: Observation) -> np.ndarray:
        """Inference noise [n,K,D]."""
        generator = np.random.default_rng(noise_seed(observation.episode, observation.stamp_ns))
        return generator.standard_normal((self.denoise_steps, self.model.config.knots, len(self.model.facts.joint_names)))
