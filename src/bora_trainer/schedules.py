"""Schedules over the updates of one round, as fractions of the planned updates, so that a short run goes through them whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """Linear from `start` to `end` over `fraction` of the planned updates, constant afterwards."""

    start: float
    end: float
    fraction: float

    def at(self, update: int, planned: int) -> float:
        """Value at `update`, counted from the start of the round."""
        length = max(self.fraction * planned, 1e-9)
        return self.start + (self.end - self.start) * min(max(update, 0) / length, 1.0)


# The paper's 4,000 and 10,000 of 15,000 updates (method, section 7).
ALPHA = Ramp(0.2, 0.75, 4 / 15)
IMITATION = Ramp(2.0, 1.0, 10 / 15)
