"""Plays an action chunk: joint positions at any time from steps that are due at fixed times."""

from __future__ import annotations

import math

import numpy as np

from bora_common.types import ActionChunk

FADE_STEPS = 2  # chunk steps of cross-fade between what was played before and a new chunk


def smoothstep(x: float) -> float:
    """0 at x <= 0, 1 at x >= 1, with zero slope at both ends."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


class ChunkPlayer:
    """One chunk adopted at a time, cross-faded from what was commanded before.

    Step i is due at `chunk.due_ns(i)`; between steps a cubic Hermite curve with finite-difference slopes keeps the velocity
    continuous, so that the robot's acceleration limit is not met at every step. Steps that were due before the adoption are
    skipped, never shifted. After the last step its position is kept.
    """

    def __init__(
        self, chunk: ActionChunk, adopted_ns: int, start: np.ndarray, previous: ChunkPlayer | None = None, fade_steps: int = FADE_STEPS
    ):
        """`start` [D] rad is the last sent command; `previous` is faded out where it is still moving, else `start` is."""
        self.chunk = chunk
        self.adopted_ns = adopted_ns
        self._start = np.array(start, dtype=np.float64)
        self._previous = previous
        if previous is not None and previous._faded(adopted_ns):
            previous._previous = None  # keeps no chain of old chunks alive
        self._fade_s = fade_steps * chunk.dt
        positions = np.asarray(chunk.positions, dtype=np.float64)
        # what stands for the step before the first: the command in force, or where the cross-fade takes care of it, the chunk's own course
        before = self._start if fade_steps == 0 else 2.0 * positions[0] - positions[min(1, len(positions) - 1)]
        self._knots = np.vstack([before, positions])
        self._slopes = np.gradient(self._knots, axis=0)  # rad per step
        if fade_steps == 0:
            self._slopes[0] = 0.0

    @property
    def steps(self) -> int:
        """Number of steps k of the chunk."""
        return len(self._knots) - 1

    def _phase(self, t_ns: int) -> float:
        """Steps since the observation: i + 1 is the instant at which step i is due."""
        return (t_ns - self.chunk.stamp_ns) * 1e-9 / self.chunk.dt

    def step(self, t_ns: int) -> int:
        """Index of the step that the robot is moving to at `t_ns`, in 0 … k−1."""
        return min(max(math.ceil(self._phase(t_ns) - 1e-6) - 1, 0), self.steps - 1)

    def played(self, t_ns: int) -> int:
        """Number of steps that are due at or before `t_ns`, skipped ones included."""
        return min(max(math.floor(self._phase(t_ns) + 1e-6), 0), self.steps)

    def exhausted(self, t_ns: int) -> bool:
        """True once the last step is due."""
        return self.played(t_ns) >= self.steps

    def position(self, t_ns: int) -> np.ndarray:
        """Positions [D] rad to command at `t_ns`."""
        target = self._curve(t_ns)
        if self._faded(t_ns):
            return target
        weight = smoothstep((t_ns - self.adopted_ns) * 1e-9 / self._fade_s)
        before = self._previous.position(t_ns) if self._previous is not None else self._start
        return (1.0 - weight) * before + weight * target

    def _faded(self, t_ns: int) -> bool:
        return (t_ns - self.adopted_ns) * 1e-9 >= self._fade_s

    def _curve(self, t_ns: int) -> np.ndarray:
        phase = min(max(self._phase(t_ns), 0.0), float(self.steps))
        i = min(int(phase), self.steps - 1)
        u = phase - i
        p0, p1, m0, m1 = self._knots[i], self._knots[i + 1], self._slopes[i], self._slopes[i + 1]
        uu = u * u
        blend = uu * (3.0 - 2.0 * u)
        return p0 + blend * (p1 - p0) + u * (1.0 - u) * ((1.0 - u) * m0 - u * m1)
