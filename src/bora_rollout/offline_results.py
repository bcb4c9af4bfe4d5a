"""The results of the offline phase: rows, intervals, differences, and the page that shows them. Pure; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bora_rollout.evaluate import wilson

METHODS = ('bc-diffusion', 'bc-consistency', 'bc-longer', 'bc-filtered', 'decoupled-critic', 'bora-offline')
VARIANTS = ('standard', 'unseen')
BEST, BASE = 'bora-offline', 'bc-consistency'
CONTROLS = ('bc-consistency', 'bc-longer', 'bc-filtered', 'decoupled-critic')
CRITICS = ('bora-offline', 'decoupled-critic')
RESAMPLES = 10_000
BEGIN, END = '<!-- {}: generated, do not edit -->', '<!-- /{} -->'

Outcomes = Mapping[str, Mapping[str, Mapping[str, str]]]  # method -> variant -> task -> one '0' or '1' a scene


def rows(outcomes: Outcomes, models: Mapping[str, str], seed: int) -> list[dict[str, Any]]:
    """One row a task, method and variant, as `build/results.json` holds them."""
    return [
        {
            'task': task, 'method': method, 'variant': variant, 'seed': seed, 'successes': text.count('1'), 'trials': len(text),
            'online_episodes': 0, 'operator': None, 'online_minutes': 0.0, 'interventions': 0, 'human_time_fraction': 0.0,
            'model_digest': models[method],
        }
        for method, variants in outcomes.items() for variant, tasks in variants.items() for task, text in tasks.items()
    ]  # fmt: skip


def merge(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """`new` rows in place of those for the same task, method, variant and seed; the others stay."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ('task', 'method', 'variant', 'seed'))

    fresh = {key(row) for row in new}
    return [*(row for row in old if key(row) not in fresh), *new]


def difference(better: Mapping[str, str], worse: Mapping[str, str], seed: int = 0) -> dict[str, Any]:
    """Mean over the tasks of the difference in success, with its 95 % interval. Outcomes by task: one '0' or '1' a scene.

    Both methods met the same scenes: the interval is a bootstrap over scenes, within each task. `gained` and `lost`: scenes that only one
    of the two solved.
    """
    rng = np.random.default_rng(seed)
    mean, gained, lost, drawn = [], 0, 0, []
    for task in sorted(better):
        pairs = np.array([int(a) - int(b) for a, b in zip(better[task], worse[task], strict=True)])
        mean.append(pairs.mean())
        gained, lost = gained + int((pairs > 0).sum()), lost + int((pairs < 0).sum())
        drawn.append(pairs[rng.integers(0, len(pairs), (RESAMPLES, len(pairs)))].mean(1))
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return {'mean': float(np.mean(mean)), 'interval95': [float(low), float(high)], 'gained': gained, 'lost': lost}


def differences(outcomes: Outcomes) -> list[dict[str, Any]]:
    """bora-offline minus each control, for each variant."""
    return [
        {'variant': variant, 'method': BEST, 'minus': control, **difference(outcomes[BEST][variant], outcomes[control][variant])}
        for variant in VARIANTS for control in CONTROLS
    ]  # fmt: skip


