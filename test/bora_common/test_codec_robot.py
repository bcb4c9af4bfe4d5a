"""Joint states, trajectories, camera images and stamps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from bora_common import codec
from bora_common.errors import CodecError, NotFiniteError
from bora_common.types import JointLayout

LAYOUT = JointLayout(['arm_1', 'arm_2', 'finger_1'])
fast = settings(max_examples=40, deadline=None)


@fast
@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_round_trip_exactly(ns):
    assert codec.stamp_to_ns(codec.ns_to_stamp(ns)) == ns


@pytest.mark.parametrize('ns', [-1, 2**31 * 10**9])
def test_stamps_out_of_range_are_refused(ns):
    with pytest.raises(CodecError, match='stamp'):
        codec.ns_to_stamp(ns)


@fast
@given(order=st.permutations(range(5)), velocities=st.booleans(), seed=st.integers(0, 999))
def test_joint_states_are_mapped_by_name_and_extra_joints_ignored(order, velocities, seed):
    rng = np.random.default_rng(seed)
    names = np.array([*LAYOUT.names, 'wheel', 'gripper'])
    q, v = rng.normal(size=(2, 5))
    order = list(order)
    msg = codec.encode_joint_states(77, names[order].tolist(), q[order], v[order] if velocities else None)
    stamp, positions, speeds = codec.decode_joint_states(deserialize_message(serialize_message(msg), type(msg)), LAYOUT)
    assert stamp == 77
    np.testing.assert_array_equal(positions, q[:3])
    np.testing.assert_array_equal(speeds, v[:3] if velocities else np.zeros(3))


def test_joint_states_that_lack_a_joint_name_it():
    msg = codec.encode_joint_states(0, ['arm_1', 'finger_1'], np.zeros(2))
    with pytest.raises(CodecError, match=r'joint_states\.position: joint "arm_2" is missing'):
        codec.decode_joint_states(msg, LAYOUT)


def test_joint_states_with_other_sizes_twice_a_name_or_nan_are_refused():
    msg = codec.encode_joint_states(0, LAYOUT.names, np.zeros(3), np.zeros(3))
    msg.velocity = msg.velocity[:2]
    with pytest.raises(CodecError, match=r'joint_states\.velocity'):
        codec.decode_joint_states(msg, LAYOUT)
    msg = codec.encode_joint_states(0, LAYOUT.names, np.zeros(3))
    msg.name = ['arm_1', 'arm_1', 'finger_1']
    with pytest.raises(CodecError, match='twice'):
        codec.decode_joint_states(msg, LAYOUT)
    msg = codec.encode_joint_states(0, LAYOUT.names, np.zeros(3))
    msg.position[1] = float('nan')
    with pytest.raises(CodecError, match='not finite'):
        codec.decode_joint_states(msg, LAYOUT)


def test_joint_trajectory_is_one_point_with_stamp_zero():
    msg = codec.encode_joint_trajectory(['a', 'b'], np.array([1.0, 2.0]), np.array([0.1, 0.2]), 0.02)
    assert msg.joint_names == ['a', 'b'] and len(msg.points) == 1
    assert (msg.header.stamp.sec, msg.header.stamp.nanosec) == (0, 0)
    point = msg.points[0]
    assert list(point.positions) == [1.0, 2.0] and list(point.velocities) == [0.1, 0.2]
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 20_000_000)


@pytest.mark.parametrize('positions, error', [(np.zeros(3), CodecError), (np.array([0.0, np.nan]), NotFiniteError)])
def test_a_broken_trajectory_is_never_made(positions, error):
    with pytest.raises(error, match=r'joint_trajectory\.positions'):
        codec.encode_joint_trajectory(['a', 'b'], positions, None, 0.02)


@fast
@given(height=st.integers(1, 9), width=st.integers(1, 9), pad=st.integers(0, 5), encoding=st.sampled_from(['rgb8', 'bgr8']))
def test_images_round_trip_with_padded_rows_and_either_channel_order(height, width, pad, encoding):
    image = np.random.default_rng(height * 10 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    msg = codec.image_to_msg(image, 5, 'camera')
    assert (msg.height, msg.width, msg.step, msg.encoding, msg.header.frame_id) == (height, width, 3 * width, 'rgb8', 'camera')
    stored = image if encoding == 'rgb8' else image[..., ::-1]
    padded = np.zeros((height, 3 * width + pad), np.uint8)
    padded[:, : 3 * width] = stored.reshape(height, -1)
    msg.encoding, msg.step, msg.data = encoding, 3 * width + pad, padded.tobytes()
    np.testing.assert_array_equal(codec.image_from_msg(deserialize_message(serialize_message(msg), type(msg))), image)


@pytest.mark.parametrize(
    'field, value',
    [('encoding', 'mono8'), ('height', 0), ('width', 0), ('step', 5), ('height', 3), ('step', 13), ('height', 2**31), ('data', b'')],
)
def test_images_that_do_not_add_up_are_refused(field, value):
    msg = codec.image_to_msg(np.zeros((2, 4, 3), np.uint8), 0, '')
    setattr(msg, field, value)
    with pytest.raises(CodecError, match='camera_left'):
        codec.image_from_msg(msg, 'camera_left')


@pytest.mark.parametrize('shape, dtype', [((2, 4), np.uint8), ((2, 4, 4), np.uint8), ((2, 4, 3), np.float64), ((0, 4, 3), np.uint8)])
def test_only_colour_images_are_written(shape, dtype):
    image = np.zeros(shape, dtype)
    with pytest.raises(CodecError, match='image: expected uint8'):
        codec.image_to_msg(image, 0, '')
