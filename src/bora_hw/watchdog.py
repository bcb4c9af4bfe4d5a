"""Watches what the hardware node depends on. Times are integer nanoseconds of the steady clock unless named otherwise.

A lack of commands holds the robot until they return; everything else that is lost after it was there is a fault, which stays, with its
first reason, until a person clears it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bora_common.topics import JOINT_STATES, joint_trajectory
from bora_common.types import HOLD_SERVICE, Mode

_JUMP_NS = 50_000_000  # a clock that is set back by more than this has jumped


@dataclass(frozen=True)
class Timeouts:
    """How long each thing may be silent, s."""

    command: float = 0.08  # with the watchdog's period and a tick on top, the hold is sent within 0.1 s
    joint_states: float = 0.5
    clock: float = 1.0
    controller: float = 0.5
    startup: float = 15.0  # until joint states, controllers and clock are there


class Watchdog:
    """Mode of the hardware node from what was heard when."""

    def __init__(self, timeouts: Timeouts, steady_ns: int):
        self._timeouts = timeouts
        self._start = steady_ns
        self.fault = ''
        self.held = False  # by a person
        self._command: int | None = None
        self._joints: int | None = None
        self._clock: tuple[int, int] | None = None  # (ROS ns, steady ns of its last change)
        self._controllers: int | None = None  # last time that all of them listened
        self._absent: tuple[str, ...] = ()

    def latch(self, reason: str) -> None:
        """Fault; the first reason stays."""
        self.fault = self.fault or reason

    def note_command(self, steady_ns: int) -> None:
        self._command = steady_ns

    def note_joint_states(self, steady_ns: int) -> None:
        self._joints = steady_ns

    def note_clock(self, ros_ns: int, steady_ns: int) -> None:
        """The present ROS time, 0 before the first /clock."""
        if ros_ns <= 0 and self._clock is None:
            return
        if self._clock is not None and ros_ns < self._clock[0] - _JUMP_NS:
            self.latch(f'clock: ROS time jumped back by {(self._clock[0] - ros_ns) * 1e-9:.3f} s')
        if self._clock is None or ros_ns != self._clock[0]:
            self._clock = (ros_ns, steady_ns)

    def note_controllers(self, absent: Iterable[str], steady_ns: int) -> None:
        """Controllers that do not listen now."""
        self._absent = tuple(absent)
        if not self._absent:
            self._controllers = steady_ns

    def clear(self, steady_ns: int) -> str:
        """Clear the fault; why that can't be done yet, else empty."""
        cause = self._lost(steady_ns) or self._missing()
        if not cause:
            self.fault = ''
            self._command = None
        return cause

    @property
    def prepared(self) -> bool:
        """True once joint states, clock and controllers have been there."""
        return not self._missing()

    def judge(self, steady_ns: int) -> tuple[Mode, str]:
        """Mode and its reason. Latches what is lost."""
        if not self.fault:
            self.latch(self._lost(steady_ns))
        missing = self._missing()
        if missing and not self.fault and steady_ns - self._start > self._timeouts.startup * 1e9:
            self.latch(f'{missing} since {self._timeouts.startup:g} s')
        if self.fault:
            return Mode.FAULT, self.fault
        if missing:
            return Mode.HOLD, f'waiting: {missing}'
        if self.held:
            return Mode.HOLD, HOLD_SERVICE
        if self._late(self._command, steady_ns, self._timeouts.command):
            return Mode.HOLD, f'no command for {self._timeouts.command:g} s'
        return Mode.RUN, ''

    # --- what is wrong ------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _late(last: int | None, steady_ns: int, timeout: float) -> bool:
        return last is None or steady_ns - last > timeout * 1e9

    def _missing(self) -> str:
        """What was never there."""
        if self._clock is None:
            return 'no ROS time on /clock, expected a simulator or use_sim_time false'
        if self._joints is None:
            return f'no {JOINT_STATES.name}, expected a joint_state_broadcaster'
        if self._controllers is None:
            return self._silent_controller()
        return ''

    def _lost(self, steady_ns: int) -> str:
        """What was there and is not any more."""
        limits = self._timeouts
        if self._joints is not None and self._late(self._joints, steady_ns, limits.joint_states):
            return f'joint states: none on {JOINT_STATES.name} for {limits.joint_states:g} s'
        if self._clock is not None and self._late(self._clock[1], steady_ns, limits.clock):
            return f'clock: ROS time stands still for {limits.clock:g} s'
        if self._absent and self._controllers is not None and self._late(self._controllers, steady_ns, limits.controller):
            return self._silent_controller()
        return ''

    def _silent_controller(self) -> str:
        name = self._absent[0] if self._absent else 'not looked for yet'
        return f'controller "{name}" does not listen on {joint_trajectory(name).name}, expected a joint_trajectory_controller'
