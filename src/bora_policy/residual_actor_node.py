"""Node `residual_actor`: base_chunk -> chunk through the residual chain; weights -> gate -> weights_status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bora_common import codec, topics
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import StreamMonitor, WeightsStatus
from bora_policy.gate import Decision, WeightsGate
from bora_policy.manifest import read_manifest
from bora_policy.residual import ResidualChain, ResidualSpec
from bora_policy.vla import load_normalizer


class ResidualActorNode(BoraNode):
    """Thin shell over `WeightsGate` and its chain. Callbacks take turns, so weights are swapped between chunks."""

    PARAMETERS = (
        Parameter('model', 'press_button', 'directory of the base model, or its name within models/'),
        Parameter('robot_config', 'fr3_hand12', 'robot description, a file or its name within config/robots/'),
        Parameter('state_dir', '', 'folder that keeps the last accepted weights across restarts; empty keeps none'),
        Parameter(
            'max_jump', 1.0, "largest accepted change by new weights on the last observations, in multiples of a joint's residual bound",
            low=0.0, high=10.0,
        ),
        Parameter('history', 16, 'observations that new weights are compared on', low=1, high=1024),
        Parameter('threads', 1, 'threads of torch; 0 leaves them as they are', low=0, high=64),
    )  # fmt: skip

    def __init__(self, name: str = 'residual_actor', **kwargs: Any):
        super().__init__(name, **kwargs)

    def setup(self) -> None:
        if self.params.threads:
            torch.set_num_threads(self.params.threads)
        robot = load_robot(resolve(self.params.robot_config, 'config/robots'))
        folder = resolve(self.params.model, 'models')
        facts, model_id = read_manifest(folder)
        facts.expect(folder, joint_names=robot.layout.names)
        spec = ResidualSpec(facts.steps, len(robot.layout), len(facts.token_names), facts.token_width)
        zero = ResidualChain(spec, load_normalizer(folder), robot.residual_bound, robot.layout.names)
        state_dir = Path(self.params.state_dir).expanduser() if self.params.state_dir else None
        self._layout = robot.layout
        self._gate = WeightsGate(zero, model_id, self.params.max_jump, state_dir, self.params.history)
        self._monitor = StreamMonitor()
        self._chunks, self._accepted, self._refused = 0, 0, 0
        self._chunk_publisher, self._status_publisher = self.advertise(topics.CHUNK), self.advertise(topics.WEIGHTS_STATUS)
        self.subscribe(topics.BASE_CHUNK, self._on_base_chunk)
        self.subscribe(topics.WEIGHTS, self._on_weights)
        self._restored = self._gate.restore()

    def on_activate(self, state: Any) -> Any:
        result = super().on_activate(state)
        if self._restored is not None:  # publishers work from here on
            self._answer(self._restored)
            self._restored = None
        return result

    def _on_base_chunk(self, msg: Any) -> None:
        proposal = codec.decode_proposal(msg, self._layout)
        if not self._monitor.accept(proposal.id):
            return
        chunk = self._gate.chain.correct(proposal, self.now_ns(), self._gate.version, self.next_id('chunk'))
        self._chunk_publisher.publish(codec.encode_chunk(chunk, self._layout))
        self._gate.remember(proposal)
        self._chunks += 1

    def _on_weights(self, msg: Any) -> None:
        self._answer(self._gate.consider(codec.decode_weights(msg)))

    def _answer(self, decision: Decision) -> None:
        self._accepted += decision.accepted
        self._refused += not decision.accepted
        if decision.accepted:  # two call sites: rclpy refuses one that changes its severity
            self.get_logger().info(f'weights {decision.version} accepted: {decision.reason}')
        else:
            self.get_logger().warning(f'weights {decision.version} refused: {decision.reason}')
        status = WeightsStatus(
            self.now_ns(), decision.version, decision.accepted, decision.reason, self._gate.version, self.next_id('weights_status')
        )  # fmt: skip
        self._status_publisher.publish(codec.encode_weights_status(status))

    def diagnostic_values(self) -> dict[str, object]:
        return {
            'weights': str(self._gate.version),
            'alpha': self._gate.chain.alpha,
            'chunks': self._chunks,
            'weights accepted': self._accepted,
            'weights refused': self._refused,
        }


main = main_of(ResidualActorNode)

if __name__ == '__main__':
    main()
