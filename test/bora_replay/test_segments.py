import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.stream_reader import StreamReader

from bora_common.errors import LogError
from bora_replay.segments import ChannelSpec, SegmentReader, SegmentWriter

CHANNELS = {t: ChannelSpec(t, 'std_msgs/msg/String', 'string data\n') for t in ('x', 'y')}


def text(value):
    body = value.encode() + b'\0'
    return b'\0\1\0\0' + struct.pack('<I', len(body)) + body


def written(path, batches=8, close=True):
    """A segment of batches of two messages; the number of messages that are on disk at each size."""
    writer, sizes = SegmentWriter(path, CHANNELS), []
    for n in range(batches):
        writer.append('x', text(f'hello {n} ' * 12), 10 * n, 10 * n)
        writer.append('y', text(str(n)), 10 * n + 1, 10 * n)
        writer.commit()
        sizes.append((writer.size, 2 * (n + 1)))
    if close:
        writer.close()
    return sizes


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp('log') / 'a.mcap'
    sizes = written(path)
    return path.read_bytes(), sizes


def test_what_was_written_is_read_in_order(tmp_path):
    written(tmp_path / 'a.mcap')
    entries = list(SegmentReader(tmp_path / 'a.mcap'))
    assert [(e.topic, e.log_ns, e.publish_ns, e.index) for e in entries[2:4]] == [('x', 10, 10, 0), ('y', 11, 10, 1)]
    assert entries[3].data == text('1') and entries[3].type == 'std_msgs/msg/String'
    again = SegmentReader(tmp_path / 'a.mcap').at(entries[3].offset)
    assert again[1] == entries[3]


def test_the_file_follows_the_specification(tmp_path):
    written(tmp_path / 'a.mcap')
    with open(tmp_path / 'a.mcap', 'rb') as file:
        records = list(StreamReader(file, validate_crcs=True).records)
    assert sum(type(r).__name__ == 'Message' for r in records) == 16


def test_nothing_is_on_disk_before_a_commit(tmp_path):
    writer = SegmentWriter(tmp_path / 'a.mcap', CHANNELS)
    writer.append('x', text('a'), 1, 1)
    assert list(SegmentReader(tmp_path / 'a.mcap')) == []
    writer.commit()
    assert len(list(SegmentReader(tmp_path / 'a.mcap'))) == 1
    assert writer.commit() == -1
    writer.close()
    writer.close()


def test_cut_off_at_every_byte_everything_committed_is_there(tmp_path, data):
    whole, sizes = data
    path = tmp_path / 't.mcap'
    chunks_end = [(size, count) for size, count in sizes]
    for length in range(len(whole) - 2048 if len(whole) > 2048 else 0, len(whole) + 1):
        path.write_bytes(whole[:length])
        reader = SegmentReader(path)
        found = len(list(reader))
        committed = max((count for size, count in chunks_end if size <= length), default=0)
        assert reader.damage.corrupt == 0
        assert committed <= found <= committed + 2  # the index behind the last chunk may be missing


def test_any_flipped_byte_costs_one_batch_at_most(tmp_path, data):
    whole, sizes = data
    path = tmp_path / 't.mcap'
    begin = sizes[0][0]
    for place in range(begin, sizes[-2][0], 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        reader = SegmentReader(path)
        found = len(list(reader))
        assert found >= 14
        assert reader.damage.corrupt == (1 if found < 16 else reader.damage.corrupt)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_behind_the_last_batch_is_a_torn_tail(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp('log') / 'a.mcap'
    written(path, 3, close=False)
    path.write_bytes(path.read_bytes() + garbage)
    reader = SegmentReader(path)
    assert len(list(reader)) == 6 and reader.damage.corrupt == 0


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / 'a.mcap'
    path.write_bytes(b'')
    assert list(SegmentReader(path)) == []
    path.write_bytes(b'something else entirely')
    reader = SegmentReader(path)
    assert list(reader) == [] and reader.damage.corrupt == 1
    with pytest.raises(LogError, match='can\'t be created'):
        SegmentWriter(path, CHANNELS)
