"""The hardware node without ROS: commands in, points to send out, one mode.

Commands are filtered and sent on arrival. `tick`, on the steady clock, is the watchdog: while the robot is held or at fault it gives the
next point of the hold, so that holding is a command too. `now_ns` is ROS time, `steady_ns` the steady clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bora_common.errors import CodecError, NotFiniteError
from bora_common.robot import RobotSpec
from bora_common.types import RESUME_SERVICE, ExecutedCommand, JointCommand, Mode, RobotMode, Source, StreamId, StreamMonitor
from bora_hw.controllers import TICKS_AHEAD
from bora_hw.limiter import DT_RANGE
from bora_hw.safety import SafePoint, SafetyFilter
from bora_hw.watchdog import Timeouts, Watchdog
from bora_hw.workspace import Frames


@dataclass(frozen=True)
class Settings:
    """Tuning of the hardware node."""

    period: float = 0.01  # s, of the control tick
    max_command_age: float = 0.1  # s of ROS time, either way
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True)
class Sent:
    """A point for the controllers and its record."""

    executed: ExecutedCommand
    velocities: np.ndarray  # [D] rad/s
    time_from_start: float  # s


class Hardware:
    """Safety filter and watchdog of one robot."""

    def __init__(self, robot: RobotSpec, settings: Settings, steady_ns: int, kinematics: Frames | None = None):
        self.robot = robot
        self._settings = settings
        self._period_ns = round(settings.period * 1e9)
        self._filter = SafetyFilter(robot, settings.period, kinematics)
        self._watchdog = Watchdog(settings.timeouts, steady_ns)
        self._stream = StreamMonitor()
        self._measured: np.ndarray | None = None
        self._sent_ns = 0  # ROS time of the last point
        self._sent_steady_ns = 0
        self._epoch = 0
        self._run_reason = ''
        self._ignore_until_ns = 0  # commands decided before a fault was cleared
        self._mode = (Mode.HOLD, '')
        self._news = True
        self.limited: dict[str, int] = {}  # points by limit that bit

    # --- inputs -------------------------------------------------------------------------------------------------------------------

    def on_joint_states(self, positions: np.ndarray, steady_ns: int) -> None:
        """Measured positions [D] rad of every joint."""
        self._measured = positions
        self._watchdog.note_joint_states(steady_ns)
        if self._filter.ready and not self._watchdog.fault:
            self._watchdog.latch(self._filter.tracking(positions))

    def on_unusable(self, what: str, reason: str) -> None:
        """A message that must not be ignored: joint states without a joint, numbers that are not finite."""
        self._watchdog.latch(f'{what}: {reason}')

    def on_command(self, command: JointCommand, now_ns: int, steady_ns: int) -> Sent | None:
        """Filter a command; the point to send, or None where it is not followed. Raises CodecError for one that can't count."""
        self._watchdog.note_clock(now_ns, steady_ns)
        self._start(now_ns)
        age = (now_ns - command.stamp_ns) * 1e-9
        if abs(age) > self._settings.max_command_age:
            raise CodecError(f'command: is {age:.3f} s old, expected at most {self._settings.max_command_age:g} s')
        if not self._stream.accept(command.id) and command.id:
            raise CodecError(f'command: number {command.id.seq} came late or twice')
        if command.stamp_ns < self._ignore_until_ns or not self._filter.ready:
            return None
        self._watchdog.note_command(steady_ns)
        if self._judge(steady_ns)[0] != Mode.RUN:
            return None
        stamp_ns = self._stamp(command.stamp_ns, now_ns)
        if stamp_ns - self._sent_ns < DT_RANGE[0] * self._period_ns and self._sent_ns:
            raise CodecError(f'command: {(stamp_ns - self._sent_ns) * 1e-9:.4f} s after the last, faster than the control rate')
        try:
            point = self._filter.filter(command.positions, (stamp_ns - self._sent_ns) * 1e-9 if self._sent_ns else self._settings.period)
        except NotFiniteError as error:
            self._watchdog.latch(str(error))
            return self.tick(now_ns, steady_ns)
        self._epoch = command.epoch
        return self._record(point, stamp_ns, steady_ns, command)

    def tick(self, now_ns: int, steady_ns: int, absent: Iterable[str] | None = None) -> Sent | None:
        """Watch; the next point of the hold where the robot is held. `absent`: controllers that do not listen, where known."""
        self._watchdog.note_clock(now_ns, steady_ns)
        if absent is not None:
            self._watchdog.note_controllers(absent, steady_ns)
        self._start(now_ns)
        mode, reason = self._judge(steady_ns)
        since = (steady_ns - self._sent_steady_ns) * 1e-9
        if mode == Mode.RUN or not self._filter.ready or since < DT_RANGE[0] * self._settings.period:
            return None
        point = self._filter.hold(self._settings.period)
        return self._record(point, max(now_ns, self._sent_ns), steady_ns, None, reason)

    # --- services -----------------------------------------------------------------------------------------------------------------

    def hold(self, steady_ns: int) -> str:
        """Hold until `resume`."""
        self._watchdog.held = True
        return self._judge(steady_ns)[1]

    def resume(self, steady_ns: int) -> tuple[bool, str]:
        """End a person's hold. (done, what follows)"""
        if self._watchdog.fault:
            return False, f'fault: {self._watchdog.fault}; clear_fault first'
        self._watchdog.held = False
        self._run_reason, self._news = RESUME_SERVICE, True
        mode, reason = self._judge(steady_ns)
        return True, reason if mode != Mode.RUN else 'following commands'

    def clear_fault(self, now_ns: int, steady_ns: int) -> tuple[bool, str]:
        """Clear a latched fault; the hold goes on from the measured pose. (done, why not)"""
        if not self._watchdog.fault:
            return True, 'no fault'
        cause = self._watchdog.clear(steady_ns)
        if cause:
            return False, cause
        self._filter.reset(self._measured)
        self._ignore_until_ns, self._run_reason = now_ns, ''
        self._sent_ns = min(self._sent_ns, now_ns)  # the clock may have jumped back
        self._judge(steady_ns)
        return True, 'cleared: holding the measured pose'

    # --- outputs ------------------------------------------------------------------------------------------------------------------

    def news(self, now_ns: int) -> RobotMode | None:
        """The mode, once after each change."""
        if not self._news:
            return None
        self._news = False
        return RobotMode(now_ns, *self._mode)

    @property
    def mode(self) -> tuple[Mode, str]:
        return self._mode

    def last_hold(self, now_ns: int, reason: str) -> Sent | None:
        """One message that stops the robot by itself, for a node that ends; None where nothing was ever sent."""
        if not self._sent_ns:
            return None
        positions, seconds = self._filter.last_stop()
        executed = self._executed(positions, max(now_ns, self._sent_ns), None, (), reason)
        return Sent(executed, np.zeros_like(positions), max(seconds, TICKS_AHEAD * self._settings.period))

    # --- parts --------------------------------------------------------------------------------------------------------------------

    def _start(self, now_ns: int) -> None:
        """Begin from the measured pose once everything that is needed is there; until then nothing is ever sent."""
        if not self._filter.ready and not self._watchdog.fault and self._watchdog.prepared:
            self._filter.reset(self._measured)
            self._ignore_until_ns = now_ns

    def _judge(self, steady_ns: int) -> tuple[Mode, str]:
        mode, reason = self._watchdog.judge(steady_ns)
        if mode == Mode.RUN:
            reason = self._run_reason
        elif self._mode[0] == Mode.RUN:
            self._run_reason = ''
        if (mode, reason) != self._mode:
            self._mode, self._news = (mode, reason), True
        return self._mode

    def _stamp(self, command_ns: int, now_ns: int) -> int:
        """When the point counts as sent: now; in lock-step the command can be a tick ahead of the /clock heard here."""
        return max(now_ns, min(command_ns, now_ns + 2 * self._period_ns))

    def _record(self, point: SafePoint, stamp_ns: int, steady_ns: int, command: JointCommand | None, reason: str = '') -> Sent:
        self._sent_ns, self._sent_steady_ns = stamp_ns, steady_ns
        for limit in point.limits:
            self.limited[limit] = self.limited.get(limit, 0) + 1
        executed = self._executed(point.positions, stamp_ns, command, point.limits, reason)
        return Sent(executed, point.velocities, TICKS_AHEAD * self._settings.period)

    def _executed(
        self, positions: np.ndarray, stamp_ns: int, command: JointCommand | None, limits: tuple[str, ...], reason: str
    ) -> ExecutedCommand:
        if command is None:
            return ExecutedCommand(stamp_ns, positions, positions, limits, Source.HOLD, 0.0, self._epoch, StreamId(), -1, True, reason)
        return ExecutedCommand(
            stamp_ns, positions, command.positions, limits, command.source, command.beta, command.epoch, command.chunk_id,
            command.step, command_id=command.id,
        )  # fmt: skip
