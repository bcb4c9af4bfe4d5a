"""The arbiter as a node: joint states, modes, episodes, human and policy in; commands and interventions out."""

from __future__ import annotations

import time
from dataclasses import replace

from bora_common import topics
from bora_common.codec import (
    decode_chunk,
    decode_episode,
    decode_human,
    decode_joint_states,
    decode_robot_mode,
    encode_command,
    encode_intervention,
)
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot, load_task
from bora_common.types import ArbiterState
from bora_hil.arbiter import Arbiter, ArbiterSettings

_DEFAULT = ArbiterSettings()


class ArbiterNode(BoraNode):
    """Ticks on ROS time; the device's silence is measured on the steady clock."""

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('task_config', 'press_button', 'task: a file or a name in config/tasks; gives the start pose'),
        Parameter('rate', 100.0, 'control rate', 'Hz', 10.0, 1000.0),
        Parameter('horizon', _DEFAULT.horizon, 'steps of a chunk played before a newer one is adopted', 'steps', 1, 1024),
        Parameter('blend_time', _DEFAULT.blend_time, 'ramp of the human share at takeover and release', 's', 0.0, 5.0),
        Parameter('device_timeout', _DEFAULT.device_timeout, 'silence of the engaged device that holds the robot', 's', 0.02, 2.0),
        Parameter('chunk_max_age', _DEFAULT.chunk_max_age, 'age of the observation of a chunk that is still adopted', 's', 0.01, 60.0),
        Parameter('human_smoothing', _DEFAULT.human_smoothing, "time over which a device's new targets are reached", 's', 0.0, 0.5),
        Parameter('reset_speed', _DEFAULT.reset_speed, 'fraction of the velocity and acceleration limits while resetting', '', 0.01, 1.0),
        Parameter('reset_settle', _DEFAULT.reset_settle, 'time at the start pose before it counts as reached', 's', 0.0, 10.0),
        Parameter('event_max_age', _DEFAULT.event_max_age, 'age beyond which a start or resume sets nothing in motion', 's', 0.1, 60.0),
    )

    def __init__(self, name: str = 'arbiter', **kwargs: object):
        super().__init__(name, **kwargs)
        self._arbiter: Arbiter | None = None
        self._ticker = None

    def setup(self) -> None:
        p = self.params
        self.robot = load_robot(resolve(p.robot_config, 'config/robots'))
        self.task = load_task(resolve(p.task_config, 'config/tasks'), self.robot)
        self._settings = ArbiterSettings(
            period=1.0 / p.rate, horizon=p.horizon, blend_time=max(p.blend_time, 1e-6), device_timeout=p.device_timeout,
            chunk_max_age=p.chunk_max_age, human_smoothing=p.human_smoothing, reset_speed=p.reset_speed,
            reset_settle=p.reset_settle, event_max_age=p.event_max_age,
        )  # fmt: skip
        layout = self.robot.layout
        self._arbiter = Arbiter(self.robot, self.task, self._settings)
        self._commands = self.advertise(topics.COMMAND)
        self._interventions = self.advertise(topics.INTERVENTION)
        self.subscribe(topics.JOINT_STATES, lambda m: self._arbiter.on_joints(decode_joint_states(m, layout)[1]))
        self.subscribe(topics.ROBOT_STATE, lambda m: self._arbiter.on_robot(decode_robot_mode(m)))
        self.subscribe(topics.EPISODE, lambda m: self._arbiter.on_episode(decode_episode(m)))
        self.subscribe(topics.HUMAN_COMMAND, lambda m: self._arbiter.on_human(decode_human(m, layout), time.monotonic_ns()))
        self.subscribe(topics.CHUNK, lambda m: self._arbiter.on_chunk(decode_chunk(m, layout)))

    def start(self) -> None:
        self._arbiter = Arbiter(self.robot, self.task, self._settings)
        self._ticker = self.timer(self._settings.period, self._tick)

    def stop(self) -> None:
        self.destroy_timer(self._ticker)

    def _tick(self) -> None:
        """Decide and publish in one callback: nothing can come between."""
        decision = self._arbiter.tick(self.now_ns(), time.monotonic_ns())
        if decision.command is not None:
            self._commands.publish(encode_command(replace(decision.command, id=self.next_id('command')), self.robot.layout))
        for event in decision.events:
            self._interventions.publish(encode_intervention(replace(event, id=self.next_id('intervention'))))
            self.get_logger().info(f'{event.previous.name} -> {event.state.name}: {event.reason}')

    def diagnostic_values(self) -> dict[str, object]:
        arbiter = self._arbiter
        values = {f'chunks dropped {reason}': count for reason, count in sorted(arbiter.dropped.items())}
        waiting = 'joint states' if arbiter.sent is None else 'chunk' if self._waits_for_chunk else 'nothing'
        return {'state': arbiter.state.name, 'epoch': arbiter.epoch, 'beta': arbiter.beta, 'waiting for': waiting, **values}

    @property
    def _waits_for_chunk(self) -> bool:
        return self._arbiter.state in (ArbiterState.AUTONOMOUS, ArbiterState.BLEND_OUT) and not self._arbiter.playing


main = main_of(ArbiterNode)
