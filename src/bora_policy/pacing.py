"""When to propose: only the newest observation, one inference in flight, at most a given rate of ROS time."""

from __future__ import annotations

from collections import deque

from bora_common.types import InterventionEvent, Observation

EPOCHS_KEPT = 64
RATE_SLACK = 0.05  # share of the period that an observation's stamp may come early (a camera's jitter)


class EpochLog:
    """The epoch in force at an instant, from the arbiter's event log."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, int]] = deque(maxlen=EPOCHS_KEPT)

    def add(self, event: InterventionEvent) -> None:
        """Take up one event; a repeated one changes nothing."""
        if not self._events or event.epoch > self._events[-1][1]:
            self._events.append((event.stamp_ns, event.epoch))
        elif event.epoch < self._events[-1][1] and event.stamp_ns > self._events[-1][0]:
            self._events.clear()  # the arbiter started anew and counts from the beginning
            self._events.append((event.stamp_ns, event.epoch))

    def at(self, stamp_ns: int) -> int:
        """Newest epoch whose event is not later than `stamp_ns`; 0 before the first."""
        return next((epoch for begin, epoch in reversed(self._events) if begin <= stamp_ns), 0)


class Mailbox:
    """Holds the newest observation worth a proposal. The owner serialises access."""

    def __init__(self, max_rate: float):
        """`max_rate` Hz of ROS time."""
        self._period_ns = round(1e9 / max_rate * (1 - RATE_SLACK))
        self._waiting: Observation | None = None
        self._last_ns: int | None = None
        self.skipped = 0  # replaced by a newer one before their turn came

    def offer(self, observation: Observation) -> None:
        """Take in an observation; outside a running episode there is nothing to propose."""
        if not observation.episode:
            self._waiting = None
            return
        self.skipped += self._waiting is not None
        self._waiting = observation

    def take(self) -> Observation | None:
        """The newest observation, if the last proposal's is at least a period older; ROS time may have been set back."""
        observation = self._waiting
        if observation is None:
            return None
        self._waiting = None
        if self._last_ns is not None and 0 <= observation.stamp_ns - self._last_ns < self._period_ns:
            return None
        self._last_ns = observation.stamp_ns
        return observation
