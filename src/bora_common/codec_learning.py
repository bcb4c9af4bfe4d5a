"""Codecs of the policy's and the learner's side: observations, chunks, scores, episodes, transitions and weights."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from std_msgs.msg import Header

from bora_common.codec_fields import (
    MAX_BYTES,
    decode_id,
    decode_tokens,
    decode_version,
    encode_id,
    encode_tokens,
    encode_version,
    flags,
    floats,
    from_sequence,
    joint_floats,
    joint_order,
    matrix_steps,
    member,
    ns_to_stamp,
    number,
    period,
    shaped,
    share,
    stamp_to_ns,
    steps_of,
    to_sequence,
)
from bora_common.errors import CodecError
from bora_common.types import (
    ActionChunk,
    EpisodeEvent,
    EpisodeState,
    JointLayout,
    Observation,
    Outcome,
    Proposal,
    RewardEvent,
    ScoredChunk,
    Transition,
    WeightsPackage,
    WeightsStatus,
)
from bora_msgs.msg import BaseChunk, Chunk, Episode, Value, Weights
from bora_msgs.msg import Observation as ObservationMsg
from bora_msgs.msg import RewardEvent as RewardEventMsg
from bora_msgs.msg import Transition as TransitionMsg
from bora_msgs.msg import WeightsStatus as WeightsStatusMsg

# --- observation ----------------------------------------------------------------------------------------------------------------


def encode_observation(value: Observation, layout: JointLayout) -> ObservationMsg:
    images = np.asarray(value.images)
    if images.ndim != 4 or images.shape[0] != len(value.camera_names) or images.shape[3] != 3 or images.dtype != np.uint8:
        raise CodecError(
            f'observation.images: expected uint8 [{len(value.camera_names)}, H, W, 3], found {images.dtype} {list(images.shape)}'
        )
    return ObservationMsg(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        episode=value.episode,
        instruction=value.instruction,
        camera_names=list(value.camera_names),
        height=images.shape[1],
        width=images.shape[2],
        images=to_sequence(images, np.uint8),
        joint_names=list(layout.names),
        proprio=to_sequence(shaped(value.proprio, (len(layout),), 'observation.proprio'), np.float64),
        skew=number(value.skew, 'observation.skew', 0.0),
    )


def decode_observation(msg: Any, layout: JointLayout, cameras: Sequence[str] | None = None) -> Observation:
    """Observation; its images in the order of `cameras` when they are given, which must then be exactly those of the message."""
    names = tuple(msg.camera_names)
    count, height, width = len(names), msg.height, msg.width
    if len(set(names)) != count or count == 0:
        raise CodecError(f'observation.camera_names: expected unique names, found {list(names)}')
    size = count * height * width * 3
    if not 0 < size <= MAX_BYTES:
        raise CodecError(f'observation.images: expected 1 to {MAX_BYTES} bytes, found {count} images of {height} x {width}')
    data = from_sequence(msg.images, np.uint8, 'observation.images')
    if data.size != size:
        raise CodecError(f'observation.images: expected {count} x {height} x {width} x 3 = {size} bytes, found {data.size}')
    images = data.reshape(count, height, width, 3)
    if cameras is not None and tuple(cameras) != names:
        if sorted(cameras) != sorted(names):
            raise CodecError(f'observation.camera_names: expected {list(cameras)}, found {list(names)}')
        images, names = images[[names.index(c) for c in cameras]], tuple(cameras)
    order = joint_order(msg.joint_names, layout, 'observation.joint_names')
    return Observation(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'observation.header.stamp'),
        images=images,
        camera_names=names,
        proprio=joint_floats(msg.proprio, order, None, len(layout), 'observation.proprio'),
        instruction=msg.instruction,
        episode=msg.episode,
        skew=number(msg.skew, 'observation.skew', 0.0),
        id=decode_id(msg.id),
    )


# --- base_chunk, chunk and value --------------------------------------------------------------------------------------------------


def encode_proposal(value: Proposal, layout: JointLayout, token_dtype: str = 'float32') -> BaseChunk:
    joints = len(layout)
    steps = matrix_steps(value.positions, joints, 'base_chunk.positions')
    width = _token_width(value.tokens, value.token_names, 'base_chunk.tokens')
    return BaseChunk(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        observation_id=encode_id(value.observation_id),
        epoch=int(value.epoch),
        episode=value.episode,
        token_names=list(value.token_names),
        token_width=width,
        token_dtype=token_dtype,
        tokens=encode_tokens(value.tokens, token_dtype, 'base_chunk.tokens'),
        joint_names=list(layout.names),
        proprio=to_sequence(shaped(value.proprio, (joints,), 'base_chunk.proprio'), np.float64),
        steps=steps,
        positions=to_sequence(shaped(value.positions, (steps, joints), 'base_chunk.positions'), np.float64),
        dt=period(value.dt, 'base_chunk.dt'),
        model_id=value.model_id,
    )


def decode_proposal(msg: Any, layout: JointLayout) -> Proposal:
    joints, steps = len(layout), steps_of(msg.steps, 'base_chunk.steps')
    order = joint_order(msg.joint_names, layout, 'base_chunk.joint_names')
    return Proposal(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'base_chunk.header.stamp'),
        positions=joint_floats(msg.positions, order, steps, joints, 'base_chunk.positions'),
        dt=period(msg.dt, 'base_chunk.dt'),
        tokens=decode_tokens(msg.tokens, len(msg.token_names), msg.token_width, msg.token_dtype, 'base_chunk.tokens'),
        token_names=_unique(msg.token_names, 'base_chunk.token_names'),
        proprio=joint_floats(msg.proprio, order, None, joints, 'base_chunk.proprio'),
        model_id=msg.model_id,
        epoch=msg.epoch,
        episode=msg.episode,
        observation_id=decode_id(msg.observation_id),
        id=decode_id(msg.id),
    )


def encode_chunk(value: ActionChunk, layout: JointLayout) -> Chunk:
    joints = len(layout)
    steps = matrix_steps(value.positions, joints, 'chunk.positions')
    return Chunk(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        observation_id=encode_id(value.observation_id),
        base_id=encode_id(value.base_id),
        published=ns_to_stamp(value.published_ns),
        epoch=int(value.epoch),
        episode=value.episode,
        joint_names=list(layout.names),
        steps=steps,
        base_positions=to_sequence(shaped(value.base, (steps, joints), 'chunk.base_positions'), np.float64),
        positions=to_sequence(shaped(value.positions, (steps, joints), 'chunk.positions'), np.float64),
        dt=period(value.dt, 'chunk.dt'),
        alpha=share(value.alpha, 'chunk.alpha'),
        residual_version=encode_version(value.version),
        model_id=value.model_id,
    )


def decode_chunk(msg: Any, layout: JointLayout) -> ActionChunk:
    joints, steps = len(layout), steps_of(msg.steps, 'chunk.steps')
    order = joint_order(msg.joint_names, layout, 'chunk.joint_names')
    return ActionChunk(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'chunk.header.stamp'),
        published_ns=stamp_to_ns(msg.published, 'chunk.published'),
        base=joint_floats(msg.base_positions, order, steps, joints, 'chunk.base_positions'),
        positions=joint_floats(msg.positions, order, steps, joints, 'chunk.positions'),
        dt=period(msg.dt, 'chunk.dt'),
        alpha=share(msg.alpha, 'chunk.alpha'),
        version=decode_version(msg.residual_version),
        model_id=msg.model_id,
        epoch=msg.epoch,
        episode=msg.episode,
        observation_id=decode_id(msg.observation_id),
        base_id=decode_id(msg.base_id),
        id=decode_id(msg.id),
    )


def encode_scored(value: ScoredChunk) -> Value:
    steps = (steps_of(np.size(value.q), 'value.q'),)
    return Value(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        chunk_id=encode_id(value.chunk_id),
        q=to_sequence(shaped(value.q, steps, 'value.q'), np.float64),
        v=to_sequence(shaped(value.v, steps, 'value.v'), np.float64),
        spread=number(value.spread, 'value.spread', 0.0),
        risk=share(value.risk, 'value.risk'),
    )


def decode_scored(msg: Any) -> ScoredChunk:
    steps = (steps_of(len(msg.q), 'value.q'),)
    return ScoredChunk(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'value.header.stamp'),
        chunk_id=decode_id(msg.chunk_id),
        q=floats(msg.q, steps, 'value.q'),
        v=floats(msg.v, steps, 'value.v'),
        spread=number(msg.spread, 'value.spread', 0.0),
        risk=share(msg.risk, 'value.risk'),
        id=decode_id(msg.id),
    )


# --- episode --------------------------------------------------------------------------------------------------------------------


def encode_episode(value: EpisodeEvent) -> Episode:
    return Episode(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        episode=value.episode,
        task=value.task,
        instruction=value.instruction,
        robot=value.robot,
        round=int(value.round),
        evaluation=bool(value.evaluation),
        seed=int(value.seed),
        state=int(value.state),
        outcome=int(value.outcome),
        reason=value.reason,
        started=ns_to_stamp(value.started_ns),
        rewards=[
            RewardEventMsg(stamp=ns_to_stamp(r.stamp_ns), name=r.name, value=number(r.value, 'episode.rewards.value'))
            for r in value.rewards
        ],
    )


def decode_episode(msg: Any) -> EpisodeEvent:
    rewards = tuple(
        RewardEvent(stamp_to_ns(r.stamp, 'episode.rewards.stamp'), r.name, number(r.value, 'episode.rewards.value')) for r in msg.rewards
    )
    return EpisodeEvent(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'episode.header.stamp'),
        episode=msg.episode,
        task=msg.task,
        instruction=msg.instruction,
        robot=msg.robot,
        round=msg.round,
        evaluation=bool(msg.evaluation),
        seed=msg.seed,
        state=member(EpisodeState, msg.state, 'episode.state'),
        outcome=member(Outcome, msg.outcome, 'episode.outcome'),
        reason=msg.reason,
        started_ns=stamp_to_ns(msg.started, 'episode.started'),
        rewards=rewards,
        id=decode_id(msg.id),
    )


# --- replay ---------------------------------------------------------------------------------------------------------------------


def encode_transition(value: Transition, layout: JointLayout, token_dtype: str = 'float16') -> TransitionMsg:
    joints = len(layout)
    steps = matrix_steps(value.vla, joints, 'replay.vla_positions')
    width = _token_width(value.tokens, value.token_names, 'replay.tokens')
    shaped(value.next_tokens, (len(value.token_names), width), 'replay.next_tokens', np.float32)
    msg = TransitionMsg(header=Header(stamp=ns_to_stamp(value.stamp_ns)), seq=int(value.seq), steps=steps, first=int(value.first))
    msg.episode, msg.round, msg.task, msg.robot = value.episode, int(value.round), value.task, value.robot
    msg.token_names, msg.token_width, msg.token_dtype = list(value.token_names), width, token_dtype
    msg.tokens = encode_tokens(value.tokens, token_dtype, 'replay.tokens')
    msg.next_tokens = encode_tokens(value.next_tokens, token_dtype, 'replay.next_tokens')
    msg.joint_names = list(layout.names)
    msg.dt = period(value.dt, 'replay.dt')
    for field, array_, shape in (
        ('proprio', value.proprio, (joints,)),
        ('next_proprio', value.next_proprio, (joints,)),
        ('vla_positions', value.vla, (steps, joints)),
        ('executed_positions', value.executed, (steps, joints)),
    ):
        setattr(msg, field, to_sequence(shaped(array_, shape, f'replay.{field}'), np.float64))
    for field, array_ in (('reward', value.reward), ('beta', value.beta)):
        setattr(msg, field, to_sequence(shaped(array_, (steps,), f'replay.{field}', np.float32), np.float32))
    for field, array_ in (('done', value.done), ('mask', value.mask), ('human', value.human)):
        setattr(msg, field, flags(array_, steps, f'replay.{field}').tolist())
    msg.truncated, msg.episode_success = bool(value.truncated), bool(value.success)
    msg.model_id, msg.residual_version = value.model_id, encode_version(value.version)
    msg.alpha, msg.image_ref = share(value.alpha, 'replay.alpha'), value.image_ref
    return msg


def decode_transition(msg: Any, layout: JointLayout) -> Transition:
    joints, steps = len(layout), steps_of(msg.steps, 'replay.steps')
    order = joint_order(msg.joint_names, layout, 'replay.joint_names')
    names = _unique(msg.token_names, 'replay.token_names')
    tokens = (len(names), msg.token_width, msg.token_dtype)
    if msg.first > steps:
        raise CodecError(f'replay.first: expected 0 to {steps}, found {msg.first}')
    return Transition(
        seq=msg.seq,
        stamp_ns=stamp_to_ns(msg.header.stamp, 'replay.header.stamp'),
        episode=msg.episode,
        round=msg.round,
        task=msg.task,
        robot=msg.robot,
        tokens=decode_tokens(msg.tokens, *tokens, 'replay.tokens'),
        token_names=names,
        proprio=joint_floats(msg.proprio, order, None, joints, 'replay.proprio'),
        vla=joint_floats(msg.vla_positions, order, steps, joints, 'replay.vla_positions'),
        executed=joint_floats(msg.executed_positions, order, steps, joints, 'replay.executed_positions'),
        reward=floats(msg.reward, (steps,), 'replay.reward', np.float32),
        done=flags(msg.done, steps, 'replay.done'),
        mask=flags(msg.mask, steps, 'replay.mask'),
        human=flags(msg.human, steps, 'replay.human'),
        beta=floats(msg.beta, (steps,), 'replay.beta', np.float32),
        truncated=bool(msg.truncated),
        first=msg.first,
        next_tokens=decode_tokens(msg.next_tokens, *tokens, 'replay.next_tokens'),
        next_proprio=joint_floats(msg.next_proprio, order, None, joints, 'replay.next_proprio'),
        success=bool(msg.episode_success),
        dt=period(msg.dt, 'replay.dt'),
        model_id=msg.model_id,
        version=decode_version(msg.residual_version),
        alpha=share(msg.alpha, 'replay.alpha'),
        image_ref=msg.image_ref,
    )


# --- weights ----------------------------------------------------------------------------------------------------------------------


def encode_weights(value: WeightsPackage) -> Weights:
    if not 0 < len(value.data) <= MAX_BYTES:
        raise CodecError(f'weights.data: expected 1 to {MAX_BYTES} bytes, found {len(value.data)}')
    return Weights(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        version=encode_version(value.version),
        alpha=share(value.alpha, 'weights.alpha'),
        model_id=value.model_id,
        data=array.array('B', value.data),
        sha256=value.sha256,
    )


def decode_weights(msg: Any) -> WeightsPackage:
    """The package as it came: its digest and content are for the weights gate to judge, so that a refusal is answered."""
    data = from_sequence(msg.data, np.uint8, 'weights.data').tobytes()
    if not 0 < len(data) <= MAX_BYTES:
        raise CodecError(f'weights.data: expected 1 to {MAX_BYTES} bytes, found {len(data)}')
    return WeightsPackage(
        version=decode_version(msg.version),
        alpha=share(msg.alpha, 'weights.alpha'),
        model_id=msg.model_id,
        data=data,
        sha256=msg.sha256,
        stamp_ns=stamp_to_ns(msg.header.stamp, 'weights.header.stamp'),
        id=decode_id(msg.id),
    )


def encode_weights_status(value: WeightsStatus) -> WeightsStatusMsg:
    return WeightsStatusMsg(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        version=encode_version(value.version),
        accepted=bool(value.accepted),
        reason=value.reason,
        active=encode_version(value.active),
    )


def decode_weights_status(msg: Any) -> WeightsStatus:
    return WeightsStatus(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'weights_status.header.stamp'),
        version=decode_version(msg.version),
        accepted=bool(msg.accepted),
        reason=msg.reason,
        active=decode_version(msg.active),
        id=decode_id(msg.id),
    )


# --- tokens -----------------------------------------------------------------------------------------------------------------------


def _unique(names: Sequence[str], where: str) -> tuple[str, ...]:
    names = tuple(names)
    if len(set(names)) != len(names):
        raise CodecError(f'{where}: expected unique names, found {list(names)}')
    return names


def _token_width(tokens: np.ndarray, names: Sequence[str], where: str) -> int:
    """W of tokens [T, W] that are about to be written."""
    shape = np.shape(tokens)
    if len(shape) != 2 or shape[0] != len(_unique(names, where)) or 0 in shape:
        raise CodecError(f'{where}: expected [{len(names)}, W], found {list(shape)}')
    return shape[1]
