"""Counting rules of the summary, by hand-made runs."""

import numpy as np
import pytest

from bora_bringup import summary
from bora_bringup.results import received_ns
from bora_bringup.session import EpisodeResult, Follower
from bora_common.types import (
    ArbiterState,
    EpisodeEvent,
    EpisodeState,
    ExecutedCommand,
    InterventionEvent,
    Outcome,
    Source,
    StreamId,
    WeightsStatus,
    WeightsVersion,
)

KEYS = (  # every key that the figure's definition names
    'base_success', 'final_success', 'rounds', 'interventions', 'human_time_fraction', 'per_round', 'transitions_executed',
    'transitions_logged', 'transitions_trained', 'weights_published', 'weights_applied', 'weights_refused', 'frames_dropped',
    'takeover_latency_ms', 'wall_s', 'machine', 'date', 'commit', 'seed',
)  # fmt: skip


def result(outcome, **values):
    return EpisodeResult('e', 0, True, 1, outcome, **values)


def event(state, episode='a', outcome=Outcome.NONE, stamp_ns=0, evaluation=False, started_ns=0):
    return EpisodeEvent(stamp_ns, episode, 'press_button', '', 'r', 0, evaluation, 5, state, outcome, '', started_ns)


def moved(state, previous=ArbiterState.AUTONOMOUS):
    return InterventionEvent(0, state, previous, 0.0, 1, '')


def test_only_a_success_counts_as_one():
    found = summary.success([result(o) for o in (Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.FAILURE, Outcome.ABORTED, Outcome.SUCCESS)])
    assert (found['successes'], found['trials']) == (2, 5)


WILSON = [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (0, 0, 0.0, 1.0)]


@pytest.mark.parametrize(('k', 'n', 'low', 'high'), WILSON)
def test_wilson_interval_against_its_table(k, n, low, high):
    assert summary.wilson95(k, n) == pytest.approx((low, high), abs=5e-5)


def test_human_time_is_a_share_of_steps_not_of_episodes():
    assert summary.human_time({0: 10, 1: 0}, {0: 40, 1: 60}) == {'human_time_fraction': 0.1, 'per_round': [0.25, 0.0]}
    assert summary.human_time({}, {}) == {'human_time_fraction': 0.0, 'per_round': []}


def test_a_takeover_is_timed_to_the_first_human_command_after_it():
    ms = 1_000_000
    assert summary.takeover_latencies([100 * ms, 900 * ms], [50 * ms, 130 * ms, 140 * ms, 910 * ms]) == [30.0, 10.0]
    assert summary.takeover_latencies([100 * ms], [50 * ms]) == []  # never answered: not a latency
    assert summary.takeover_latencies([0], [2000 * ms]) == []


def test_percentiles_of_nothing_are_null():
    assert summary.percentiles([]) == {'p50': None, 'p99': None, 'n': 0}
    assert summary.percentiles([1.0, 3.0])['p50'] == 2.0


def test_a_follower_counts_takeovers_of_running_episodes_only():
    f = Follower()
    f.on_intervention(moved(ArbiterState.BLEND_IN))  # before any episode
    f.on_episode(event(EpisodeState.RESETTING))
    f.on_intervention(moved(ArbiterState.BLEND_IN))  # not running yet
    f.on_episode(event(EpisodeState.RUNNING, started_ns=10))
    f.on_intervention(moved(ArbiterState.BLEND_IN))
    f.on_intervention(moved(ArbiterState.HUMAN, ArbiterState.BLEND_IN))
    f.on_episode(event(EpisodeState.ENDED, outcome=Outcome.SUCCESS, stamp_ns=2_000_000_010, started_ns=10))
    f.on_intervention(moved(ArbiterState.BLEND_IN))
    found = f.episodes['a']
    assert found.takeovers == 1 and found.outcome == Outcome.SUCCESS and found.duration == 2.0 and f.over('a')


def test_a_late_mark_changes_the_outcome():
    f = Follower()
    f.on_episode(event(EpisodeState.ENDED, outcome=Outcome.TIMEOUT, stamp_ns=5))
    f.on_episode(event(EpisodeState.AMENDED, outcome=Outcome.SUCCESS, stamp_ns=5))
    assert f.episodes['a'].outcome == Outcome.SUCCESS


def test_a_device_engages_on_the_edge():
    f = Follower()
    for stamp, engaged in ((1, False), (2, True), (3, True), (4, False), (5, True)):
        f.on_human(stamp, engaged)
    assert f.engaged_ns == [2, 5]


def test_weights_are_counted_once_a_version_and_answer():
    f = Follower()
    first, second = WeightsVersion('r', 0, 50), WeightsVersion('r', 0, 100)
    for version, accepted in ((first, True), (first, True), (second, False), (second, False), (second, True)):
        f.on_weights_status(WeightsStatus(0, version, accepted, '' if accepted else 'jump', first))
    assert (f.accepted, f.refused, f.refusals, f.update) == (2, 1, ['jump'], 50)


def command(stamp_ns, *positions, beta=1.0):
    at = np.array(positions, dtype=np.float64)
    return ExecutedCommand(stamp_ns, at, at, (), Source.HUMAN, beta, 1, StreamId(), -1)


def test_a_command_is_found_in_the_record_of_the_controllers_by_time_and_positions():
    t_ns = np.array([100, 200, 300, 400], dtype=np.int64)
    record = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 1.0], [3.0, 3.0]])
    found = received_ns([command(150, 1.0, 1.0), command(200, 1.0, 2.0), command(300, 9.0, 9.0), command(450, 3.0, 3.0)], t_ns, record)
    assert found == [300, 200]  # not what was there before it was sent, and never what the controllers did not take over
    assert received_ns([command(0, 1.0, 1.0)], t_ns + 10**9, record) == []  # a second later is another command


def test_the_first_node_that_reports_an_error_is_named():
    f = Follower()
    f.nodes = {'/bora/perception': (b'\x01', 'dropped', {}), '/bora/trainer': (b'\x02', 'no critic', {})}
    assert f.failed() == '/bora/trainer: no critic'
    assert f.working(['/bora/perception', '/bora/critic']) == ['/bora/critic']


def test_provenance_names_machine_commit_and_seed():
    found = summary.provenance(7)
    assert found['seed'] == 7 and found['machine']['cores'] >= 1 and found['commit'] and found['date']
    assert set(found) <= set(KEYS)
    assert np.isfinite(found['machine']['cores'])
