"""The hardware node: commands through the safety filter to ros2_control's controllers. Runs alone in its process."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from bora_common import topics
from bora_common.codec import decode_command, decode_joint_states, encode_executed, encode_joint_trajectory, encode_robot_mode
from bora_common.errors import CodecError, NotFiniteError
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import Mode
from bora_hw.controllers import ControllerMap
from bora_hw.hardware import Hardware, Sent, Settings
from bora_hw.watchdog import Timeouts

_DEFAULT = Timeouts()
_ABSENT_PERIOD = 0.1  # s between two looks at who listens


class HardwareNode(BoraNode):
    """Sends on arrival of a command; its own steady timer watches and holds."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('rate', 100.0, 'control rate, also of the hold', 'Hz', 10.0, 1000.0),
        Parameter('command_timeout', _DEFAULT.command, 'silence of commands that holds the robot until they return', 's', 0.01, 5.0),
        Parameter('max_command_age', 0.1, 'age beyond which a command is dropped', 's', 0.01, 5.0),
        Parameter('joint_state_timeout', _DEFAULT.joint_states, 'silence of /joint_states that is a fault', 's', 0.02, 60.0),
        Parameter('clock_timeout', _DEFAULT.clock, 'standstill of ROS time that is a fault', 's', 0.05, 60.0),
        Parameter('controller_timeout', _DEFAULT.controller, 'absence of a controller that is a fault', 's', 0.2, 60.0),
        Parameter('startup_timeout', _DEFAULT.startup, 'time for joint states, controllers and clock to appear', 's', 1.0, 600.0),
    )

    def __init__(self, name: str = 'hardware', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._hardware: Hardware | None = None
        self._watch = None

    def setup(self) -> None:
        p = self.params
        self._robot = load_robot(resolve(p.robot_config, 'config/robots'))
        timeouts = Timeouts(p.command_timeout, p.joint_state_timeout, p.clock_timeout, p.controller_timeout, p.startup_timeout)
        self._settings = Settings(1.0 / p.rate, p.max_command_age, timeouts)
        self._hardware = Hardware(self._robot, self._settings, time.monotonic_ns())
        self._controllers = ControllerMap(self._robot)
        self._trajectories = {name: self.advertise(topics.joint_trajectory(name)) for name in self._controllers.controllers}
        self._executed = self.advertise(topics.EXECUTED)
        self._states = self.advertise(topics.ROBOT_STATE)
        self.subscribe(topics.JOINT_STATES, self._on_joint_states)
        self.subscribe(topics.COMMAND, self._on_command)
        self.serve(topics.HOLD, self._on_hold)
        self.serve(topics.RESUME, self._on_resume)
        self.serve(topics.CLEAR_FAULT, self._on_clear_fault)

    def start(self) -> None:
        self._hardware = Hardware(self._robot, self._settings, time.monotonic_ns())
        self._absent, self._absent_ns = self._missing_controllers(), time.monotonic_ns()
        self._watch = self.timer(self._settings.period, self._tick, steady=True)

    def stop(self) -> None:
        self.destroy_timer(self._watch)
        self._send(self._hardware.last_hold(self.now_ns(), 'hardware node stops'))

    def safe_action(self, reason: str) -> None:
        """`stop` has sent the last hold; say that it is one."""
        self._hardware.on_unusable('hardware node', reason)
        self._hardware.tick(self.now_ns(), time.monotonic_ns())
        self._announce()

    # --- inputs -------------------------------------------------------------------------------------------------------------------

    def _on_joint_states(self, message: Any) -> None:
        try:
            positions = decode_joint_states(message, self._robot.layout)[1]
        except CodecError as error:  # the robot is not the one that was configured, or its sensors fail: no message to ignore
            self._hardware.on_unusable(topics.JOINT_STATES.name, str(error))
            return
        self._hardware.on_joint_states(positions, time.monotonic_ns())

    def _on_command(self, message: Any) -> None:
        try:
            command = decode_command(message, self._robot.layout)
        except NotFiniteError as error:
            self._hardware.on_unusable(topics.COMMAND.name, str(error))
            self._tick()
            return
        self._send(self._hardware.on_command(command, self.now_ns(), time.monotonic_ns()))
        self._announce()

    def _tick(self) -> None:
        now = time.monotonic_ns()
        if now - self._absent_ns > _ABSENT_PERIOD * 1e9 or self._absent:
            self._absent, self._absent_ns = self._missing_controllers(), now
        self._send(self._hardware.tick(self.now_ns(), now, self._absent))
        self._announce()

    def _on_hold(self, _request: Any, response: Any) -> Any:
        response.success, response.message = True, self._hardware.hold(time.monotonic_ns())
        self._tick()
        return response

    def _on_resume(self, _request: Any, response: Any) -> Any:
        response.success, response.message = self._hardware.resume(time.monotonic_ns())
        self._announce()
        return response

    def _on_clear_fault(self, _request: Any, response: Any) -> Any:
        response.success, response.message = self._hardware.clear_fault(self.now_ns(), time.monotonic_ns())
        self._tick()
        return response

    # --- outputs ------------------------------------------------------------------------------------------------------------------

    def _missing_controllers(self) -> tuple[str, ...]:
        return tuple(name for name, publisher in self._trajectories.items() if publisher.get_subscription_count() == 0)

    def _send(self, sent: Sent | None) -> None:
        """Encode everything, then publish: the trajectories first, the record of them after."""
        if sent is None:
            return
        executed = replace(sent.executed, id=self.next_id('executed'))
        record = encode_executed(executed, self._robot.layout)
        points = self._controllers.split(executed.positions, sent.velocities)
        messages = [(p, encode_joint_trajectory(p.joints, p.positions, p.velocities, sent.time_from_start)) for p in points]
        for point, message in messages:
            self._trajectories[point.controller].publish(message)
        self._executed.publish(record)

    def _announce(self) -> None:
        mode = self._hardware.news(self.now_ns())
        if mode is None:
            return
        self._states.publish(encode_robot_mode(replace(mode, id=self.next_id('robot_state'))))
        text = f'{mode.mode.name}{": " if mode.reason else ""}{mode.reason}'
        if mode.mode == Mode.FAULT:
            self.get_logger().error(text)
        else:  # a call of its own: rclpy ties a severity to the line that logs
            self.get_logger().info(text)

    def degraded(self) -> str:
        """A latched fault shows as an error on /diagnostics."""
        mode, reason = self._hardware.mode
        return reason if mode == Mode.FAULT else ''

    def diagnostic_values(self) -> dict[str, object]:
        mode, reason = self._hardware.mode
        limited = {f'limited by {name}': count for name, count in sorted(self._hardware.limited.items())}
        return {'mode': mode.name, 'reason': reason, 'controllers': ', '.join(self._controllers.controllers), **limited}


main = main_of(HardwareNode)
