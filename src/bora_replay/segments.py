"""Durable MCAP segments: batches of messages, each one compressed chunk with a CRC, written and fsynced as a whole.

A reader accepts a file that stops at any byte: what was committed is there, the torn tail is told apart from damage before it. The
files follow the MCAP specification (profile ros2), so that any MCAP tool reads them; damage is searched through by the chunks' own
layout.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import zstandard
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, DataEnd, Footer, Header, Message, MessageIndex, Schema, Statistics, SummaryOffset

from bora_common.errors import LogError

MAGIC = b'\x89MCAP0\r\n'
COMPRESSION = 'zstd'
LIBRARY = 'bora'
_PREFIX = struct.Struct('<BQ')  # opcode and length of every record
_CHUNK_MARK = struct.pack('<I', len(COMPRESSION)) + COMPRESSION.encode()  # stands 28 bytes into a chunk's content
_CHUNK_FIELDS = 28
_KNOWN = {o.value for o in Opcode}


@dataclass(frozen=True)
class ChannelSpec:
    """A topic of the log: message type "package/msg/Name" and its ros2msg schema text."""

    topic: str
    type: str
    schema: str


@dataclass(frozen=True)
class Entry:
    """One message of the log and where it stands."""

    topic: str
    type: str
    log_ns: int
    publish_ns: int
    data: bytes
    segment: str  # file name
    offset: int  # of its chunk
    index: int  # within its chunk


@dataclass(frozen=True)
class Damage:
    """What a reader could not read of one segment."""

    corrupt: int = 0  # damaged places before the tail
    torn_bytes: int = 0  # of an unfinished write at the end


class SegmentWriter:
    """Appends messages to a new file. Nothing is on disk before `commit`; after it, nothing of the batch can be lost."""

    def __init__(self, path: Path, channels: Mapping[str, ChannelSpec]):
        self.path = path
        self.size = 0
        self._channels = {topic: i + 1 for i, topic in enumerate(channels)}
        self._specs = list(channels.values())
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._pending: list[Message] = []
        self._indices: list[ChunkIndex] = []
        self._counts = dict.fromkeys(self._channels.values(), 0)
        self._times: list[int] = []
        try:
            self._file = open(path, 'xb', buffering=0)
        except OSError as error:
            raise LogError(f'step log: {path} can\'t be created: {error.strerror}') from None
        builder = RecordBuilder()
        builder.write(MAGIC)
        Header('ros2', LIBRARY).write(builder)
        self._describe(builder)
        self._write(builder.end())
        _sync_folder(path.parent)

    def _describe(self, builder: RecordBuilder) -> None:
        for number, spec in enumerate(self._specs, start=1):
            name = spec.type
            Schema(id=number, name=name, encoding='ros2msg', data=spec.schema.encode()).write(builder)
            Channel(id=number, topic=spec.topic, message_encoding='cdr', metadata={}, schema_id=number).write(builder)

    def append(self, topic: str, data: bytes, log_ns: int, publish_ns: int) -> None:
        """Add a message (CDR bytes) to the batch."""
        channel = self._channels[topic]
        self._pending.append(
            Message(channel_id=channel, log_time=log_ns, publish_time=publish_ns, sequence=self._counts[channel] & 0xFFFFFFFF, data=data)
        )
        self._counts[channel] += 1

    def commit(self) -> int:
        """Write the batch as one chunk and wait until it is on disk; the chunk's offset, or -1 where there was nothing to write."""
        if not self._pending:
            return -1
        messages, self._pending = self._pending, []
        content, offsets = RecordBuilder(), {}
        for message in messages:
            offsets.setdefault(message.channel_id, []).append((message.log_time, content.count))
            message.write(content)
        times = [m.log_time for m in messages]
        data = content.end()
        packed = self._compressor.compress(data)
        builder, start = RecordBuilder(), self.size
        Chunk(COMPRESSION, packed, max(times), min(times), zlib.crc32(data), len(data)).write(builder)
        length = builder.count
        index_offsets = {}
        for channel, records in offsets.items():
            index_offsets[channel] = start + builder.count
            MessageIndex(channel, records).write(builder)
        self._indices.append(
            ChunkIndex(
                chunk_length=length, chunk_start_offset=start, compression=COMPRESSION, compressed_size=len(packed),
                message_end_time=max(times), message_index_length=builder.count - length, message_index_offsets=index_offsets,
                message_start_time=min(times), uncompressed_size=len(data),
            )  # fmt: skip
        )
        self._times += [min(times), max(times)]
        self._write(builder.end())
        return start

    def close(self) -> None:
        """Commit and finish the file with its index; safe to call twice."""
        if self._file.closed:
            return
        self.commit()
        builder = RecordBuilder()
        DataEnd(0).write(builder)
        begin = self.size + builder.count
        summary, groups = self._summary(begin)
        offsets = RecordBuilder()
        for opcode, start, length in groups:
            SummaryOffset(opcode, start, length).write(offsets)
        tail = summary + offsets.end()
        footer = _PREFIX.pack(Opcode.FOOTER, 20) + struct.pack('<QQ', begin, begin + len(summary))
        builder.write(tail)
        Footer(begin, begin + len(summary), zlib.crc32(tail + footer)).write(builder)
        builder.write(MAGIC)
        self._write(builder.end())
        self._file.close()

    def _summary(self, begin: int) -> tuple[bytes, list[tuple[int, int, int]]]:
        """Summary section, and (opcode, start, length) of its groups; `begin` is its place in the file."""
        groups: dict[int, bytes] = {}
        builder = RecordBuilder()
        for number, spec in enumerate(self._specs, start=1):
            Schema(id=number, name=spec.type, encoding='ros2msg', data=spec.schema.encode()).write(builder)
        groups[Opcode.SCHEMA] = builder.end()
        for number, spec in enumerate(self._specs, start=1):
            Channel(id=number, topic=spec.topic, message_encoding='cdr', metadata={}, schema_id=number).write(builder)
        groups[Opcode.CHANNEL] = builder.end()
        Statistics(
            attachment_count=0, channel_count=len(self._specs), channel_message_counts=self._counts, chunk_count=len(self._indices),
            message_count=sum(self._counts.values()), message_end_time=max(self._times, default=0),
            message_start_time=min(self._times, default=0), metadata_count=0, schema_count=len(self._specs),
        ).write(builder)  # fmt: skip
        groups[Opcode.STATISTICS] = builder.end()
        for index in self._indices:
            index.write(builder)
        groups[Opcode.CHUNK_INDEX] = builder.end()
        places, start = [], begin
        for opcode, data in groups.items():
            places.append((opcode, start, len(data)))
            start += len(data)
        return b''.join(groups.values()), [p for p in places if p[2]]

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LogError(f'step log: {self.path} can\'t be written: {error.strerror}') from None
        self.size += len(data)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class SegmentReader:
    """Iterates over the messages of a segment in the order in which they were committed; afterwards `damage` says what is missing."""

    def __init__(self, path: Path):
        self.path = path
        self.damage = Damage()
        self._types: dict[int, tuple[str, str]] = {}  # channel -> topic, type
        self._schemas: dict[int, str] = {}

    def __iter__(self) -> Iterator[Entry]:
        try:
            size = self.path.stat().st_size
            if size == 0:
                return
            with open(self.path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from self._entries(data)
        except OSError as error:
            raise LogError(f'step log: {self.path} can\'t be read: {error.strerror}') from None

    def _entries(self, data: mmap.mmap) -> Iterator[Entry]:
        closed = data[-len(MAGIC) :] == MAGIC and data[-len(MAGIC) - 29 : -len(MAGIC) - 20] == _PREFIX.pack(Opcode.FOOTER, 20)
        corrupt = 0
        position = len(MAGIC)
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            corrupt = 1
        while position < len(data):
            found = self._record(data, position)
            if found is None:
                following = _next_chunk(data, position + 1)
                if following < 0:
                    corrupt += closed
                    self.damage = Damage(corrupt, 0 if closed else len(data) - position)
                    return
                corrupt += 1
                position = following
                continue
            opcode, entries, end = found
            yield from entries
            position = end
            if opcode == Opcode.DATA_END:
                break
        self.damage = Damage(corrupt, 0)

    def at(self, offset: int) -> list[Entry]:
        """Messages of the chunk at an offset. Raises LogError where it is damaged."""
        with open(self.path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not self._types:
                self._read_channels(data)
            found = self._record(data, offset)
        if found is None:
            raise LogError(f'step log: {self.path} is damaged at byte {offset}')
        return found[1]

    def _read_channels(self, data: mmap.mmap) -> None:
        position = len(MAGIC)
        while (found := self._record(data, position)) is not None and found[0] != Opcode.CHUNK:
            position = found[2]

    def _record(self, data: mmap.mmap, position: int) -> tuple[int, list[Entry], int] | None:
        """(opcode, messages, end) of the record at a position; None where there is no whole and valid record."""
        if position + _PREFIX.size > len(data):
            return None
        opcode, length = _PREFIX.unpack_from(data, position)
        begin, end = position + _PREFIX.size, position + _PREFIX.size + length
        if opcode not in _KNOWN or end > len(data):
            return None
        if opcode == Opcode.CHUNK:
            content = _chunk_content(data[begin:end])
            return None if content is None else (opcode, self._messages(content, position), end)
        if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            try:
                self._learn(opcode, data[begin:end])
            except (McapError, struct.error, UnicodeDecodeError):
                return None
        return opcode, [], end

    def _learn(self, opcode: int, content: bytes) -> None:
        stream = ReadDataStream(BytesIO(content))
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._schemas[schema.id] = schema.name
        else:
            channel = Channel.read(stream)
            self._types[channel.id] = (channel.topic, self._schemas.get(channel.schema_id, ''))

    def _messages(self, content: bytes, offset: int) -> list[Entry]:
        entries, position = [], 0
        while position + _PREFIX.size <= len(content):
            opcode, length = _PREFIX.unpack_from(content, position)
            begin = position + _PREFIX.size
            if opcode == Opcode.MESSAGE:
                channel, _, log_ns, publish_ns = struct.unpack_from('<HIQQ', content, begin)
                topic, kind = self._types.get(channel, ('', ''))
                entries.append(
                    Entry(topic, kind, log_ns, publish_ns, content[begin + 22 : begin + length], self.path.name, offset, len(entries))
                )
            position = begin + length
        return entries


def _chunk_content(record: bytes) -> bytes | None:
    """Uncompressed content of a chunk record's body; None where it is damaged."""
    mark = _CHUNK_FIELDS + len(_CHUNK_MARK)
    if record[_CHUNK_FIELDS:mark] != _CHUNK_MARK or len(record) < mark + 8:
        return None
    size, crc = struct.unpack_from('<QI', record, 16)
    (length,) = struct.unpack_from('<Q', record, mark)
    if mark + 8 + length != len(record):
        return None
    try:
        content = zstandard.ZstdDecompressor().decompress(record[mark + 8 :], max_output_size=min(size, 2**31))
    except zstandard.ZstdError:
        return None
    return content if len(content) == size and zlib.crc32(content) == crc else None


def _next_chunk(data: mmap.mmap, start: int) -> int:
    """Position of the first whole and valid chunk record at or after `start`; -1 where there is none."""
    before = _PREFIX.size + _CHUNK_FIELDS
    mark = data.find(_CHUNK_MARK, start + before)
    while mark >= 0:
        position = mark - before
        opcode, length = _PREFIX.unpack_from(data, position)
        end = position + _PREFIX.size + length
        if opcode == Opcode.CHUNK and end <= len(data) and _chunk_content(data[position + _PREFIX.size : end]) is not None:
            return position
        mark = data.find(_CHUNK_MARK, mark + 1)
    return -1