def mean_rates(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Mean over the tasks of the success rate of each method and variant; every task has as many trials, so the counts pool."""
    result = []
    for method, variants in outcomes.items():
        for variant, tasks in variants.items():
            successes, trials = sum(t.count('1') for t in tasks.values()), sum(map(len, tasks.values()))
            interval = list(wilson(successes, trials))
            result.append({'method': method, 'variant': variant, 'successes': successes, 'trials': trials, 'wilson95': interval})
    return result


def separations(held_out: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By task and method, how well the value tells successful held-out episodes from failed ones, from the trainings' own measures.

    `auc` compares the mean value along each episode; `auc_step_<t>` the value at one step.
    """
    tasks = sorted({task for measured in held_out.values() for task in measured})
    return {
        task: {m: {**held_out[m][task], 'auc': held_out[m][task]['auc_mean']} for m in held_out if task in held_out[m]} for task in tasks
    }  # fmt: skip


# --- page -----------------------------------------------------------------------------------------------------------------------------


def page(report: Mapping[str, Any]) -> str:
    """Markdown of a report (see `offline_table`)."""
    return '\n\n'.join((_head(report), _success(report), _difference_table(report), _value_table(report), _times(report)))


def _head(report: Mapping[str, Any]) -> str:
    plan, where = report['plan'], report['machine']
    commit = f'commit `{report["commit"] or "unknown"}`{" with changes" if report["dirty"] else ""}'
    return (
        '## Offline phase\n\n'
        f'Written by `make offline-table` (seed {report["seed"]}, {commit}, {where["processor"]}, {where["cores"]} cores). '
        f'{plan["demonstrations"]} demonstrations a task, a share of {plan["poor_fraction"]:g} of them poor; '
        f'{plan["trials"]} fresh scenes a task, method and set, the same ones for every method. Success counts; intervals are 95 %.'
    )


def _success(report: Mapping[str, Any]) -> str:
    outcomes, tasks = report['outcomes'], report['plan']['tasks']
    lines = []
    for variant in VARIANTS:
        lines += [f'### Success, {variant} objects', '', _line(('task', *outcomes)), _line(['---'] * (len(outcomes) + 1))]
        for task in tasks:
            lines.append(_line((task, *(f'{o[variant][task].count("1")}/{len(o[variant][task])}' for o in outcomes.values()))))
        means = {m['method']: m for m in report['means'] if m['variant'] == variant}
        lines += [_line(('**mean**', *(_rate(means[method]) for method in outcomes))), '']
    return '\n'.join(lines).rstrip()


def _rate(mean: Mapping[str, Any]) -> str:
    low, high = mean['wilson95']
    return f'**{mean["successes"] / mean["trials"]:.0%}** ({low:.0%} to {high:.0%})'


def _difference_table(report: Mapping[str, Any]) -> str:
    lines = [f'### {BEST} minus its controls, percentage points', '']
    lines += [_line(('objects', 'minus', 'difference', 'only it', 'only the other')), _line(['---'] * 5)]
    for d in report['differences']:
        low, high = (100 * x for x in d['interval95'])
        mean = f'{100 * d["mean"]:+.1f} ({low:+.1f} to {high:+.1f})'
        lines.append(_line((d['variant'], d['minus'], mean, d['gained'], d['lost'])))
    return '\n'.join(lines)


def _value_table(report: Mapping[str, Any]) -> str:
    lines = ['### Value between successful and failed held-out episodes (AUC)', '']
    lines += [_line(('task', 'successful', 'failed', *CRITICS)), _line(['---'] * (3 + len(CRITICS)))]
    columns: dict[str, list[float]] = {method: [] for method in CRITICS}
    for task, methods in report['value'].items():
        counts = next(iter(methods.values()))
        scores = {method: methods.get(method, {}).get('auc') for method in CRITICS}
        lines.append(_line((task, counts['n_success'], counts['n_failure'], *('–' if s is None else f'{s:.2f}' for s in scores.values()))))
        for method, score in scores.items():
            columns[method] += [] if score is None else [score]
    lines.append(_line(('**mean**', '', '', *(f'**{np.mean(c):.2f}**' if c else '–' for c in columns.values()))))
    gates = ', '.join(f'{method} {share:.0%}' for method, share in report['gate_open'].items() if share is not None)
    return '\n'.join([*lines, '', f'Gate open in the second stage: {gates or "–"}.'])


def _times(report: Mapping[str, Any]) -> str:
    stages = _line(('stage', 'minutes')) + '\n' + _line(('---', '---'))
    body = '\n'.join(_line((name, f'{minutes:.1f}')) for name, minutes in report['minutes'].items())
    return f'### Time\n\n{stages}\n{body}'


def _line(cells: Sequence[object]) -> str:
    return '| ' + ' | '.join(str(c) for c in cells) + ' |'


def place_section(text: str, name: str, body: str) -> str:
    """`text` with the generated section `name` put in place of the old one, or at the end."""
    begin, end = BEGIN.format(name), END.format(name)
    section = f'{begin}\n{body}\n{end}'
    if begin in text and end in text:
        head, rest = text.split(begin, 1)
        return head + section + rest.split(end, 1)[1]
    return f'{text.rstrip()}\n\n{section}\n'.lstrip()
