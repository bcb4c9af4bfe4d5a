"""When the simulator may make its next tick: after the graph's answer to this one, and no faster than its pace. Pure; wall time in s."""

from __future__ import annotations

import math

PATIENCE = 20  # unanswered ticks in a row after which the graph counts as silent
SLACK = 0.1  # s that may be caught up after a delay; what is beyond is forgotten


class Pacer:
    """Lock-step with a graph that answers each tick, bounded in wall time.

    A graph that has not begun to answer, or has stopped to, is not waited for: the simulation then runs at its pace, at most in real time.
    """

    def __init__(self, tick: float, realtime_factor: float, timeout: float):
        self._tick, self._timeout = tick, timeout
        self._period = tick / realtime_factor if realtime_factor > 0 else 0.0
        self.lockstep = False
        self.unanswered = 0  # ticks that the graph owed an answer in time
        self._in_a_row = 0
        self._last = self._due = -math.inf

    def heard(self) -> None:
        """The graph sent something."""
        self.lockstep, self._in_a_row = True, 0

    def may_tick(self, now: float, answered: bool) -> bool:
        """True when the next tick may be made at `now`, given whether this one was answered."""
        if self.lockstep and not answered and now - self._last < self._timeout:
            return False
        return now >= self._due

    def ticked(self, now: float, answered: bool) -> None:
        """A tick was made at `now`, whether or not the one before it was answered."""
        if self.lockstep and not answered:
            self.unanswered += 1
            self._in_a_row += 1
            self.lockstep = self._in_a_row < PATIENCE
        period = self._period if self.lockstep else max(self._period, self._tick)
        begin = max(self._due, now - SLACK) if math.isfinite(self._due) else now
        self._last, self._due = now, begin + period

    @property
    def poll_period(self) -> float:
        """How often to ask, s, besides at every answer."""
        return 0.005 if self._period else self._tick  # without a pace to keep, answers alone drive it
