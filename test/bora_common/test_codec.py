"""Every codec: round trips over the wire, free joint order, and hostile messages that must be refused by name."""

from __future__ import annotations

import array
import copy
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

sys.path.insert(0, str(Path(__file__).parent))
from codec_cases import CASES, LAYOUT, D, proposals, transitions

from bora_common import codec
from bora_common.errors import CodecError, NotFiniteError
from bora_common.node import interface
from bora_common.topics import TOPICS
from bora_common.types import JointCommand, Observation, Source

every_codec = pytest.mark.parametrize('case', CASES, ids=lambda c: c.topic)
with_joints = [c for c in CASES if 'joint_names' in interface(TOPICS[c.topic].type).get_fields_and_field_types()]
every_codec_of_joints = pytest.mark.parametrize('case', with_joints, ids=lambda c: c.topic)
fast = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
NUMERIC = {'sequence<double>', 'sequence<float>'}


def wire(msg):
    """The message as a subscriber gets it."""
    return deserialize_message(serialize_message(msg), type(msg))


def assert_equal(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y and type(x) is type(y), field.name


@every_codec
@fast
@given(data=st.data())
def test_round_trip_over_the_wire(case, data):
    value = data.draw(case.values)
    msg = case.encode(value)
    assert type(msg) is interface(TOPICS[case.topic].type)
    assert_equal(value, case.decode(wire(msg)))


@every_codec_of_joints
@fast
@given(data=st.data())
def test_joint_order_is_free(case, data):
    msg = case.encode(data.draw(case.values))
    expected = case.decode(msg)
    n = len(msg.joint_names)
    order = data.draw(st.permutations(range(n)))
    shuffled = copy.deepcopy(msg)
    shuffled.joint_names = [msg.joint_names[i] for i in order]
    for field in ('positions', 'requested', 'proprio', 'next_proprio', 'base_positions', 'vla_positions', 'executed_positions'):
        if n and hasattr(msg, field):
            rows = np.array(getattr(msg, field)).reshape(-1, n)
            setattr(shuffled, field, array.array('d', rows[:, order].ravel().tolist()))
    if case.topic == 'human_command':
        got = case.decode(shuffled)
        assert dict(zip(got.indices, got.positions, strict=True)) == dict(zip(expected.indices, expected.positions, strict=True))
    else:
        assert_equal(expected, case.decode(shuffled))


@every_codec_of_joints
@fast
@given(data=st.data())
def test_wrong_joint_names_are_refused(case, data):
    msg = case.encode(data.draw(case.values))
    names = list(msg.joint_names)
    assume(names)  # a device that drives nothing names nothing
    hostile = [[*names[:-1], 'arm_9'], [*names, names[0]], [*names, 'arm_9']]
    if case.topic != 'human_command':
        hostile += [names[:-1], [], [*names[:-1], names[0]]]
    for wrong in hostile:
        if len(wrong) == len(set(wrong)) and set(wrong) == set(LAYOUT.names):
            continue
        broken = copy.deepcopy(msg)
        broken.joint_names = wrong
        with pytest.raises(CodecError, match=case.topic + r'\.'):
            case.decode(broken)


@every_codec
@fast
@given(data=st.data(), bad=st.sampled_from([float('nan'), float('inf'), -float('inf')]))
def test_not_finite_is_refused_by_field(case, data, bad):
    msg = case.encode(data.draw(case.values))
    for field, kind in type(msg).get_fields_and_field_types().items():
        broken = copy.deepcopy(msg)
        if kind in NUMERIC and len(getattr(msg, field)):
            getattr(broken, field)[data.draw(st.integers(0, len(getattr(msg, field)) - 1))] = bad
        elif kind == 'double':
            setattr(broken, field, bad)
        else:
            continue
        with pytest.raises(NotFiniteError, match=rf'{case.topic}\.{field}'):
            case.decode(broken)


@every_codec
@fast
@given(data=st.data(), change=st.sampled_from([-1, 1, 7]))
def test_wrong_lengths_are_refused(case, data, change):
    msg = case.encode(data.draw(case.values))
    sequences = {f: k for f, k in type(msg).get_fields_and_field_types().items() if k in NUMERIC | {'sequence<uint8>', 'sequence<boolean>'}}
    for field in sequences:
        if case.topic == 'weights':
            continue
        values = list(getattr(msg, field))
        broken = copy.deepcopy(msg)
        fill = values[:1] or [0]
        changed = values[:change] if change < 0 else values + fill * change
        setattr(broken, field, type(getattr(msg, field))(*_like(getattr(msg, field), changed)))
        if len(getattr(broken, field)) == len(values):
            continue
        with pytest.raises(CodecError, match=rf'{case.topic}\.{field}: expected|value\.'):
            case.decode(broken)


def _like(field, values):
    return (field.typecode, values) if isinstance(field, array.array) else (values,)


@every_codec
@fast
@given(data=st.data())
def test_enumerations_out_of_range_are_refused(case, data):
    msg = case.encode(data.draw(case.values))
    for field in ('source', 'mode', 'state', 'previous', 'outcome'):
        if hasattr(msg, field):
            broken = copy.deepcopy(msg)
            setattr(broken, field, 250)
            with pytest.raises(CodecError, match=rf'{case.topic}\.{field}: expected one of .*found 250'):
                case.decode(broken)


@every_codec
@fast
@given(data=st.data())
def test_shares_and_periods_out_of_range_are_refused(case, data):
    msg = case.encode(data.draw(case.values))
    wrong = {'dt': (0.0, -0.1, 61.0), 'steps': (0, 1025, 2**32 - 1), 'beta': (-0.01, 1.01), 'alpha': (-0.01, 1.01), 'risk': (2.0,)}
    wrong['skew'] = wrong['spread'] = (-1.0,)
    for field, values in wrong.items():
        for value in values if isinstance(getattr(msg, field, None), (int, float)) else ():
            broken = copy.deepcopy(msg)
            setattr(broken, field, value)
            with pytest.raises(CodecError, match=rf'{case.topic}\.{field}: expected'):
                case.decode(broken)


@every_codec
@fast
@given(data=st.data())
def test_a_stamp_out_of_range_is_refused(case, data):
    msg = case.encode(data.draw(case.values))
    msg.header.stamp.nanosec = 2_000_000_000
    with pytest.raises(CodecError, match=rf'{case.topic}\.header\.stamp'):
        case.decode(msg)
    msg.header.stamp.nanosec, msg.header.stamp.sec = 0, -1
    with pytest.raises(CodecError, match=rf'{case.topic}\.header\.stamp'):
        case.decode(msg)


@every_codec
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_gives_a_value_or_a_codec_error(case, data):
    """Whatever a publisher fills in, the receiver gets a whole value or a CodecError: never another exception, never NaN."""
    msg = case.encode(data.draw(case.values))
    kinds = type(msg).get_fields_and_field_types()
    for field in data.draw(st.lists(st.sampled_from(sorted(set(kinds) - {'header', 'id'})), min_size=1, max_size=4)):
        kind = kinds[field]
        if kind in NUMERIC:
            code = 'd' if 'double' in kind else 'f'
            setattr(msg, field, array.array(code, data.draw(st.lists(st.floats(width=32), max_size=80))))
        elif kind == 'sequence<uint8>':
            setattr(msg, field, array.array('B', data.draw(st.binary(max_size=200))))
        elif kind == 'sequence<boolean>':
            setattr(msg, field, data.draw(st.lists(st.booleans(), max_size=50)))
        elif kind == 'sequence<string>':
            setattr(msg, field, data.draw(st.lists(st.sampled_from([*LAYOUT.names, '', 'x']), max_size=5)))
        elif kind == 'double':
            setattr(msg, field, data.draw(st.floats()))
        elif kind in ('uint8', 'uint32'):
            setattr(msg, field, data.draw(st.integers(0, 2 ** int(kind[4:]) - 1)))
        elif kind == 'int32':
            setattr(msg, field, data.draw(st.integers(-(2**31), 2**31 - 1)))
        elif kind == 'string':
            setattr(msg, field, data.draw(st.text(max_size=8)))
    try:
        value = case.decode(wire(msg) if data.draw(st.booleans()) else msg)
    except CodecError as error:
        assert case.topic in str(error)
        return
    for field in dataclasses.fields(value):
        x = getattr(value, field.name)
        if isinstance(x, np.ndarray) and x.dtype.kind == 'f':
            assert np.isfinite(x).all()


@every_codec
@fast
@given(data=st.data())
def test_values_with_nan_or_wrong_shape_are_not_written(case, data):
    value = data.draw(case.values)
    arrays = [f.name for f in dataclasses.fields(value) if isinstance(getattr(value, f.name), np.ndarray)]
    for name in arrays:
        good = getattr(value, name)
        if good.size == 0 or name == 'indices':
            continue
        with pytest.raises(CodecError):
            case.encode(dataclasses.replace(value, **{name: np.concatenate([good, good], axis=0 if name == 'tokens' else -1)}))
        if good.dtype.kind == 'f':
            bad = good.copy()
            bad.flat[-1] = np.nan
            with pytest.raises(NotFiniteError):
                case.encode(dataclasses.replace(value, **{name: bad}))


def test_observation_cameras_are_put_in_the_expected_order():
    images = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    decode = codec.decode_observation
    msg = codec.encode_observation(Observation(1, images, ('front', 'right', 'left'), np.zeros(D), ''), LAYOUT)
    got = decode(msg, LAYOUT, cameras=('left', 'front', 'right'))
    assert got.camera_names == ('left', 'front', 'right')
    np.testing.assert_array_equal(got.images, images[[2, 0, 1]])
    with pytest.raises(CodecError, match=r"camera_names: expected \['left', 'top', 'right'\]"):
        decode(msg, LAYOUT, cameras=('left', 'top', 'right'))
    msg.camera_names = ['front', 'front', 'left']
    with pytest.raises(CodecError, match='unique names'):
        decode(msg, LAYOUT)
    msg.camera_names, msg.height = ['front', 'right', 'left'], 2**31
    with pytest.raises(CodecError, match='observation.images'):
        decode(msg, LAYOUT)


@pytest.mark.parametrize('dtype, bound', [('float32', 0.0), ('float16', 1e-3)])
@fast
@given(value=proposals())
def test_token_dtypes(dtype, bound, value):
    got = codec.decode_proposal(wire(codec.encode_proposal(value, LAYOUT, token_dtype=dtype)), LAYOUT)
    assert got.tokens.dtype == np.float32
    np.testing.assert_allclose(got.tokens, value.tokens, rtol=bound, atol=bound)


@fast
@given(value=proposals())
def test_unknown_token_dtype_is_refused(value):
    msg = codec.encode_proposal(value, LAYOUT)
    msg.token_dtype = 'bfloat16'
    with pytest.raises(CodecError, match=r'base_chunk\.tokens: expected dtype float32 or float16, found "bfloat16"'):
        codec.decode_proposal(msg, LAYOUT)


@fast
@given(value=transitions())
def test_first_beyond_the_chunk_is_refused(value):
    msg = codec.encode_transition(value, LAYOUT)
    msg.first = msg.steps + 1
    with pytest.raises(CodecError, match=r'replay\.first'):
        codec.decode_transition(msg, LAYOUT)


def test_decoded_arrays_do_not_share_the_message():
    msg = codec.encode_command(JointCommand(0, np.zeros(D), Source.POLICY), LAYOUT)
    value = codec.decode_command(msg, LAYOUT)
    msg.positions[0] = 5.0
    assert value.positions[0] == 0.0
