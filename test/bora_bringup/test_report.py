"""The report is one self-contained file, also where parts of a run are missing."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from bora_bringup import report, summary
from bora_bringup.results import Results
from bora_bringup.session import EpisodeResult
from bora_common.types import Outcome


def episode(i, outcome, takeovers=0):
    return EpisodeResult(f'run-{i:04d}', i // 2, False, i, outcome, started_ns=0, ended_ns=3_000_000_000, takeovers=takeovers)


def results(online=(), logged=(), metrics=(), notes=()):
    return Results(
        {
            'base_success': summary.success([episode(0, Outcome.TIMEOUT)]), 'final_success': summary.success([episode(0, Outcome.SUCCESS)]),
            'online_success': summary.success(list(online)), 'rounds': 2, 'episodes': len(online), 'interventions': 1,
            'human_time_fraction': 0.2, 'per_round': [0.3, 0.1], 'transitions_executed': 5, 'transitions_logged': 5,
            'transitions_trained': 5, 'weights_published': 2, 'weights_applied': 2, 'weights_refused': 0, 'frames_dropped': 0,
            'takeover_latency_ms': summary.percentiles([20.0]), 'wall_s': 10.0, **summary.provenance(0),
        },
        [], list(online), [], list(logged), list(metrics), list(notes),
    )  # fmt: skip


class Logged:
    """A logged episode with frames of two cameras."""

    def __init__(self, name):
        self.event = SimpleNamespace(episode=name)
        self.steps = [SimpleNamespace(human=i > 2) for i in range(6)]
        self.frames = [SimpleNamespace(camera=c, image=lambda: np.full((64, 64, 3), 90, np.uint8)) for c in ('left', 'front')]

    def strip(self, camera, count):
        return [f for f in self.frames if f.camera == camera] * min(count, 3)


def written(tmp_path, found):
    path = tmp_path / 'report.html'
    report.write(path, found)
    return path.read_text()


def test_it_needs_nothing_from_outside(tmp_path):
    online = [episode(0, Outcome.SUCCESS, 1), episode(1, Outcome.TIMEOUT), episode(2, Outcome.SUCCESS)]
    metrics = [{'update': u, 'actor_loss': 1 / (u + 1), 'constant': 1.0, 'text': 'x'} for u in range(5)]
    text = written(tmp_path, results(online, [Logged('run-0000')], metrics, ['trainer ended, starting it again <soon>']))
    sources = re.findall(r'(?:src|href)="([^"#]{5})', text)
    assert all(s == 'data:' for s in sources) and text.count('<svg') == 3
    assert 'data:image/jpeg;base64,' in text and 'No frames in the log' in text
    assert '&lt;soon&gt;' in text and '<soon>' not in text
    assert '0/1 (0%' in text and '1/1 (100%' in text


@pytest.mark.parametrize('metrics', [[], [{'update': 1, 'loss': 2.0}], [{'other': 1}]])
def test_a_run_without_episodes_or_curves_still_gets_its_report(tmp_path, metrics):
    text = written(tmp_path, results(metrics=metrics))
    assert 'No online episode.' in text and '<h2>Training</h2>' not in text


def test_the_bar_marks_the_human_steps():
    bar = report._share_bar([False, True, True, False], 100)
    assert bar.shape == (5, 100, 3)
    orange = (bar == (234, 138, 31)).all(-1)[0]
    assert orange[25:75].all() and not orange[:25].any() and not orange[75:].any()


def test_missing_figures_show_as_a_dash():
    found = results()
    found.summary['takeover_latency_ms'] = summary.percentiles([])
    found.summary['base_success'] = summary.success([])
    shown = dict(report.rows(found.summary))
    assert shown['Takeover latency'] == '-' and shown['Base alone'] == '-'
