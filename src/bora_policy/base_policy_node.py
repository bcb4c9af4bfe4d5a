"""Node `base_policy`: the frozen VLA, observation -> base_chunk."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch

from bora_common import codec, topics
from bora_common.errors import ConfigError
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import Observation
from bora_policy.pacing import EpochLog, Mailbox
from bora_policy.policy import Policy

JOIN_TIMEOUT = 5.0  # s


class BasePolicyNode(BoraNode):
    """Thin shell over `Policy`; inference runs in one thread beside the callbacks, so that the newest observation always wins."""

    PARAMETERS = (
        Parameter('model', 'press_button', 'model directory, or its name within models/'),
        Parameter('robot_config', 'fr3_hand12', 'robot description, a file or its name within config/robots/'),
        Parameter('device', 'cpu', 'torch device, such as cpu or cuda:0'),
        Parameter('threads', 1, 'threads of torch; 0 leaves them as they are', low=0, high=64),
        Parameter('max_rate', 15.0, 'largest rate of proposals, of ROS time', unit='Hz', low=0.1, high=60.0),
        Parameter('denoise_steps', 0, "denoising steps of the action expert; 0 takes the model's own", low=0, high=100),
        Parameter('token_dtype', 'float32', 'number format of the tokens on the topic', choices=('float32', 'float16')),
    )

    def __init__(self, name: str = 'base_policy', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._thread: threading.Thread | None = None

    def setup(self) -> None:
        if self.params.threads:
            torch.set_num_threads(self.params.threads)
        if self.params.device.startswith('cuda') and not torch.cuda.is_available():
            raise ConfigError(f'base_policy: parameter "device": {self.params.device} was asked for, but torch finds no CUDA device')
        robot = load_robot(resolve(self.params.robot_config, 'config/robots'))
        self._layout = robot.layout
        self._policy = Policy.load(
            resolve(self.params.model, 'models'), joint_names=robot.layout.names, camera_names=robot.cameras,
            device=self.params.device, denoise_steps=self.params.denoise_steps,
        )  # fmt: skip
        self._epochs, self._mailbox = EpochLog(), Mailbox(self.params.max_rate)
        self._condition = threading.Condition()
        self._running = False
        self._proposed, self._latency_ms = 0, 0.0
        self._publisher = self.advertise(topics.BASE_CHUNK)
        self.subscribe(topics.OBSERVATION, self._on_observation)
        self.subscribe(topics.INTERVENTION, self._on_intervention)

    def start(self) -> None:
        self._running = True
        self._thread = threading.Thread(target=self.guard(self._work, 'inference'), name='inference', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._condition:
            self._running = False
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_TIMEOUT)

    def _on_observation(self, msg: Any) -> None:
        observation = codec.decode_observation(msg, self._layout, self._policy.model.facts.camera_names)
        with self._condition:
            self._mailbox.offer(observation)
            self._condition.notify()

    def _on_intervention(self, msg: Any) -> None:
        event = codec.decode_intervention(msg)
        with self._condition:
            self._epochs.add(event)

    def _work(self) -> None:
        while True:
            with self._condition:
                observation = self._mailbox.take()
                while observation is None and self._running:
                    self._condition.wait()
                    observation = self._mailbox.take()
                if not self._running:
                    return
                epoch = self._epochs.at(observation.stamp_ns)
            self._propose(observation, epoch)

    def _propose(self, observation: Observation, epoch: int) -> None:
        begin = time.perf_counter()
        proposal = self._policy.propose(observation, epoch, self.next_id('base_chunk'))
        if not self._running:
            return  # stopped meanwhile: publishers are inactive
        self._publisher.publish(codec.encode_proposal(proposal, self._layout, self.params.token_dtype))
        self._proposed += 1
        self._latency_ms = (time.perf_counter() - begin) * 1e3

    def diagnostic_values(self) -> dict[str, object]:
        return {
            'model': self._policy.model.model_id[:12],
            'proposals': self._proposed,
            'inference [ms]': round(self._latency_ms, 2),
            'observations replaced by newer ones': self._mailbox.skipped,
        }


main = main_of(BasePolicyNode)

if __name__ == '__main__':
    main()
