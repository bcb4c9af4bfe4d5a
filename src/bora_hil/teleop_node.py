"""A pad as a device of the arbiter: joy in, joint targets and service calls out."""

from __future__ import annotations

from dataclasses import replace

from bora_common import topics
from bora_common.codec import decode_command, encode_human, ns_to_stamp
from bora_common.node import BoraNode, interface, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_hil.teleop import Teleop, load_device

SERVICES = {
    'success': topics.MARK_SUCCESS,
    'failure': topics.MARK_FAILURE,
    'abort': topics.ABORT_EPISODE,
    'hold': topics.HOLD,
    'resume': topics.RESUME,
    'scene': topics.RESET_SCENE,
}


class TeleopNode(BoraNode):
    """Answers each joy message (autorepeat of 50 Hz or more) with one human command; no joy, no command: silence stays silence."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('device_config', 'xbox', 'mapping of axes and buttons: a file or a name in config/teleop'),
        Parameter('device_timeout', 0.15, 'gap between joy messages after which the deadman must be pressed anew', 's', 0.02, 2.0),
        Parameter('command_timeout', 0.2, 'age of the last sent command beyond which nobody can engage', 's', 0.02, 5.0),
    )

    def __init__(self, name: str = 'teleop', **kwargs: object):
        super().__init__(name, **kwargs)
        self._last_command = None

    def setup(self) -> None:
        self.robot = load_robot(resolve(self.params.robot_config, 'config/robots'))
        self._device = load_device(resolve(self.params.device_config, 'config/teleop'), self.robot)
        self._publisher = self.advertise(topics.HUMAN_COMMAND)
        self._services_of = {name: self.client(SERVICES[name]) for name in self._device.buttons}
        self.subscribe(topics.COMMAND, self._on_command)
        self.subscribe(topics.JOY, self._on_joy)

    def start(self) -> None:
        self._teleop = Teleop(self.robot, self._device, self.params.device_timeout)
        self._last_command = None

    def _on_command(self, msg: object) -> None:
        self._last_command = decode_command(msg, self.robot.layout)

    def _on_joy(self, msg: object) -> None:
        now_ns = self.now_ns()
        output = self._teleop.update(msg.axes, msg.buttons, now_ns, self._sent(now_ns))
        if output.human is not None:
            self._publisher.publish(encode_human(replace(output.human, id=self.next_id('human_command')), self.robot.layout))
        for name in output.pressed:
            self._call(name, now_ns)

    def _sent(self, now_ns: int):
        last = self._last_command
        return last.positions if last is not None and (now_ns - last.stamp_ns) * 1e-9 <= self.params.command_timeout else None

    def _call(self, name: str, now_ns: int) -> None:
        """Call the service behind a button; the answer is logged when it comes."""
        client = self._services_of[name]
        if not client.service_is_ready():
            self.get_logger().error(f'button "{name}": service {client.srv_name} is not there')
            return
        request = interface(SERVICES[name].type).Request()
        if hasattr(request, 'by'):
            request.stamp, request.by = ns_to_stamp(now_ns), self._device.device
        client.call_async(request).add_done_callback(self.guard(lambda future: self._answered(name, future.result()), f'button {name}'))

    def _answered(self, name: str, response: object) -> None:
        if response.success:  # two call sites: rclpy refuses one that changes its severity
            self.get_logger().info(f'button "{name}": {response.message or "done"}')
        else:
            self.get_logger().warning(f'button "{name}": {response.message or "refused"}')

    def diagnostic_values(self) -> dict[str, object]:
        return {'device': self._device.device, 'mode': self._teleop.mode_name, 'engaged': self._teleop.engaged}


main = main_of(TeleopNode)
