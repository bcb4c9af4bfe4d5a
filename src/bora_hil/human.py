"""What the person at the controls asks for: one engaged device at a time, and silence as a thing of its own."""

from __future__ import annotations

import numpy as np

from bora_common.types import HumanInput, StreamMonitor


class HumanTargets:
    """Keeps the newest message of the device in control and its joint targets.

    The first device that engages is the one in control until it releases, falls silent, or control is taken from it; other devices
    are not heard meanwhile. Joints that a device never named keep the command they had at takeover; joints that it no longer names
    (a pad whose mode was switched from arm to hand) keep the last target.
    """

    def __init__(self, timeout: float, smoothing: float):
        """`timeout` s of the steady clock make a device silent; targets are reached linearly over `smoothing` s."""
        self._timeout_ns = round(timeout * 1e9)
        self._smoothing_ns = max(round(smoothing * 1e9), 1)
        self._streams: dict[str, StreamMonitor] = {}
        self._news: HumanInput | None = None  # newest message that was not looked at
        self._heard_ns = 0  # steady clock
        self.device: str | None = None  # the one in control
        self._from: np.ndarray | None = None
        self._to: np.ndarray | None = None
        self._since_ns = 0

    def take(self, human: HumanInput, steady_ns: int) -> None:
        """Note a message; repeats and messages of a device that is not in control are ignored."""
        if human.id and not self._streams.setdefault(human.device, StreamMonitor()).accept(human.id):
            return
        if self.device is not None and human.device != self.device:
            return
        if self._news is not None and self._news.engaged and self._news.device != human.device:
            return  # two devices before one tick: the first that engaged
        self._news, self._heard_ns = human, steady_ns

    def news(self, steady_ns: int) -> HumanInput | None:
        """The newest message since the last call, None where there is none or it has gone stale."""
        news, self._news = self._news, None
        return news if news is not None and not self.silent(steady_ns) else None

    def silent(self, steady_ns: int) -> bool:
        """True when nothing has been heard for longer than the time-out."""
        return steady_ns - self._heard_ns > self._timeout_ns

    def begin(self, human: HumanInput, sent: np.ndarray, now_ns: int) -> None:
        """Put the device of `human` in control, from the last sent command [D] rad."""
        self.device = human.device
        self._from = self._to = np.array(sent, dtype=np.float64)
        self._since_ns = now_ns

    def end(self) -> None:
        """Nobody is in control any more."""
        self.device = None

    def aim(self, human: HumanInput, now_ns: int) -> None:
        """New targets of the device in control."""
        self._from = self.targets(now_ns)
        self._to = self._to.copy()
        self._to[human.indices] = human.positions
        self._since_ns = now_ns

    def targets(self, now_ns: int) -> np.ndarray:
        """Targets [D] rad at `now_ns`."""
        share = min(max((now_ns - self._since_ns) / self._smoothing_ns, 0.0), 1.0)
        return self._from + share * (self._to - self._from)
