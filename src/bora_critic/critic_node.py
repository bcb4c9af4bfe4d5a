"""Node `critic`: scores every corrected chunk with the tokens it came from, base_chunk + chunk -> value."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bora_common import codec, topics
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import ActionChunk, Proposal
from bora_critic.critic import load_critic
from bora_critic.scoring import Pairing, Scorer


class CriticNode(BoraNode):
    """Thin shell over `Pairing` and `Scorer`."""

    PARAMETERS = (
        Parameter('critic', 'press_button/critic', 'directory of the critic, or its name within models/'),
        Parameter('robot_config', 'fr3_hand12', 'robot description, a file or its name within config/robots/'),
        Parameter('threads', 1, 'threads of torch; 0 leaves them as they are', low=0, high=64),
    )

    def __init__(self, name: str = 'critic', **kwargs: Any):
        super().__init__(name, **kwargs)

    def setup(self) -> None:
        if self.params.threads:
            torch.set_num_threads(self.params.threads)
        self._layout = load_robot(resolve(self.params.robot_config, 'config/robots')).layout
        self._scorer = Scorer(load_critic(resolve(self.params.critic, 'models'), joints=self._layout.names))
        self._pairing = Pairing()
        self._scored, self._risk = 0, 0.0
        self._publisher = self.advertise(topics.VALUE)
        self.subscribe(topics.BASE_CHUNK, self._on_base_chunk)
        self.subscribe(topics.CHUNK, self._on_chunk)

    def _on_base_chunk(self, msg: Any) -> None:
        self._score(self._pairing.add_proposal(codec.decode_proposal(msg, self._layout)))

    def _on_chunk(self, msg: Any) -> None:
        self._score(self._pairing.add_chunk(codec.decode_chunk(msg, self._layout)))

    def _score(self, pair: tuple[Proposal, ActionChunk] | None) -> None:
        if pair is None:
            return
        scored = dataclasses.replace(self._scorer.score(*pair), id=self.next_id('value'))
        self._scored, self._risk = self._scored + 1, scored.risk
        self._publisher.publish(codec.encode_scored(scored))

    def diagnostic_values(self) -> dict[str, object]:
        return {'scored': self._scored, 'risk': round(self._risk, 3), 'unmatched': self._pairing.unmatched}


main = main_of(CriticNode)

if __name__ == '__main__':
    main()
