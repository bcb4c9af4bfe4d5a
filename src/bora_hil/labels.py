"""Where the rewards of an episode belong: one pure function of its events (method, section 6).

Steps cover (t0 + j dt, t0 + (j + 1) dt]. Stamps are chosen so that the result does not depend on the grid's origin: the step that
covers `takeover - dt` is the one before the step that covers the takeover, whatever t0 is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bora_common.types import ArbiterState, InterventionEvent, Outcome, RewardEvent

ENGAGED = (ArbiterState.BLEND_IN, ArbiterState.HUMAN)


@dataclass(frozen=True)
class RewardScheme:
    """Values of the rewards that belong to an instant; the penalty of every step is the cutter's."""

    success: float = 1.0
    intervention: float = -0.1
    recovery: float = 0.05


class _Ledger:
    """Walks through the arbiter's events of one episode and books a takeover and its recovery in pairs."""

    def __init__(self, scheme: RewardScheme, dt_ns: int):
        self.scheme = scheme
        self.dt_ns = dt_ns
        self.rewards: list[RewardEvent] = []
        self.state: ArbiterState | None = None
        self._policy_since: int | None = None
        self._open = False  # a takeover is booked and not yet recovered from
        self._released = False  # the newest entry is the recovery of a release

    def take(self, event: InterventionEvent) -> None:
        if event.state == ArbiterState.BLEND_IN:
            self._takeover(event)
        elif event.state == ArbiterState.BLEND_OUT:
            self.recover(event.stamp_ns)
        elif event.state == ArbiterState.AUTONOMOUS:
            self._policy_since = event.stamp_ns
            if event.previous == ArbiterState.HOLD:  # resumed without the human: no deliberate release
                self._open = False
        self.state = event.state

    def _takeover(self, event: InterventionEvent) -> None:
        last_policy_step = event.stamp_ns - self.dt_ns
        if event.previous == ArbiterState.AUTONOMOUS and self._policy_since is not None and last_policy_step > self._policy_since:
            self.rewards.append(RewardEvent(last_policy_step, 'intervention', self.scheme.intervention))
            self._open, self._released = True, False
        elif self._released and event.previous != ArbiterState.HOLD:
            self.rewards.pop()  # taken back before the policy had a step: the same intervention goes on
            self._open, self._released = True, False

    def recover(self, stamp_ns: int) -> None:
        if self._open:
            self.rewards.append(RewardEvent(stamp_ns, 'recovery', self.scheme.recovery))
            self._open, self._released = False, True


def place_rewards(
    started_ns: int,
    ended_ns: int,
    outcome: Outcome,
    interventions: Sequence[InterventionEvent],
    dt: float,
    scheme: RewardScheme = RewardScheme(),
) -> tuple[RewardEvent, ...]:
    """Rewards of an episode that ran in (started, ended], ordered by stamp; `dt` is the step in s.

    * "intervention" on the policy's last step before a takeover; none where the policy had no whole step of its own (a takeover from
      a hold, at the very start, or right after a release).
    * "recovery" on the last human step: at a deliberate release, or at a success in the human's hand. It is paid only for a takeover
      that was charged, so the sum over a takeover is negative and asking for help never pays.
    * "success" at the success, "failure" (value 0) at a failure that ends the task.
    """
    ledger = _Ledger(scheme, round(dt * 1e9))
    for event in sorted(interventions, key=lambda e: e.stamp_ns):
        if started_ns <= event.stamp_ns < ended_ns:
            ledger.take(event)
    if outcome == Outcome.SUCCESS:
        if ledger.state in ENGAGED:
            ledger.recover(ended_ns)
        ledger.rewards.append(RewardEvent(ended_ns, 'success', scheme.success))
    elif outcome == Outcome.FAILURE:
        ledger.rewards.append(RewardEvent(ended_ns, 'failure', 0.0))
    return tuple(sorted(ledger.rewards, key=lambda r: r.stamp_ns))
