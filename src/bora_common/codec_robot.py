"""Codecs of the robot's side: joint states, trajectories, camera images, human input, commands, modes and interventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from bora_common.codec_fields import (
    MAX_BYTES,
    decode_id,
    encode_id,
    floats,
    from_sequence,
    joint_floats,
    joint_order,
    member,
    ns_to_stamp,
    number,
    shaped,
    share,
    stamp_to_ns,
    to_sequence,
)
from bora_common.errors import CodecError
from bora_common.types import (
    ArbiterState,
    ExecutedCommand,
    HumanInput,
    InterventionEvent,
    JointCommand,
    JointLayout,
    Mode,
    RobotMode,
    Source,
)
from bora_msgs.msg import Command, Executed, HumanCommand, Intervention, RobotState

# --- standard messages ----------------------------------------------------------------------------------------------------------


def encode_joint_states(stamp_ns: int, names: Sequence[str], positions: np.ndarray, velocities: np.ndarray | None = None) -> JointState:
    """JointState of `names` in their order, rad and rad/s."""
    msg = JointState(header=Header(stamp=ns_to_stamp(stamp_ns)), name=list(names))
    msg.position = to_sequence(shaped(positions, (len(names),), 'joint_states.position'), np.float64)
    if velocities is not None:
        msg.velocity = to_sequence(shaped(velocities, (len(names),), 'joint_states.velocity'), np.float64)
    return msg


def decode_joint_states(msg: Any, layout: JointLayout, where: str = 'joint_states') -> tuple[int, np.ndarray, np.ndarray]:
    """(stamp ns, positions [D] rad, velocities [D] rad/s) in layout order; extra joints are ignored, absent velocities are zeros."""
    names = msg.name
    positions = from_sequence(msg.position, np.float64, f'{where}.position')
    positions = layout.reorder(names, positions, f'{where}.position')
    velocities = from_sequence(msg.velocity, np.float64, f'{where}.velocity')
    velocities = layout.reorder(names, velocities, f'{where}.velocity') if velocities.size else np.zeros(len(layout))
    return stamp_to_ns(msg.header.stamp, f'{where}.header.stamp'), positions, velocities


def encode_joint_trajectory(
    joints: Sequence[str], positions: np.ndarray, velocities: np.ndarray | None, time_from_start: float
) -> JointTrajectory:
    """One point for a joint_trajectory_controller. Stamp 0 means "starting now"; time_from_start in s."""
    n = (len(joints),)
    point = JointTrajectoryPoint(positions=to_sequence(shaped(positions, n, 'joint_trajectory.positions'), np.float64))
    if velocities is not None:
        point.velocities = to_sequence(shaped(velocities, n, 'joint_trajectory.velocities'), np.float64)
    ns = round(number(time_from_start, 'joint_trajectory.time_from_start', 0.0, 1e6) * 1e9)
    point.time_from_start.sec, point.time_from_start.nanosec = divmod(ns, 1_000_000_000)
    return JointTrajectory(joint_names=list(joints), points=[point])


def image_to_msg(image: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """rgb8 Image of uint8 [H, W, 3]."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not 0 < image.nbytes <= MAX_BYTES:
        raise CodecError(f'image: expected uint8 [H, W, 3] of 1 to {MAX_BYTES} bytes, found {image.dtype} {image.shape}')
    height, width = image.shape[:2]
    msg = Image(header=Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id))
    msg.height, msg.width, msg.encoding, msg.is_bigendian, msg.step = height, width, 'rgb8', 0, 3 * width
    msg.data = to_sequence(image, np.uint8)
    return msg


def image_from_msg(msg: Any, where: str = 'image') -> np.ndarray:
    """uint8 [H, W, 3] in RGB order from an rgb8 or bgr8 Image with rows of any step; shares the message's memory where it can."""
    if msg.encoding not in ('rgb8', 'bgr8'):
        raise CodecError(f'{where}.encoding: expected rgb8 or bgr8, found "{msg.encoding}"')
    height, width, step = msg.height, msg.width, msg.step
    if height < 1 or width < 1 or step < 3 * width or height * step > MAX_BYTES:
        raise CodecError(
            f'{where}: expected height, width >= 1, step >= 3 width and at most {MAX_BYTES} bytes, found {height} x {width}, step {step}'
        )
    data = from_sequence(msg.data, np.uint8, f'{where}.data')
    if data.size != height * step:
        raise CodecError(f'{where}.data: expected height {height} x step {step} = {height * step} bytes, found {data.size}')
    image = data.reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    return image if msg.encoding == 'rgb8' else np.ascontiguousarray(image[..., ::-1])


# --- human_command --------------------------------------------------------------------------------------------------------------


