"""Scores proposals: pairs each corrected chunk with the tokens it came from and asks the critic. numpy at the edge, no ROS."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch

from bora_common.errors import CodecError
from bora_common.types import ActionChunk, Proposal, ScoredChunk, StreamId
from bora_critic.critic import Critic

MEMORY = 64  # proposals and chunks kept while their partner is on the way


class Pairing:
    """Matches proposals and chunks by the proposal's id, in whichever order they arrive; forgets the oldest beyond a bound."""

    def __init__(self, memory: int = MEMORY):
        self._memory = memory
        self._proposals: OrderedDict[StreamId, Proposal] = OrderedDict()
        self._chunks: OrderedDict[StreamId, ActionChunk] = OrderedDict()
        self.unmatched = 0  # chunks forgotten without a partner

    def add_proposal(self, proposal: Proposal) -> tuple[Proposal, ActionChunk] | None:
        """The pair that this proposal completes, if its chunk is already here."""
        self._proposals[proposal.id] = proposal
        if len(self._proposals) > self._memory:
            self._proposals.popitem(last=False)
        chunk = self._chunks.pop(proposal.id, None)
        return None if chunk is None else (proposal, chunk)

    def add_chunk(self, chunk: ActionChunk) -> tuple[Proposal, ActionChunk] | None:
        """The pair that this chunk completes, if its proposal is already here."""
        proposal = self._proposals.get(chunk.base_id)
        if proposal is not None:
            return proposal, chunk
        self._chunks[chunk.base_id] = chunk
        if len(self._chunks) > self._memory:
            self._chunks.popitem(last=False)
            self.unmatched += 1
        return None


class Scorer:
    """Critic's judgement of a chunk in SI units."""

    def __init__(self, critic: Critic):
        self.critic = critic.eval()

    def risk(self, value: float) -> float:
        """1 - value scaled to the range of returns, clipped to [0, 1]."""
        low, high = self.critic.spec.return_range
        return float(np.clip(1.0 - (value - low) / max(high - low, 1e-6), 0.0, 1.0))

    @torch.no_grad()
    def score(self, proposal: Proposal, chunk: ActionChunk) -> ScoredChunk:
        """Raises CodecError for a proposal of another model or other shapes."""
        spec = self.critic.spec
        if proposal.model_id != spec.model_id:
            raise CodecError(f'base_chunk: model {proposal.model_id[:12]}, the critic reads tokens of {spec.model_id[:12]}')
        tokens, positions = (len(spec.token_names), spec.token_width), (spec.k, len(spec.joints))
        if proposal.tokens.shape != tokens or chunk.positions.shape != positions:
            raise CodecError(
                f'base_chunk/chunk: tokens {proposal.tokens.shape} and positions {chunk.positions.shape}, expected {tokens} and {positions}'
            )
        z = torch.as_tensor(proposal.tokens, dtype=torch.float32).unsqueeze(0)
        s = self.critic.normalize(torch.as_tensor(proposal.proprio, dtype=torch.float32)).unsqueeze(0)
        a = self.critic.normalize(torch.as_tensor(chunk.positions, dtype=torch.float32)).unsqueeze(0)
        q, v = self.critic.q(z, s, a)[:, 0], self.critic.v(z, s)[0]
        spread = q.mean(1).std(unbiased=False).item()
        return ScoredChunk(
            stamp_ns=chunk.stamp_ns,
            chunk_id=chunk.id,
            q=q.amin(0).double().numpy(),
            v=v.double().numpy(),
            spread=spread,
            risk=self.risk(v[0].item()),
        )
