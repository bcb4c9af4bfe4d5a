"""The person at the controls, simulated: a joint-level device on `human_command` with the deadman state of the scripted operator."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bora_common import topics
from bora_common.codec import decode_command, decode_episode, encode_human, stamp_to_ns
from bora_common.errors import CodecError
from bora_common.node import BoraNode, main_of
from bora_common.parameters import Parameter
from bora_common.paths import resolve
from bora_common.robot import load_robot
from bora_common.types import EpisodeEvent, EpisodeState, HumanInput
from bora_sim.operator import SKILLS, ScriptedOperator

DEVICE = 'scripted'
NOTHING = np.empty(0, np.intp)


class ScriptedOperatorNode(BoraNode):
    """Watches running episodes that are not evaluations and acts on them.

    The device's messages come at `rate` of ROS time, so that a fast simulation is driven as smoothly as a slow one; a steady timer repeats
    the last one when the clock is slow, because a device does not fall silent with it.
    """

    PARAMETERS = (
        Parameter('robot_config', 'fr3_hand12', 'robot: a file or a name in config/robots'),
        Parameter('task', 'press_button', 'name of the task that the person knows'),
        Parameter('skill', 'skilled', 'how well the person watches and moves', choices=tuple(SKILLS)),
        Parameter('seed', 0, "of the person's own chance", '', 0, 2**31 - 1),
        Parameter('rate', 50.0, "of the device's messages", 'Hz', 10.0, 200.0),
    )

    def __init__(self, name: str = 'scripted_operator', **kwargs: Any):
        super().__init__(name, **kwargs)
        self._tickers: list[Any] = []

    def setup(self) -> None:
        p = self.params
        self._layout = load_robot(resolve(p.robot_config, 'config/robots')).layout
        self._operator = ScriptedOperator(p.task, p.skill, p.seed)
        self._out = self.advertise(topics.HUMAN_COMMAND)
        self.subscribe(topics.COMMAND, self._on_command)
        self.subscribe(topics.EPISODE, lambda m: self._on_episode(decode_episode(m)))
        self.subscribe(topics.SIM_STATE, self._on_truth)

    def start(self) -> None:
        self._sent: np.ndarray | None = None
        self._measured: np.ndarray | None = None
        self._truth: dict[str, float] = {}
        self._episode: EpisodeEvent | None = None  # the running one
        self._acting = False  # the truth of its scene has been seen
        self._takeovers = 0
        self._last, self._published = self._hands_off(), 0.0
        period = 1.0 / self.params.rate
        self._tickers = [self.timer(period, self._act), self.timer(period, self._repeat, steady=True)]

    def stop(self) -> None:
        for timer in self._tickers:
            self.destroy_timer(timer)
        self._publish(self._hands_off())

    # --- what the person sees -------------------------------------------------------------------------------------------------------

    def _on_command(self, message: Any) -> None:
        self._sent = decode_command(message, self._layout).positions

    def _on_episode(self, event: EpisodeEvent) -> None:
        running = event.state == EpisodeState.RUNNING and not event.evaluation
        if running and self._episode is not None and event.episode == self._episode.episode:
            return
        self._operator.end()
        self._acting, self._episode = False, event if running else None

    def _on_truth(self, message: Any) -> None:
        values = np.array([*message.qpos, *message.task_values])
        if len(message.qpos) != len(self._layout) or len(message.task_values) != len(message.task_values_names):
            raise CodecError(f'sim/state: expected {len(self._layout)} joints and a name for each value')
        if not np.isfinite(values).all():
            raise CodecError('sim/state: a value is not finite')
        self._measured = values[: len(self._layout)]
        self._truth = dict(zip(message.task_values_names, message.task_values, strict=True))
        stamp_ns = stamp_to_ns(message.header.stamp, 'sim/state.header.stamp')
        episode = self._episode
        if episode is not None and not self._acting and message.seed == episode.seed and stamp_ns >= episode.started_ns:
            self._operator.begin(episode.seed, self.now_ns())
            self._acting = True

    # --- what the person does ---------------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        if not self._acting or self._sent is None:
            self._publish(self._hands_off())
            return
        before = self._operator.engaged
        command = self._operator.update(self.now_ns(), self._sent, self._measured, self._truth)
        if command.engaged != before:
            self._takeovers += command.engaged
            self.get_logger().info(f'{"takes over" if command.engaged else "hands back"}: {command.reason}')
        driven = np.arange(len(self._layout)) if command.engaged else NOTHING
        self._publish(HumanInput(self.now_ns(), driven, command.targets[driven], command.engaged, DEVICE))

    def _repeat(self) -> None:
        if time.monotonic() - self._published >= 1.5 / self.params.rate:
            self._publish(self._last)

    def _hands_off(self) -> HumanInput:
        return HumanInput(self.now_ns(), NOTHING, np.empty(0), False, DEVICE)

    def _publish(self, value: HumanInput) -> None:
        self._last, self._published = value, time.monotonic()
        message = HumanInput(self.now_ns(), value.indices, value.positions, value.engaged, value.device, self.next_id('human_command'))
        self._out.publish(encode_human(message, self._layout))

    def diagnostic_values(self) -> dict[str, object]:
        return {'engaged': self._operator.engaged, 'acting': self._acting, 'takeovers': self._takeovers}


main = main_of(ScriptedOperatorNode)
