"""When the simulator may tick: pace, lock-step, and a graph that is silent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bora_sim.pacing import PATIENCE, SLACK, Pacer

TICK, TIMEOUT = 0.01, 0.05


def test_before_the_graph_answers_the_pace_is_real_time_even_where_it_is_unlimited():
    pacer = Pacer(TICK, 0.0, TIMEOUT)
    pacer.ticked(1.0, False)
    assert not pacer.may_tick(1.009, False)
    assert pacer.may_tick(1.0101, False)
    assert pacer.unanswered == 0


def test_an_answer_makes_the_next_tick_at_once_where_the_pace_is_unlimited():
    pacer = Pacer(TICK, 0.0, TIMEOUT)
    pacer.heard()
    pacer.ticked(1.0, True)
    assert pacer.may_tick(1.0, True)
    assert not pacer.may_tick(1.0, False)


def test_an_answer_waits_for_the_pace():
    pacer = Pacer(TICK, 2.0, TIMEOUT)
    pacer.heard()
    pacer.ticked(1.0, True)
    assert not pacer.may_tick(1.0049, True)
    assert pacer.may_tick(1.0051, True)


def test_a_delay_is_caught_up_within_bounds():
    pacer = Pacer(TICK, 1.0, TIMEOUT)
    pacer.heard()
    pacer.ticked(1.0, True)
    caught_up = 0
    while pacer.may_tick(3.0, True):
        pacer.ticked(3.0, True)
        caught_up += 1
    assert 0 <= caught_up - SLACK / TICK <= 1 + 1e-9


def test_a_missing_answer_is_waited_for_and_then_counted():
    pacer = Pacer(TICK, 0.0, TIMEOUT)
    pacer.heard()
    pacer.ticked(1.0, True)
    assert not pacer.may_tick(1.049, False)
    assert pacer.may_tick(1.0501, False)
    pacer.ticked(1.0501, False)
    assert pacer.unanswered == 1 and pacer.lockstep


def test_a_graph_that_stays_silent_is_no_longer_waited_for_until_it_speaks():
    pacer, now = Pacer(TICK, 1.0, TIMEOUT), 1.0
    pacer.heard()
    for _ in range(PATIENCE):
        now += TIMEOUT
        assert pacer.lockstep
        pacer.ticked(now, False)
    assert not pacer.lockstep
    assert pacer.may_tick(now + TICK + 1e-9, False)  # not the time-out any more
    pacer.heard()
    assert pacer.lockstep


@given(st.lists(st.floats(0.0, 0.3), min_size=50, max_size=200), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_pace_is_kept_whatever_the_delays(delays, factor):
    """Never more ticks in any stretch than the pace allows, beyond what may be caught up after a delay."""
    pacer, now = Pacer(TICK, factor, TIMEOUT), 0.0
    pacer.heard()
    ticks = []
    for delay in delays:
        now += delay / 100
        if pacer.may_tick(now, True):
            pacer.ticked(now, True)
            ticks.append(now)
    for i, begin in enumerate(ticks):
        for j in range(i, len(ticks)):
            assert (j - i) * TICK / factor <= ticks[j] - begin + SLACK + TICK / factor + 1e-9
