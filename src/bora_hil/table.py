"""The arbiter's transition table: every state and event in one place. What is not listed is ignored."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bora_common.types import ArbiterState

S = ArbiterState


class Event(enum.Enum):
    """What can move the arbiter from one state to another."""

    FAULT = 'robot fault'
    CLEARED = 'fault cleared'
    ROBOT_HOLD = 'robot held'
    RESET = 'reset'
    ARRIVED = 'start pose reached'
    START = 'episode started'
    END = 'episode ended'
    TAKEOVER = 'takeover'  # a fresh engaged message while an episode runs
    RELEASE = 'release'  # a fresh message of the engaged device with the deadman up
    SILENCE = 'device silent'
    BLENDED_IN = 'human in control'
    BLENDED_OUT = 'policy in control'
    RESUME = 'resumed'


@dataclass(frozen=True)
class Rule:
    """Where an event leads, and whether chunks proposed so far become void (a new epoch)."""

    state: ArbiterState
    new_epoch: bool = True


_MOVING = (S.AUTONOMOUS, S.BLEND_IN, S.HUMAN, S.BLEND_OUT)

TABLE: dict[tuple[ArbiterState, Event], Rule] = {
    **{(s, Event.FAULT): Rule(S.FAULT) for s in S if s != S.FAULT},
    (S.FAULT, Event.CLEARED): Rule(S.HOLD),
    **{(s, Event.ROBOT_HOLD): Rule(S.HOLD) for s in (S.RESET, *_MOVING)},
    **{(s, Event.RESET): Rule(S.RESET) for s in (S.RESET, S.HOLD, *_MOVING)},
    (S.RESET, Event.ARRIVED): Rule(S.HOLD),
    (S.HOLD, Event.START): Rule(S.AUTONOMOUS),
    **{(s, Event.END): Rule(S.HOLD) for s in (S.RESET, *_MOVING)},
    **{(s, Event.TAKEOVER): Rule(S.BLEND_IN) for s in (S.AUTONOMOUS, S.BLEND_OUT, S.HOLD)},
    **{(s, Event.RELEASE): Rule(S.BLEND_OUT) for s in (S.BLEND_IN, S.HUMAN)},
    **{(s, Event.SILENCE): Rule(S.HOLD) for s in (S.BLEND_IN, S.HUMAN)},
    (S.BLEND_IN, Event.BLENDED_IN): Rule(S.HUMAN, new_epoch=False),
    (S.BLEND_OUT, Event.BLENDED_OUT): Rule(S.AUTONOMOUS, new_epoch=False),
    (S.HOLD, Event.RESUME): Rule(S.AUTONOMOUS),
}
