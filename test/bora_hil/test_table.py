"""Every state and every event, written down by hand once more: what is not here must be ignored."""

import pytest

from bora_common.types import ArbiterState as S
from bora_hil.table import TABLE, Event

ALL = {S.RESET, S.HOLD, S.AUTONOMOUS, S.BLEND_IN, S.HUMAN, S.BLEND_OUT, S.FAULT}
EXPECTED = {
    Event.FAULT: (ALL - {S.FAULT}, S.FAULT, True),
    Event.CLEARED: ({S.FAULT}, S.HOLD, True),
    Event.ROBOT_HOLD: (ALL - {S.FAULT, S.HOLD}, S.HOLD, True),
    Event.RESET: (ALL - {S.FAULT}, S.RESET, True),
    Event.ARRIVED: ({S.RESET}, S.HOLD, True),
    Event.START: ({S.HOLD}, S.AUTONOMOUS, True),
    Event.END: (ALL - {S.FAULT, S.HOLD}, S.HOLD, True),
    Event.TAKEOVER: ({S.AUTONOMOUS, S.BLEND_OUT, S.HOLD}, S.BLEND_IN, True),
    Event.RELEASE: ({S.BLEND_IN, S.HUMAN}, S.BLEND_OUT, True),
    Event.SILENCE: ({S.BLEND_IN, S.HUMAN}, S.HOLD, True),
    Event.BLENDED_IN: ({S.BLEND_IN}, S.HUMAN, False),
    Event.BLENDED_OUT: ({S.BLEND_OUT}, S.AUTONOMOUS, False),
    Event.RESUME: ({S.HOLD}, S.AUTONOMOUS, True),
}


@pytest.mark.parametrize('event', Event)
@pytest.mark.parametrize('state', S)
def test_every_pair(state, event):
    sources, target, new_epoch = EXPECTED[event]
    rule = TABLE.get((state, event))
    if state in sources:
        assert rule is not None and rule.state == target and rule.new_epoch == new_epoch
    else:
        assert rule is None


def test_nothing_leaves_a_fault_but_its_clearing():
    assert [e for s, e in TABLE if s == S.FAULT] == [Event.CLEARED]


def test_silence_never_leads_to_the_policy():
    assert {r.state for (_, e), r in TABLE.items() if e == Event.SILENCE} == {S.HOLD}
