"""Messages as bytes: schema texts that other tools parse, text lines, frames."""

import numpy as np
import pytest
from mcap.records import Schema
from mcap_ros2.decoder import DecoderFactory

from bora_common import topics
from bora_common.codec import encode_episode
from bora_common.codec_record import (
    decode_entry,
    frame_bytes,
    frame_of,
    from_bytes,
    message_class,
    schema_text,
    text_bytes,
    text_of,
    to_bytes,
)
from bora_common.errors import CodecError
from bora_common.types import EpisodeEvent, EpisodeState, JointLayout, Outcome, RewardEvent, StreamId

LAYOUT = JointLayout(['a'])
EVENT = EpisodeEvent(
    5, 'e-0001', 'task', 'do it', 'robot', 2, False, -1, EpisodeState.ENDED, Outcome.SUCCESS, 'seen', 3, (RewardEvent(5, 'success', 1.0),),
    StreamId(9, 4),
)  # fmt: skip


@pytest.mark.parametrize('spec', [s for s in topics.TOPICS.values() if not s.type.startswith(('tf2_msgs', 'visualization'))])
def test_a_schema_text_decodes_what_the_middleware_wrote(spec):
    schema = Schema(id=1, name=spec.type, encoding='ros2msg', data=schema_text(spec.type).encode())
    decoded = DecoderFactory().decoder_for('cdr', schema)(to_bytes(message_class(spec.type)()))
    assert set(message_class(spec.type).get_fields_and_field_types()) <= set(dir(decoded))


def test_an_event_survives_the_log_and_reads_the_same_with_other_tools():
    data = to_bytes(encode_episode(EVENT))
    assert decode_entry('episode', topics.EPISODE.type, data, LAYOUT) == EVENT
    schema = Schema(id=1, name=topics.EPISODE.type, encoding='ros2msg', data=schema_text(topics.EPISODE.type).encode())
    decoded = DecoderFactory().decoder_for('cdr', schema)(data)
    assert (decoded.episode, decoded.seed, decoded.rewards[0].name, decoded.started.nanosec) == ('e-0001', -1, 'success', 3)


def test_text_survives():
    assert text_of(text_bytes('{"a": 1}')) == '{"a": 1}'


def test_frames_keep_their_colours():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24, 0], image[:, 24:, 2] = 200, 100
    np.testing.assert_array_equal(frame_of(frame_bytes(image, 7, 'left', 'png', 90)), image)
    packed = frame_bytes(image, 7, 'left', 'jpeg', 90)
    assert np.abs(frame_of(packed).astype(int) - image)[:, :16].mean() < 5
    message = from_bytes(packed, 'sensor_msgs/msg/CompressedImage')
    assert (message.header.frame_id, message.header.stamp.nanosec, message.format) == ('camera_left_color_optical_frame', 7, 'jpeg')


def test_bytes_that_are_no_message_are_refused_by_name():
    with pytest.raises(CodecError, match='Episode: 3 bytes are not a message'):
        from_bytes(b'abc', topics.EPISODE.type)
