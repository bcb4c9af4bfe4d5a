"""The perception node: camera images and joint states in, observations at the model's size out."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from bora_common import topics
from bora_common.codec import decode_episode, decode_joint_states, encode_observation, image_from_msg, stamp_to_ns
from bora_common.errors import ConfigError
from bora_common.images import to_model_size
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.topics import TopicSpec
from bora_common.types import EpisodeEvent, EpisodeState, Observation
from bora_perception.synchronizer import ImageSet, Synchronizer, SyncSettings

_DEFAULT = SyncSettings()
_TOPIC = topics.camera_image('{camera}').name


class PerceptionNode(BoraNode):
    """Every arrival may complete a set; a set becomes an observation at once."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('image_topic', _TOPIC, 'image topic of a camera; {camera} stands for its name'),
        Parameter('image_size', 64, 'side of the square images of an observation', 'px', 8, 1024),
        Parameter('max_rate', _DEFAULT.max_rate, 'highest rate of observations', 'Hz', 0.1, 120.0),
        Parameter('max_skew', _DEFAULT.max_skew, 'largest difference of stamps between the images of an observation', 's', 0.0, 1.0),
        Parameter('max_age', _DEFAULT.max_age, 'age of the oldest image beyond which a set is dropped', 's', 0.01, 60.0),
        Parameter('max_joint_gap', _DEFAULT.max_joint_gap, 'largest gap between the joint states around an image', 's', 0.001, 1.0),
        Parameter('camera_timeout', _DEFAULT.camera_timeout, 'silence of a camera or of /joint_states that is an error', 's', 0.05, 60.0),
        Parameter('startup_timeout', _DEFAULT.startup_timeout, 'time for cameras and /joint_states to appear', 's', 0.5, 600.0),
    )

    def __init__(self, name: str = 'perception', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._synchronizer: Synchronizer | None = None
        self._episode: EpisodeEvent | None = None
        self._trouble = ''
        self._count = 0
        self._monitor = None

    def setup(self) -> None:
        p = self.params
        if '{camera}' not in p.image_topic:
            raise ConfigError(f'{self.get_name()}: parameter "image_topic": "{p.image_topic}" lacks {{camera}}')
        self._robot = load_robot(resolve(p.robot_config, 'config/robots'))
        self._settings = SyncSettings(p.max_rate, p.max_skew, p.max_age, p.max_joint_gap, p.camera_timeout, p.startup_timeout)
        self._synchronizer = Synchronizer(self._robot.cameras, self._settings, time.monotonic_ns())
        self._topics = {}
        self._observations = self.advertise(topics.OBSERVATION)
        self.subscribe(topics.JOINT_STATES, self._on_joint_states)
        self.subscribe(topics.EPISODE, self._on_episode)
        for camera in self._robot.cameras:
            standard = topics.camera_image(camera)
            spec = TopicSpec(p.image_topic.replace('{camera}', camera), standard.type, standard.reliable, depth=standard.depth)
            self._topics[f'camera "{camera}"'] = self.subscribe(spec, partial(self._on_image, camera)).topic_name

    def start(self) -> None:
        self._synchronizer = Synchronizer(self._robot.cameras, self._settings, time.monotonic_ns())
        self._trouble = ''
        self._monitor = self.timer(0.2, self._watch, steady=True)

    def stop(self) -> None:
        self.destroy_timer(self._monitor)

    # --- inputs -------------------------------------------------------------------------------------------------------------------

    def _on_image(self, camera: str, message: Any) -> None:
        image = image_from_msg(message, f'camera {camera}')
        if self._synchronizer.offer_image(camera, stamp_to_ns(message.header.stamp), image, time.monotonic_ns()):
            self._observe()

    def _on_joint_states(self, message: Any) -> None:
        stamp_ns, positions, _ = decode_joint_states(message, self._robot.layout)
        if self._synchronizer.offer_joints(stamp_ns, positions, time.monotonic_ns()):
            self._observe()

    def _on_episode(self, message: Any) -> None:
        event = decode_episode(message)
        if event.state != EpisodeState.AMENDED:  # speaks of an episode that is over
            self._episode = event

    # --- output -------------------------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        found = self._synchronizer.take(self.now_ns())
        if found is not None:
            self._observations.publish(encode_observation(self._observation(found), self._robot.layout))
            self._count += 1

    def _observation(self, found: ImageSet) -> Observation:
        event = self._episode
        running = event is not None and event.state == EpisodeState.RUNNING and found.stamp_ns >= event.started_ns
        return Observation(
            stamp_ns=found.stamp_ns,
            images=np.stack([to_model_size(image, self.params.image_size) for image in found.images]),
            camera_names=self._robot.cameras,
            proprio=found.proprio,
            instruction=event.instruction if event is not None else '',
            episode=event.episode if running else '',
            skew=found.skew,
            id=self.next_id('observation'),
        )

    # --- silence ------------------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Name a source that is silent once, and its return once."""
        trouble = self._synchronizer.trouble(time.monotonic_ns())
        if trouble:
            source = trouble.split(':')[0]
            trouble += f'; expected messages on {self._topics.get(source, topics.JOINT_STATES.name)}'
        if trouble and not self._trouble:
            self.get_logger().error(f'no observations: {trouble}')
        elif self._trouble and not trouble:
            self.get_logger().info('observations go on')
        self._trouble = trouble

    def degraded(self) -> str:
        return self._trouble

    def diagnostic_values(self) -> dict[str, object]:
        silent = ', '.join(self._synchronizer.silent(time.monotonic_ns()))
        dropped = {f'dropped: {reason}': count for reason, count in sorted(self._synchronizer.dropped.items())}
        return {'observations': self._count, 'silent': silent or 'none', **dropped}


main = main_of(PerceptionNode)