def encode_human(value: HumanInput, layout: JointLayout) -> HumanCommand:
    n = len(value.indices)
    return HumanCommand(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        joint_names=[layout.names[int(i)] for i in value.indices],
        positions=to_sequence(shaped(value.positions, (n,), 'human_command.positions'), np.float64),
        engaged=bool(value.engaged),
        device=value.device,
    )


def decode_human(msg: Any, layout: JointLayout) -> HumanInput:
    """Any subset of the layout's joints, in any order; the joints it does not name are not driven."""
    return HumanInput(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'human_command.header.stamp'),
        indices=layout.indices(msg.joint_names, 'human_command.joint_names'),
        positions=floats(msg.positions, (len(msg.joint_names),), 'human_command.positions'),
        engaged=bool(msg.engaged),
        device=msg.device,
        id=decode_id(msg.id),
    )


# --- command and executed -------------------------------------------------------------------------------------------------------


def encode_command(value: JointCommand, layout: JointLayout) -> Command:
    return Command(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        joint_names=list(layout.names),
        positions=to_sequence(shaped(value.positions, (len(layout),), 'command.positions'), np.float64),
        source=int(value.source),
        beta=share(value.beta, 'command.beta'),
        epoch=int(value.epoch),
        chunk_id=encode_id(value.chunk_id),
        step=int(value.step),
    )


def decode_command(msg: Any, layout: JointLayout) -> JointCommand:
    order = joint_order(msg.joint_names, layout, 'command.joint_names')
    return JointCommand(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'command.header.stamp'),
        positions=joint_floats(msg.positions, order, None, len(layout), 'command.positions'),
        source=member(Source, msg.source, 'command.source'),
        beta=share(msg.beta, 'command.beta'),
        epoch=msg.epoch,
        chunk_id=decode_id(msg.chunk_id),
        step=int(number(msg.step, 'command.step', -1)),
        id=decode_id(msg.id),
    )


def encode_executed(value: ExecutedCommand, layout: JointLayout) -> Executed:
    n = (len(layout),)
    return Executed(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        command_id=encode_id(value.command_id),
        joint_names=list(layout.names),
        positions=to_sequence(shaped(value.positions, n, 'executed.positions'), np.float64),
        requested=to_sequence(shaped(value.requested, n, 'executed.requested'), np.float64),
        limits=list(value.limits),
        source=int(value.source),
        beta=share(value.beta, 'executed.beta'),
        epoch=int(value.epoch),
        chunk_id=encode_id(value.chunk_id),
        step=int(value.step),
        held=bool(value.held),
        hold_reason=value.hold_reason,
    )


def decode_executed(msg: Any, layout: JointLayout) -> ExecutedCommand:
    order = joint_order(msg.joint_names, layout, 'executed.joint_names')
    return ExecutedCommand(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'executed.header.stamp'),
        positions=joint_floats(msg.positions, order, None, len(layout), 'executed.positions'),
        requested=joint_floats(msg.requested, order, None, len(layout), 'executed.requested'),
        limits=tuple(msg.limits),
        source=member(Source, msg.source, 'executed.source'),
        beta=share(msg.beta, 'executed.beta'),
        epoch=msg.epoch,
        chunk_id=decode_id(msg.chunk_id),
        step=int(number(msg.step, 'executed.step', -1)),
        held=bool(msg.held),
        hold_reason=msg.hold_reason,
        command_id=decode_id(msg.command_id),
        id=decode_id(msg.id),
    )


# --- robot_state and intervention -----------------------------------------------------------------------------------------------


def encode_robot_mode(value: RobotMode) -> RobotState:
    return RobotState(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)), id=encode_id(value.id), mode=int(value.mode), reason=value.reason
    )


def decode_robot_mode(msg: Any) -> RobotMode:
    return RobotMode(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'robot_state.header.stamp'),
        mode=member(Mode, msg.mode, 'robot_state.mode'),
        reason=msg.reason,
        id=decode_id(msg.id),
    )


def encode_intervention(value: InterventionEvent) -> Intervention:
    return Intervention(
        header=Header(stamp=ns_to_stamp(value.stamp_ns)),
        id=encode_id(value.id),
        state=int(value.state),
        previous=int(value.previous),
        beta=share(value.beta, 'intervention.beta'),
        epoch=int(value.epoch),
        reason=value.reason,
        device=value.device,
    )


def decode_intervention(msg: Any) -> InterventionEvent:
    return InterventionEvent(
        stamp_ns=stamp_to_ns(msg.header.stamp, 'intervention.header.stamp'),
        state=member(ArbiterState, msg.state, 'intervention.state'),
        previous=member(ArbiterState, msg.previous, 'intervention.previous'),
        beta=share(msg.beta, 'intervention.beta'),
        epoch=msg.epoch,
        reason=msg.reason,
        device=msg.device,
        id=decode_id(msg.id),
    )
