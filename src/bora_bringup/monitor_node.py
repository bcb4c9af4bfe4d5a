"""The monitor as a node: chunks, value and intervention state as markers for rviz and Foxglove."""

from __future__ import annotations

from typing import Any

import numpy as np

from bora_bringup import markers
from bora_common import topics
from bora_common.codec import (
    decode_chunk,
    decode_episode,
    decode_intervention,
    decode_joint_states,
    decode_robot_mode,
    decode_scored,
    ns_to_stamp,
)
from bora_common.errors import ConfigError
from bora_common.kinematics import LINKS
from bora_common.node import BoraNode, interface, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import ActionChunk, EpisodeEvent, InterventionEvent, RobotMode, ScoredChunk


class MonitorNode(BoraNode):
    """Draws the newest of everything at a low rate; decodes a chunk only when it is drawn."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('rate', 4.0, 'of the markers', 'Hz', 0.1, 30.0),
        Parameter('publish_tf', False, 'publish /tf from the forward kinematics, where no robot_state_publisher runs'),
    )

    def __init__(self, name: str = 'monitor', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._chunk_message: Any = None
        self._chunk: ActionChunk | None = None
        self._intervention: InterventionEvent | None = None
        self._value: ScoredChunk | None = None
        self._mode: RobotMode | None = None
        self._episode: EpisodeEvent | None = None
        self._training: Any = None
        self._drawn = 0

    def setup(self) -> None:
        p = self.params
        self._layout = load_robot(resolve(p.robot_config, 'config/robots')).layout
        self._markers = self.advertise(topics.MARKERS)
        self._tf = self._advertise_tf() if p.publish_tf else None
        self.subscribe(topics.CHUNK, lambda m: setattr(self, '_chunk_message', m))
        self.subscribe(topics.VALUE, lambda m: setattr(self, '_value', decode_scored(m)))
        self.subscribe(topics.INTERVENTION, lambda m: setattr(self, '_intervention', decode_intervention(m)))
        self.subscribe(topics.ROBOT_STATE, lambda m: setattr(self, '_mode', decode_robot_mode(m)))
        self.subscribe(topics.EPISODE, lambda m: setattr(self, '_episode', decode_episode(m)))
        self.subscribe(topics.TRAINING, lambda m: setattr(self, '_training', m))
        self.timer(1.0 / p.rate, self._draw, steady=True)

    def _advertise_tf(self) -> Any:
        try:
            interface(topics.TF.type)
        except ImportError:
            raise ConfigError(f'{self.get_name()}: publish_tf needs tf2_msgs, which is not installed here') from None
        self._parents = {link.name: link.parent for link in LINKS if link.parent}
        self.subscribe(topics.JOINT_STATES, self._on_joint_states)
        return self.advertise(topics.TF)

    # --- markers --------------------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if self._markers.get_subscription_count() == 0:
            return
        message, self._chunk_message = self._chunk_message, None
        paths = []
        if message is not None:
            self._chunk = decode_chunk(message, self._layout)
            paths = markers.chunk_paths(self._chunk.base, self._chunk.positions)
        array = interface(topics.MARKERS.type)()
        array.markers = [*(self._path(p) for p in paths), *(self._label(x) for x in self._labels())]
        self._markers.publish(array)
        self._drawn += 1

    def _labels(self) -> list[markers.Label]:
        event, value, mode, episode, status = self._intervention, self._value, self._mode, self._episode, self._training
        return markers.state_labels(
            event.state if event else None, event.reason if event else '', event.beta if event else 0.0,
            (float(value.v[0]), value.risk) if value else None,
            f'hardware {mode.mode.name} {mode.reason}'.rstrip() if mode else '',
            f'episode {episode.episode} {episode.state.name}' if episode else '',
            [f'residual {status.run} round {status.round}, update {status.update}, α {status.alpha:.2f}'] if status else [],
        )  # fmt: skip

    def _marker(self, namespace: str, number: int, kind: int, colour: markers.Colour) -> Any:
        marker = interface('visualization_msgs/msg/Marker')(ns=namespace, id=number, type=kind)
        marker.header.frame_id = markers.BASE_FRAME
        marker.header.stamp = self.get_clock().now().to_msg()
        marker.pose.orientation.w = 1.0
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = colour
        return marker

    def _path(self, path: markers.Path) -> Any:
        marker = self._marker(path.namespace, path.number, 4, path.colour)  # LINE_STRIP
        marker.scale.x = path.width
        point = interface('geometry_msgs/msg/Point')
        marker.points = [point(x=float(x), y=float(y), z=float(z)) for x, y, z in path.points]
        return marker

    def _label(self, label: markers.Label) -> Any:
        marker = self._marker(label.namespace, label.number, 9 if label.text else 2, label.colour)  # TEXT_VIEW_FACING or SPHERE
        marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = label.position
        marker.scale.x = marker.scale.y = marker.scale.z = label.size
        marker.text = label.text
        return marker

    # --- transforms -----------------------------------------------------------------------------------------------------------------

    def _on_joint_states(self, msg: Any) -> None:
        stamp_ns, positions, _ = decode_joint_states(msg, self._layout)
        transform = interface('geometry_msgs/msg/TransformStamped')
        array = interface(topics.TF.type)()
        for frame, (parent, pose) in markers.transforms(np.asarray(positions), self._parents).items():
            row = transform(child_frame_id=frame)
            row.header.frame_id, row.header.stamp = parent, ns_to_stamp(stamp_ns)
            t, r = row.transform.translation, row.transform.rotation
            t.x, t.y, t.z = (float(v) for v in pose[:3, 3])
            r.x, r.y, r.z, r.w = markers.quaternion(pose[:3, :3])
            array.transforms.append(row)
        self._tf.publish(array)

    def diagnostic_values(self) -> dict[str, object]:
        return {'drawn': self._drawn}


main = main_of(MonitorNode)
