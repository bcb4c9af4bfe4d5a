"""The simulated robot as a node: what ros2_control and three realsense2_camera would publish, on a clock that it makes itself.

It works in lock-step: a tick's clock and joint states go out, the graph answers with trajectories and `executed`, and the answer makes the
next tick. All work happens on arrival or on a steady timer, never in a loop of its own, so services and parameters are served in between.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from bora_common import topics
from bora_common.codec import encode_id, encode_joint_states, image_to_msg, ns_to_stamp, stamp_to_ns
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_msgs.msg import SimState
from bora_sim import rendering
from bora_sim.mjcf import CAMERA_FOVY
from bora_sim.pacing import Pacer
from bora_sim.simulated_robot import Frame, SimulatedRobot
from bora_sim.world import OBJECTS

TICK = 0.01  # s
TRUTH_TICKS = 3  # control ticks between two messages of the truth
RECORD_PERIOD = 5.0  # s between two writes of the record


class SimulatedRobotNode(BoraNode):
    """Publishes /clock, /joint_states, cameras and the truth; obeys two trajectory controllers."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('task', 'press_button', 'name of the task whose scene is simulated'),
        Parameter('objects', 'standard', 'set of objects and conditions', choices=OBJECTS),
        Parameter('seed', 0, 'of the first scene', '', 0, 2**31 - 1),
        Parameter('camera_rate', 15.0, 'of every camera; must divide 300', 'Hz', 1.0, 100.0),
        Parameter('width', 160, 'of every image', 'px', 16, 1280),
        Parameter('height', 120, 'of every image', 'px', 16, 960),
        Parameter('realtime_factor', 1.0, 'highest pace; 0: as fast as the graph answers', '', 0.0, 100.0),
        Parameter('lockstep_timeout', 0.05, "longest wait for a tick's answer, steady clock", 's', 0.001, 10.0),
        Parameter('record', '', 'file (.npz) for the joint targets that the controllers took over; empty: none'),
    )

    def __init__(self, name: str = 'simulated_robot', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._tickers: list[Any] = []

    def setup(self) -> None:
        p = self.params
        robot = load_robot(resolve(p.robot_config, 'config/robots'))
        self._robot = SimulatedRobot(robot, p.task, p.seed, p.camera_rate, p.width, p.height, p.objects)
        self._names = list(reversed(robot.layout.names))  # a joint_state_broadcaster promises no order either
        self._clock_out, self._joints_out = self.advertise(topics.CLOCK), self.advertise(topics.JOINT_STATES)
        self._truth_out = self.advertise(topics.SIM_STATE)
        self._images = {c: (self.advertise(topics.camera_image(c)), self.advertise(topics.camera_info(c))) for c in robot.cameras}
        for group in robot.groups:
            self.subscribe(topics.joint_trajectory(group.controller), partial(self._on_trajectory, group.controller))
        self.subscribe(replace(topics.EXECUTED, transient_local=False, depth=10), self._on_executed)
        self.serve(topics.SIM_RESET_SCENE, self._reset_scene)

    def start(self) -> None:
        p = self.params
        self._robot.world.render(p.width, p.height, self._robot.robot.cameras)  # makes the GL context: too slow for a tick
        self._pacer = Pacer(TICK, p.realtime_factor, p.lockstep_timeout)
        self._ticks, self._truth_seen, self._pace = 0, None, (time.monotonic(), self._robot.now_ns)
        self._owing, self._executed_ns = set(self._robot.controllers), -1
        self._tickers = [self.timer(self._pacer.poll_period, self._advance, steady=True)]
        if p.record:
            self._tickers.append(self.timer(RECORD_PERIOD, self._write_record, steady=True))

    def stop(self) -> None:
        for timer in self._tickers:
            self.destroy_timer(timer)
        self._write_record()
        rendering.close()

    # --- lock-step ------------------------------------------------------------------------------------------------------------------

    @property
    def _answered(self) -> bool:
        return not self._owing and self._executed_ns >= self._robot.now_ns

    def _on_trajectory(self, controller: str, message: Any) -> None:
        points = [
            (p.positions, p.velocities if len(p.velocities) else None, p.time_from_start.sec * 10**9 + p.time_from_start.nanosec)
            for p in message.points
        ]
        reason = self._robot.receive(controller, message.joint_names, points, stamp_to_ns(message.header.stamp))
        if reason:
            self.drop(topics.joint_trajectory(controller).name, reason)
            return
        self._owing.discard(controller)
        self._advance()

    def _on_executed(self, message: Any) -> None:
        self._executed_ns = stamp_to_ns(message.header.stamp, 'executed.header.stamp')
        self._pacer.heard()
        self._advance()

    def _advance(self) -> None:
        """The next tick, if it may be made: called on every answer, and by a timer for the pace and for answers that do not come."""
        now, answered = time.monotonic(), self._answered
        if not self._pacer.may_tick(now, answered):
            return
        self._pacer.ticked(now, answered)
        frame = self._robot.tick()
        self._ticks += 1
        self._owing = set(self._robot.controllers)
        self._publish_tick()
        if frame is not None:
            self._publish_frame(frame)
        world = self._robot.world
        if self._ticks % TRUTH_TICKS == 0 or (world.success, world.failure) != self._truth_seen:
            self._publish_truth()

    # --- outputs ----------------------------------------------------------------------------------------------------------------------

    def _publish_tick(self) -> None:
        """Joint states before the clock: who wakes on the clock already has them."""
        world, now = self._robot.world, self._robot.now_ns
        self._joints_out.publish(encode_joint_states(now, self._names, world.qpos[::-1], world.qvel[::-1]))
        self._clock_out.publish(Clock(clock=ns_to_stamp(now)))

    def _publish_frame(self, frame: Frame) -> None:
        for camera, image in frame.images.items():
            frame_id = f'camera_{camera}_color_optical_frame'
            image_out, info_out = self._images[camera]
            image_out.publish(image_to_msg(image, frame.stamp_ns, frame_id))
            info_out.publish(camera_info(self.params.width, self.params.height, frame.stamp_ns, frame_id))

    def _publish_truth(self) -> None:
        world = self._robot.world
        self._truth_seen = (world.success, world.failure)
        values = world.task_values
        self._truth_out.publish(
            SimState(
                header=Header(stamp=ns_to_stamp(self._robot.now_ns)), id=encode_id(self.next_id('sim/state')),
                task=world.task.name, seed=int(world.seed), qpos=world.qpos.tolist(), qvel=world.qvel.tolist(), ctrl=world.targets.tolist(),
                success=bool(world.success), failure=bool(world.failure),
                task_values_names=list(values), task_values=[float(v) for v in values.values()],
            )
        )  # fmt: skip

    def _write_record(self) -> None:
        if self.params.record and len(self._robot.record):
            self._robot.record.write(Path(self.params.record))

    # --- service ----------------------------------------------------------------------------------------------------------------------

    def _reset_scene(self, request: Any, response: Any) -> Any:
        task = self._robot.world.task.name
        if request.task not in ('', task):
            response.message = f'the simulated scene is of task "{task}", not "{request.task}"'
        elif request.seed < 0:
            response.message = f'seed must be 0 or more, got {request.seed}'
        else:
            self._robot.reset_scene(request.seed)
            self._publish_truth()
            response.success, response.message = True, f'scene {request.seed}'
        return response

    def diagnostic_values(self) -> dict[str, object]:
        wall, sim = self._pace
        now, self._pace = (time.monotonic(), self._robot.now_ns), (time.monotonic(), self._robot.now_ns)
        factor = (now[1] - sim) / 1e9 / max(now[0] - wall, 1e-6)
        return {
            'realtime factor': f'{factor:.2f}', 'lock-step': self._pacer.lockstep, 'unanswered ticks': self._pacer.unanswered,
            'recorded': len(self._robot.record), 'targets not finite': self._robot.world.nonfinite_targets,
        }  # fmt: skip


def camera_info(width: int, height: int, stamp_ns: int, frame_id: str) -> CameraInfo:
    """Intrinsics of a camera without distortion."""
    focal = height / 2 / math.tan(math.radians(CAMERA_FOVY) / 2)
    cx, cy = width / 2, height / 2
    msg = CameraInfo(header=Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id), width=width, height=height)
    msg.distortion_model, msg.d = 'plumb_bob', [0.0] * 5
    msg.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    msg.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    msg.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return msg


main = main_of(SimulatedRobotNode)
