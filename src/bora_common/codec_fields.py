"""Checked reading and fast writing of message fields, shared by every codec.

Each reader names the topic and field in its CodecError, what was expected and what was found. Arrays pass as whole buffers:
assigning an ndarray to a message's sequence goes through Python objects and is hundreds of times slower.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from builtin_interfaces.msg import Time

from bora_common.errors import CodecError, NotFiniteError
from bora_common.types import JointLayout, StreamId, WeightsVersion
from bora_msgs.msg import StreamId as StreamIdMsg
from bora_msgs.msg import WeightsVersion as WeightsVersionMsg

MAX_STEPS = 1024  # of a chunk
MAX_BYTES = 64 * 2**20  # of one image set or token array
TOKEN_DTYPES = {'float32': np.dtype('<f4'), 'float16': np.dtype('<f2')}
_TYPECODES = {np.dtype(np.float64): 'd', np.dtype(np.float32): 'f', np.dtype(np.uint8): 'B'}

E = TypeVar('E')


# --- times and identities -------------------------------------------------------------------------------------------------------


def stamp_to_ns(stamp: Any, where: str = 'stamp') -> int:
    """builtin_interfaces/Time as integer nanoseconds."""
    if not 0 <= stamp.nanosec < 1_000_000_000 or stamp.sec < 0:
        raise CodecError(f'{where}: expected sec >= 0 and nanosec below 1e9, found {stamp.sec} s {stamp.nanosec} ns')
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def ns_to_stamp(ns: int) -> Time:
    """Integer nanoseconds as builtin_interfaces/Time."""
    sec, nanosec = divmod(int(ns), 1_000_000_000)
    if not 0 <= sec < 2**31:
        raise CodecError(f'stamp: expected 0 to 2^31 s, found {ns} ns')
    return Time(sec=sec, nanosec=nanosec)


def encode_id(value: StreamId) -> StreamIdMsg:
    return StreamIdMsg(source=int(value.source), seq=int(value.seq))


def decode_id(msg: Any) -> StreamId:
    return StreamId(msg.source, msg.seq)


def encode_version(value: WeightsVersion) -> WeightsVersionMsg:
    return WeightsVersionMsg(run=value.run, round=int(value.round), update=int(value.update))


def decode_version(msg: Any) -> WeightsVersion:
    return WeightsVersion(msg.run, msg.round, msg.update)


# --- scalars --------------------------------------------------------------------------------------------------------------------


def number(value: float, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within [low, high]."""
    value = float(value)
    if not math.isfinite(value):
        raise NotFiniteError(f'{where}: expected a finite number, found {value}')
    if not low <= value <= high:
        raise CodecError(f'{where}: expected {low:g} to {high:g}, found {value:g}')
    return value


def share(value: float, where: str) -> float:
    """A number within [0, 1]."""
    return number(value, where, 0.0, 1.0)


def period(value: float, where: str) -> float:
    """A step duration in s: positive and at most a minute."""
    value = number(value, where)
    if not 0.0 < value <= 60.0:
        raise CodecError(f'{where}: expected above 0 and at most 60 s, found {value:g}')
    return value


def member(enumeration: type[E], value: int, where: str) -> E:
    """Member of an IntEnum."""
    try:
        return enumeration(value)
    except ValueError:
        valid = ', '.join(f'{m.value} ({m.name})' for m in enumeration)
        raise CodecError(f'{where}: expected one of {valid}, found {value}') from None


def steps_of(value: int, where: str) -> int:
    """Number of chunk steps, 1 to MAX_STEPS."""
    if not 1 <= value <= MAX_STEPS:
        raise CodecError(f'{where}: expected 1 to {MAX_STEPS} steps, found {value}')
    return int(value)


# --- arrays ---------------------------------------------------------------------------------------------------------------------


def to_sequence(values: Any, dtype: Any) -> array.array:
    """Values in row-major order as the array.array that a message field of that type takes without conversion."""
    block = np.ascontiguousarray(values, dtype=dtype)
    out = array.array(_TYPECODES[block.dtype])
    out.frombytes(memoryview(block).cast('B'))
    return out


def from_sequence(field: Any, dtype: Any, where: str) -> np.ndarray:
    """A message's number sequence as an ndarray [n]; shares the memory of a buffer, converts a plain list."""
    dtype = np.dtype(dtype)
    if isinstance(field, np.ndarray):
        return field.ravel().astype(dtype, copy=False)
    raw = isinstance(field, (bytes, bytearray, memoryview))
    if raw or isinstance(field, array.array) and field.typecode == _TYPECODES[dtype]:
        if raw and len(field) % dtype.itemsize:
            raise CodecError(f'{where}: expected whole {dtype} numbers, found {len(field)} bytes')
        return np.frombuffer(field, dtype) if len(field) else np.empty(0, dtype)
    try:
        return np.array(field, dtype=dtype).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f'{where}: expected a sequence of {dtype} numbers: {error}') from None


