"""One observation from several cameras and the joints: nearest images by stamp, joint positions interpolated to the oldest of them.

Each camera keeps its last few images. Whatever arrives last completes a set; a set is used once, is no older than it must be, and is never
left out because it looks like the one before. `stamp_ns` and `now_ns` are ROS time, `steady_ns` the steady clock, which is what silence
is measured on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_RESET_NS = 1_000_000_000  # a stamp that lies further back than this belongs to a clock that was set back: start again
_IMAGES_KEPT = 8  # of each camera
_RATE_SLACK = 0.1  # of an observation's period; cameras jitter


@dataclass(frozen=True)
class SyncSettings:
    """Tuning; s unless said otherwise."""

    max_rate: float = 15.0  # Hz
    max_skew: float = 0.05  # between the images of a set
    max_age: float = 0.25  # of a set's oldest image
    max_joint_gap: float = 0.1  # between the joint states around an image
    camera_timeout: float = 1.0  # silence of a camera that was there
    startup_timeout: float = 15.0  # for a camera that was not there yet


@dataclass(frozen=True)
class ImageSet:
    """A time-aligned set; `images` are what was offered, in the order of the cameras."""

    stamp_ns: int  # the oldest image's
    images: tuple[Any, ...]
    proprio: np.ndarray  # [P] rad
    skew: float  # s, newest minus oldest image


@dataclass
class _Stream:
    """What one source delivered."""

    items: deque = field(default_factory=deque)  # (stamp_ns, item), stamps rising
    heard_ns: int | None = None  # steady

    @property
    def newest_ns(self) -> int:
        return self.items[-1][0]


class Synchronizer:
    """Pure; offer what arrives, then `take`."""

    def __init__(self, cameras: Sequence[str], settings: SyncSettings, steady_ns: int):
        self.cameras = tuple(cameras)
        self.settings = settings
        self.dropped: Counter[str] = Counter()  # by reason
        self._start_ns = steady_ns
        self._cameras = {name: _Stream(deque(maxlen=_IMAGES_KEPT)) for name in self.cameras}
        self._joints = _Stream(deque(maxlen=512))
        self._last_ns: int | None = None  # stamp of the last set taken

    def offer_image(self, camera: str, stamp_ns: int, image: Any, steady_ns: int) -> bool:
        """False for an image that came late or twice."""
        return self._offer(self._cameras[camera], stamp_ns, image, steady_ns, f'{camera} image')

    def offer_joints(self, stamp_ns: int, positions: np.ndarray, steady_ns: int) -> bool:
        """Measured positions [P] rad; False for a message that came late or twice."""
        return self._offer(self._joints, stamp_ns, positions, steady_ns, 'joint states')

    def take(self, now_ns: int) -> ImageSet | None:
        """The newest complete set that was not taken before, or None."""
        streams = self._cameras.values()
        if not self._joints.items or any(not s.items for s in streams):
            return None
        stamp_ns, chosen = self._nearest(min(s.newest_ns for s in streams))
        if self._last_ns is not None:
            period = (1.0 - _RATE_SLACK) / self.settings.max_rate
            if stamp_ns <= self._last_ns or (stamp_ns - self._last_ns) * 1e-9 < period:
                return None
        skew = (max(s for s, _ in chosen) - stamp_ns) * 1e-9
        if skew > self.settings.max_skew:
            return None  # a nearer image may still come
        if (now_ns - stamp_ns) * 1e-9 > self.settings.max_age:
            self._skip(stamp_ns, 'older than max_age')
            return None
        proprio = self._interpolate(stamp_ns)
        if proprio is None:
            return None
        self._last_ns = stamp_ns
        return ImageSet(stamp_ns, tuple(image for _, image in chosen), proprio, skew)

    def trouble(self, steady_ns: int) -> str:
        """Which source is silent and for how long, empty where none is."""
        sources = {f'camera "{name}"': stream for name, stream in self._cameras.items()} | {'joint states': self._joints}
        for name, stream in sources.items():
            if stream.heard_ns is None:
                if (steady_ns - self._start_ns) * 1e-9 > self.settings.startup_timeout:
                    return f'{name}: nothing received since the start {self.settings.startup_timeout:g} s ago'
            elif (steady_ns - stream.heard_ns) * 1e-9 > self.settings.camera_timeout:
                return f'{name}: silent for {(steady_ns - stream.heard_ns) * 1e-9:.1f} s'
        return ''

    def silent(self, steady_ns: int) -> tuple[str, ...]:
        """Sources that were never heard or are silent for longer than camera_timeout; joint states under that name."""
        limit = self.settings.camera_timeout * 1e9
        sources = {**self._cameras, 'joint states': self._joints}
        return tuple(n for n, s in sources.items() if s.heard_ns is None or steady_ns - s.heard_ns > limit)

    # --- parts --------------------------------------------------------------------------------------------------------------------

    def _offer(self, stream: _Stream, stamp_ns: int, item: Any, steady_ns: int, what: str) -> bool:
        if stream.items and stamp_ns <= stream.newest_ns:
            if stream.newest_ns - stamp_ns < _RESET_NS:
                self.dropped[f'{what} came {"twice" if stamp_ns == stream.newest_ns else "late"}'] += 1
                return False
            self._forget()
        stream.items.append((stamp_ns, item))
        stream.heard_ns = steady_ns
        return True

    def _forget(self) -> None:
        """The clock was set back: nothing that was kept can be compared with what comes."""
        self.dropped['clock set back'] += 1
        for stream in (*self._cameras.values(), self._joints):
            stream.items.clear()
        self._last_ns = None

    def _nearest(self, reference_ns: int) -> tuple[int, list[tuple[int, Any]]]:
        """(oldest stamp, nearest image of each camera) around `reference_ns`, the newest stamp that every camera has reached."""
        chosen = [min(self._cameras[c].items, key=lambda item: abs(item[0] - reference_ns)) for c in self.cameras]
        return min(stamp for stamp, _ in chosen), chosen

    def _skip(self, stamp_ns: int, reason: str) -> None:
        self.dropped[reason] += 1
        self._last_ns = stamp_ns

    def _interpolate(self, stamp_ns: int) -> np.ndarray | None:
        """Joint positions at `stamp_ns`; None while the next joint state is still to come, or where the two around it lie too far apart."""
        before = None
        for sample in reversed(self._joints.items):
            if sample[0] == stamp_ns:
                return sample[1]
            if sample[0] < stamp_ns:
                before = sample
                break
            after = sample
        if before is None or before is self._joints.items[-1]:
            if before is None:
                self._skip(stamp_ns, 'no joint states from before the image')
            return None
        if (after[0] - before[0]) * 1e-9 > self.settings.max_joint_gap:
            self._skip(stamp_ns, 'joint states too far apart')
            return None
        share = (stamp_ns - before[0]) / (after[0] - before[0])
        return before[1] + share * (after[1] - before[1])
