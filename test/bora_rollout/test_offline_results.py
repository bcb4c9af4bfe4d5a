"""Rows, intervals and the page, against hand-computed cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bora_rollout.offline_results import METHODS, VARIANTS, difference, differences, mean_rates, merge, page, place_section, rows
from bora_rollout.offline_results import separations as by_task

TASKS = ('lift', 'press')


def outcomes(**texts):
    """All methods solve every second scene of 20, but for those given."""
    return {m: {v: {t: texts.get(m.replace('-', '_'), '01' * 10) for t in TASKS} for v in VARIANTS} for m in METHODS}


def test_rows_have_the_agreed_fields():
    made = rows({'bc-longer': {'unseen': {'press': '0110', 'lift': '1111'}}}, {'bc-longer': 'abc'}, 3)
    assert made[0] == {
        'task': 'press', 'method': 'bc-longer', 'variant': 'unseen', 'seed': 3, 'successes': 2, 'trials': 4, 'online_episodes': 0,
        'operator': None, 'online_minutes': 0.0, 'interventions': 0, 'human_time_fraction': 0.0, 'model_digest': 'abc',
    }  # fmt: skip
    assert made[1]['task'] == 'lift' and made[1]['successes'] == 4


def test_new_rows_replace_their_own_and_leave_others():
    def row(method, seed, successes):
        return {'task': 't', 'method': method, 'variant': 'standard', 'seed': seed, 'successes': successes}

    merged = merge([row('bc-longer', 0, 1), row('bora-full', 0, 2), row('bc-longer', 1, 3)], [row('bc-longer', 0, 9)])
    found = sorted((r['method'], r['seed'], r['successes']) for r in merged)
    assert found == [('bc-longer', 0, 9), ('bc-longer', 1, 3), ('bora-full', 0, 2)]


def test_a_difference_counts_pairs_of_the_same_scene():
    found = difference({'a': '1111', 'b': '0011'}, {'a': '1100', 'b': '0101'})
    assert found['mean'] == pytest.approx((2 / 4 + 0) / 2)
    assert (found['gained'], found['lost']) == (3, 1)
    low, high = found['interval95']
    assert low < found['mean'] < high


def test_the_interval_of_a_difference_is_that_of_its_standard_error():
    rng = np.random.default_rng(1)
    pair = {m: {t: ''.join('01'[int(x)] for x in rng.random(400) < p) for t in TASKS} for m, p in (('better', 0.7), ('worse', 0.5))}
    found = difference(pair['better'], pair['worse'])
    gaps = [np.array([int(a) - int(b) for a, b in zip(pair['better'][t], pair['worse'][t], strict=True)]) for t in TASKS]
    error = np.sqrt(sum(g.var() / 400 for g in gaps)) / 2
    assert found['interval95'] == pytest.approx([found['mean'] - 1.96 * error, found['mean'] + 1.96 * error], abs=0.004)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_difference_turns_its_sign_with_its_sides(pairs):
    a, b = ({'t': ''.join('01'[p[i]] for p in pairs)} for i in (0, 1))
    one, other = difference(a, b), difference(b, a)
    assert one['mean'] == pytest.approx(-other['mean']) and (one['gained'], one['lost']) == (other['lost'], other['gained'])
    assert one['interval95'][0] <= one['mean'] + 1e-9 and one['mean'] - 1e-9 <= one['interval95'][1]


def test_the_same_outcomes_make_no_difference():
    for found in differences(outcomes()):
        assert found['mean'] == 0 and found['interval95'] == [0, 0] and found['gained'] == found['lost'] == 0


def test_means_pool_the_tasks():
    found = {(m['method'], m['variant']): m for m in mean_rates(outcomes(bora_offline='1' * 20))}
    assert (found['bora-offline', 'unseen']['successes'], found['bora-offline', 'unseen']['trials']) == (40, 40)
    assert found['bc-longer', 'standard']['successes'] == 20
    assert found['bc-longer', 'standard']['wilson95'] == pytest.approx([0.352, 0.648], abs=1e-3)


def test_the_value_of_an_episode_is_its_mean():
    measured = {'auc': 0.6, 'auc_mean': 0.9, 'auc_step_16': 0.8, 'n_success': 5, 'n_failure': 4}
    found = by_task({'bora-offline': {'lift': measured}, 'decoupled-critic': {'lift': {**measured, 'auc_mean': None}}})
    assert found['lift']['bora-offline']['auc'] == 0.9 and found['lift']['decoupled-critic']['auc'] is None
    assert found['lift']['bora-offline']['n_failure'] == 4 and found['lift']['bora-offline']['auc_step_16'] == 0.8


def test_the_page_shows_counts_differences_and_values():
    played = outcomes(bora_offline='0111' * 5)
    report = {
        'seed': 0, 'commit': 'c0ffee', 'dirty': True, 'machine': {'processor': 'Abacus', 'cores': 2},
        'plan': {'tasks': TASKS, 'demonstrations': 7, 'poor_fraction': 0.2, 'trials': 20}, 'outcomes': played, 'means': mean_rates(played),
        'differences': differences(played), 'gate_open': {'bora-offline': 0.4, 'decoupled-critic': None}, 'minutes': {'own': 1.25},
        'value': {
            'lift': {'bora-offline': {'auc': 0.91, 'n_success': 5, 'n_failure': 4}, 'decoupled-critic': {'auc': None}},
            'press': {'bora-offline': {'auc': 0.81, 'n_success': 2, 'n_failure': 7}},
        },
    }  # fmt: skip
    text = page(report)
    assert '| lift | 10/20 | 10/20 | 10/20 | 10/20 | 10/20 | 15/20 |' in text
    assert '| standard | bc-longer | +25.0 (' in text and '| lift | 5 | 4 | 0.91 | – |' in text
    assert '| **mean** |  |  | **0.86** | – |' in text
    assert 'commit `c0ffee` with changes' in text and 'Gate open in the second stage: bora-offline 40%.' in text and '| own | 1.2 |' in text


def test_a_section_is_replaced_in_place():
    text = place_section('# Results\n', 'one', 'first')
    text = place_section(text, 'two', 'second')
    text = place_section(text + '\nWritten by hand.\n', 'one', 'changed')
    assert 'first' not in text and text.index('changed') < text.index('second') < text.index('Written by hand.')
    assert text.startswith('# Results\n\n<!-- one')
