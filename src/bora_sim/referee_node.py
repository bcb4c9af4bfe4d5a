"""The person who judges, simulated: marks success and failure as the scene's truth shows them, at the instant it shows them."""

from __future__ import annotations

from typing import Any

from bora_common import topics
from bora_common.codec import decode_episode, ns_to_stamp, stamp_to_ns
from bora_common.node import BoraNode, interface, main_of
from bora_common.parameters import Parameter
from bora_common.types import EpisodeEvent, EpisodeState
from bora_sim.referee import Referee


class RefereeNode(BoraNode):
    """Calls `mark_success` and `mark_failure`; also in evaluation episodes."""

    PARAMETERS = (Parameter('name', 'referee', 'who says so, in the marks'),)

    def __init__(self, name: str = 'referee', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._marks = {True: 0, False: 0}

    def setup(self) -> None:
        self._referee = Referee()
        self._callers = {True: self.client(topics.MARK_SUCCESS), False: self.client(topics.MARK_FAILURE)}
        self.subscribe(topics.EPISODE, lambda m: self._on_episode(decode_episode(m)))
        self.subscribe(topics.SIM_STATE, self._on_truth)

    def _on_episode(self, event: EpisodeEvent) -> None:
        self._referee.on_episode(event.episode, event.state == EpisodeState.RUNNING, event.seed, event.started_ns)

    def _on_truth(self, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp, 'sim/state.header.stamp')
        verdict = self._referee.on_truth(stamp_ns, message.seed, message.success, message.failure)
        if verdict is None:
            return
        request = interface(topics.MARK_SUCCESS.type).Request(stamp=ns_to_stamp(stamp_ns), by=self.params.name, reason='seen in the scene')
        client = self._callers[verdict]
        if not client.service_is_ready():
            self._referee.refused()
            self.drop(client.srv_name, 'the episode keeper does not answer yet')
            return
        self._marks[verdict] += 1
        client.call_async(request).add_done_callback(self.guard(self._answered, 'mark'))

    def _answered(self, future: Any) -> None:
        response = future.result()
        if not response.success:
            self.get_logger().warning(f'mark refused: {response.message}')

    def diagnostic_values(self) -> dict[str, object]:
        return {'success marks': self._marks[True], 'failure marks': self._marks[False]}


main = main_of(RefereeNode)