def floats(field: Any, shape: tuple[int, ...], where: str, dtype: Any = np.float64) -> np.ndarray:
    """Finite floating-point numbers of `shape`, in memory of their own."""
    values = from_sequence(field, dtype, where)
    if values.size != math.prod(shape):
        raise CodecError(f'{where}: expected {" x ".join(map(str, shape))} = {math.prod(shape)} values, found {values.size}')
    return finite(values.reshape(shape), where).copy()


def finite(values: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        flat = np.flatnonzero(~np.isfinite(values))
        raise NotFiniteError(f'{where}: expected finite numbers, found {values.reshape(-1)[flat[0]]} at index {flat[0]}')
    return values


def flags(field: Any, size: int, where: str) -> np.ndarray:
    """Booleans [size]."""
    values = np.array(field, dtype=bool).reshape(-1)
    if values.size != size:
        raise CodecError(f'{where}: expected {size} flags, found {values.size}')
    return values


def shaped(values: Any, shape: tuple[int, ...], where: str, dtype: Any = np.float64) -> np.ndarray:
    """A value's array, checked before it is written: exact shape and finite."""
    values = np.asarray(values, dtype=dtype)
    if values.shape != shape:
        raise CodecError(f'{where}: expected shape {shape}, found {values.shape}')
    return finite(values, where)


def matrix_steps(values: Any, joints: int, where: str) -> int:
    """k of a [k, D] array that is about to be written."""
    shape = np.shape(values)
    if len(shape) != 2 or shape[1] != joints:
        raise CodecError(f'{where}: expected shape (k, {joints}), found {shape}')
    return steps_of(shape[0], where)


# --- joints ---------------------------------------------------------------------------------------------------------------------


def joint_order(names: Sequence[str], layout: JointLayout, where: str) -> np.ndarray | None:
    """Where each layout joint stands in `names`; None when the order is the layout's. `names` must be exactly the layout's joints."""
    if tuple(names) == layout.names:
        return None
    position = {name: i for i, name in enumerate(names)}
    if len(position) != len(names):
        raise CodecError(f'{where}: joint named twice in {list(names)}, expected {list(layout.names)}')
    missing = [n for n in layout.names if n not in position]
    if missing:
        raise CodecError(f'{where}: joint "{missing[0]}" is missing, expected {list(layout.names)}, found {list(names)}')
    if len(names) != len(layout):
        unknown = next(n for n in names if n not in layout.names)
        raise CodecError(f'{where}: unknown joint "{unknown}", expected {list(layout.names)}')
    return np.array([position[n] for n in layout.names], dtype=np.intp)


def joint_floats(field: Any, order: np.ndarray | None, rows: int | None, joints: int, where: str) -> np.ndarray:
    """Finite joint values in layout order: [D], or [rows, D] when rows are given."""
    values = floats(field, (joints,) if rows is None else (rows, joints), where)
    return values if order is None else np.ascontiguousarray(values[..., order])


# --- tokens ---------------------------------------------------------------------------------------------------------------------


def encode_tokens(tokens: np.ndarray, dtype: str, where: str) -> array.array:
    """Tokens [T, W] as little-endian bytes of `dtype` ("float32" or "float16")."""
    if dtype not in TOKEN_DTYPES:
        raise CodecError(f'{where}: expected dtype {" or ".join(TOKEN_DTYPES)}, found "{dtype}"')
    block = np.ascontiguousarray(tokens, dtype=TOKEN_DTYPES[dtype])
    if block.nbytes > MAX_BYTES:
        raise CodecError(f'{where}: expected at most {MAX_BYTES} bytes, found {block.nbytes}')
    out = array.array('B')
    out.frombytes(memoryview(finite(block, where)).cast('B'))
    return out


def decode_tokens(field: Any, count: int, width: int, dtype: str, where: str) -> np.ndarray:
    """Tokens float32 [count, width]."""
    if dtype not in TOKEN_DTYPES:
        raise CodecError(f'{where}: expected dtype {" or ".join(TOKEN_DTYPES)}, found "{dtype}"')
    kind = TOKEN_DTYPES[dtype]
    size = count * width * kind.itemsize
    if not 0 < size <= MAX_BYTES:
        raise CodecError(f'{where}: expected 1 to {MAX_BYTES} bytes, found {count} tokens of width {width}')
    data = from_sequence(field, np.uint8, where)
    if data.size != size:
        raise CodecError(f'{where}: expected {count} x {width} x {kind.itemsize} = {size} bytes, found {data.size}')
    tokens = data.view(kind) if data.flags.c_contiguous else np.frombuffer(data.tobytes(), kind)
    return finite(tokens.reshape(count, width).astype(np.float32), where)
