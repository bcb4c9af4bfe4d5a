"""Messages as bytes for the step log: CDR serialisation, ros2msg schema texts, and decoding of a logged topic."""

from __future__ import annotations

import importlib
import re
from typing import Any

import cv2
import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header, String

from bora_common import topics
from bora_common.codec_fields import ns_to_stamp
from bora_common.codec_learning import (
    decode_chunk,
    decode_episode,
    decode_proposal,
    decode_transition,
    decode_weights_status,
    encode_chunk,
    encode_episode,
    encode_proposal,
    encode_transition,
)
from bora_common.codec_robot import decode_executed, decode_intervention, encode_executed, encode_intervention
from bora_common.errors import CodecError
from bora_common.types import JointLayout, Transition

STRING_TYPE = 'std_msgs/msg/String'
IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
_SEPARATOR = '=' * 80
_PRIMITIVES = {'double': 'float64', 'float': 'float32', 'boolean': 'bool', 'octet': 'byte'}
_WITH_LAYOUT = {
    topics.EXECUTED.name: decode_executed,
    topics.BASE_CHUNK.name: decode_proposal,
    topics.CHUNK.name: decode_chunk,
    topics.REPLAY.name: decode_transition,
}
_WITHOUT_LAYOUT = {
    topics.EPISODE.name: decode_episode,
    topics.INTERVENTION.name: decode_intervention,
    topics.WEIGHTS_STATUS.name: decode_weights_status,
}
_ENCODE = {
    topics.EXECUTED.name: encode_executed,
    topics.BASE_CHUNK.name: encode_proposal,
    topics.CHUNK.name: encode_chunk,
    topics.EPISODE.name: lambda value, layout: encode_episode(value),
    topics.INTERVENTION.name: lambda value, layout: encode_intervention(value),
}


def message_class(type_name: str) -> type:
    """Class of "package/msg/Name"."""
    package, kind, name = type_name.split('/')
    return getattr(importlib.import_module(f'{package}.{kind}'), name)


def schema_text(type_name: str) -> str:
    """ros2msg schema of a message type, with the types it is made of behind it."""
    parts, wanted, seen = [], [type_name], {type_name}
    while wanted:
        current = wanted.pop(0)
        lines = []
        for field, kind in message_class(current).get_fields_and_field_types().items():
            text, nested = _field_type(kind)
            lines.append(f'{text} {field}')
            if nested and nested not in seen:
                seen.add(nested)
                wanted.append(nested)
        package, _, name = current.split('/')
        parts.append(('' if current == type_name else f'{_SEPARATOR}\nMSG: {package}/{name}\n') + '\n'.join(lines) + '\n')
    return ''.join(parts)


def _field_type(kind: str) -> tuple[str, str]:
    """Field type as .msg files write it, and the full name of a nested message type (or '')."""
    sequence = re.fullmatch(r'sequence<(.+?)(?:, (\d+))?>', kind)
    fixed = re.fullmatch(r'(.+)\[(\d+)\]', kind)
    suffix = ''
    if sequence:
        kind, suffix = sequence[1], f'[<={sequence[2]}]' if sequence[2] else '[]'
    elif fixed:
        kind, suffix = fixed[1], f'[{fixed[2]}]'
    if '/' in kind:
        package, name = kind.split('/')
        return f'{package}/{name}{suffix}', f'{package}/msg/{name}'
    return _PRIMITIVES.get(kind, kind) + suffix, ''


def decode_entry(topic: str, type_name: str, data: bytes, layout: JointLayout) -> Any:
    """Value of a logged message, by the codec that the live topic has. Raises CodecError where the bytes are not a message."""
    msg = from_bytes(data, type_name)
    if topic in _WITH_LAYOUT:
        return _WITH_LAYOUT[topic](msg, layout)
    return _WITHOUT_LAYOUT[topic](msg)


def encode_entry(topic: str, value: Any, layout: JointLayout) -> bytes:
    """CDR bytes of a value for a logged stream, by the codec that the live topic has."""
    return serialize_message(_ENCODE[topic](value, layout))


def from_bytes(data: bytes, type_name: str) -> Any:
    """Message from CDR bytes."""
    try:
        return deserialize_message(bytes(data), message_class(type_name))
    except RuntimeError as error:  # what rclpy raises for bytes that are no message of the type
        raise CodecError(f'{type_name}: {len(data)} bytes are not a message: {error}') from None


def to_bytes(msg: Any) -> bytes:
    """CDR bytes of a message."""
    return serialize_message(msg)


def transition_bytes(value: Transition, layout: JointLayout) -> bytes:
    return serialize_message(encode_transition(value, layout))


def text_bytes(text: str) -> bytes:
    return serialize_message(String(data=text))


def text_of(data: bytes) -> str:
    return from_bytes(data, STRING_TYPE).data


def frame_bytes(image: np.ndarray, stamp_ns: int, camera: str, encoding: str, quality: int) -> bytes:
    """CDR bytes of an rgb8 image [H, W, 3] as sensor_msgs/CompressedImage; `encoding` is "jpeg" or "png"."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == 'jpeg' else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, packed = cv2.imencode('.jpg' if encoding == 'jpeg' else '.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise CodecError(f'frames/{camera}: image of shape {image.shape} can\'t be encoded as {encoding}')
    msg = CompressedImage(header=Header(stamp=ns_to_stamp(stamp_ns), frame_id=f'camera_{camera}_color_optical_frame'), format=encoding)
    msg.data.frombytes(packed.tobytes())
    return serialize_message(msg)


def frame_of(data: bytes) -> np.ndarray:
    """rgb8 image [H, W, 3] of a logged frame. Raises CodecError where it can't be decoded."""
    image = cv2.imdecode(np.frombuffer(from_bytes(data, IMAGE_TYPE).data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise CodecError('frame: not an image')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
