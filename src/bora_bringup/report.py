"""report.html of a demonstration run: one file, plots and camera strips inside; and the table for the terminal."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bora_bringup.session import EpisodeResult
from bora_common.types import Outcome

if TYPE_CHECKING:
    from bora_bringup.results import Results

STRIP_FRAMES = 8
STRIP_HEIGHT = 96  # px
CURVES = 21  # at most
COUNTERS = ('update', 'round', 'round_update', 'transitions', 'updates_per_second')  # of the trainer's metrics: no curves worth a plot
BLUE, ORANGE, GREEN, RED, GREY = '#2563eb', '#ea8a1f', '#2e9e5b', '#d0453e', '#9aa3af'
COLOURS = {Outcome.SUCCESS: GREEN, Outcome.FAILURE: RED, Outcome.TIMEOUT: ORANGE, Outcome.ABORTED: GREY, Outcome.NONE: GREY}

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; color: #1f2933; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #d9dee5; padding-bottom: .25rem; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; color: #52606d; } td.n { font-variant-numeric: tabular-nums; }
.strip { margin: .35rem 0 1rem; } .strip img { width: 100%; border-radius: 4px; display: block; }
.tag { color: white; border-radius: 3px; padding: 0 .45em; font-size: .85em; } img.plot { max-width: 100%; }
"""


def write(path: Path, results: Results) -> None:
    """Write the report."""
    summary = results.summary
    parts = [
        f'<h1>bora: {html.escape(path.parent.name)}</h1>',
        _table(rows(summary)),
        '<h2>Success on the same poses, before and after</h2>', _plot(lambda a: _success_bars(a, summary), (6, 2.6)),
        '<h2>Online episodes</h2>', _plot(lambda a: _episode_bars(a, results.online), (10, 3)),
        *_training(results),
        '<h2>Camera strips</h2>', *_strips(results),
        '<h2>Provenance</h2>', _table([(k, str(summary.get(k))) for k in ('date', 'commit', 'seed', 'machine', 'phases_s')]),
        *(['<h2>Notes</h2>', _list(results.notes)] if results.notes else []),
    ]  # fmt: skip
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>bora {html.escape(path.parent.name)}</title>'
    path.write_text(f'{head}<style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n')


# --- the table -----------------------------------------------------------------------------------------------------------------------


def rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as (name, text) for a person."""
    s, latency = summary, summary['takeover_latency_ms']
    text = '-' if latency['p50'] is None else f'p50 {latency["p50"]:.0f} ms, p99 {latency["p99"]:.0f} ms (n = {latency["n"]})'
    per_round = ', '.join(f'{v:.0%}' for v in summary['per_round'])
    return [
        ('Base alone', _rate(summary['base_success'])),
        ('After learning', _rate(summary['final_success'])),
        ('Online episodes', f'{summary["episodes"]} in {summary["rounds"]} rounds, {_rate(summary["online_success"])} succeeded'),
        ('Human takeovers', f'{summary["interventions"]}; {summary["human_time_fraction"]:.1%} of the time (by round: {per_round or "-"})'),
        ('Transitions', f'{s["transitions_executed"]} executed, {s["transitions_logged"]} logged, {s["transitions_trained"]} trained'),
        ('Weights', f'{s["weights_published"]} published, {s["weights_applied"]} applied, {s["weights_refused"]} refused'),
        ('Takeover latency', text),
        ('Camera frames dropped', str(summary['frames_dropped'])),
        ('Wall time', f'{summary["wall_s"]:.0f} s'),
    ]  # fmt: skip


def _rate(success: dict[str, Any]) -> str:
    if not success['trials']:
        return '-'
    low, high = success['wilson95']
    return f'{success["successes"]}/{success["trials"]} ({success["successes"] / success["trials"]:.0%}; 95 %: {low:.0%} to {high:.0%})'


def print_summary(summary: dict[str, Any], run_dir: Path) -> None:
    """The table and where everything lies."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, title='bora demo')
    for name, text in rows(summary):
        table.add_row(name, text)
    console = Console()
    console.print(table)
    console.print(f'{run_dir}/report.html, summary.json', soft_wrap=True)


def _table(pairs: Sequence[tuple[str, str]]) -> str:
    return '<table>' + ''.join(f'<tr><th>{html.escape(a)}</th><td class="n">{html.escape(b)}</td></tr>' for a, b in pairs) + '</table>'


def _list(lines: Sequence[str]) -> str:
    return '<ul>' + ''.join(f'<li>{html.escape(line)}</li>' for line in lines) + '</ul>'


# --- plots ---------------------------------------------------------------------------------------------------------------------------


def _plot(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots()
    axes.spines[['top', 'right']].set_visible(False)
    draw(axes)
    out = io.StringIO()
    figure.savefig(out, format='svg')
    svg = out.getvalue()
    return f'<div>{svg[svg.index("<svg"):]}</div>'


def _success_bars(axes: Any, summary: dict[str, Any]) -> None:
    values = [('base alone', summary['base_success'], GREY), ('after learning', summary['final_success'], BLUE)]
    for i, (_, success, colour) in enumerate(values):
        rate, (low, high) = success['successes'] / max(success['trials'], 1), success['wilson95']
        axes.barh(i, rate, color=colour, height=0.6)
        axes.errorbar(rate, i, xerr=[[max(rate - low, 0)], [max(high - rate, 0)]], color='black', capsize=4, lw=1)
    axes.set_yticks(range(2), [v[0] for v in values])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel('success rate (whiskers: Wilson 95 %)')


def _episode_bars(axes: Any, online: Sequence[EpisodeResult]) -> None:
    for i, r in enumerate(online):
        axes.bar(i, r.duration, color=COLOURS[r.outcome], width=0.75)
        if r.takeovers:
            axes.text(i, r.duration, f'{r.takeovers}×', ha='center', va='bottom', fontsize=8)
    for i in range(1, len(online)):
        if online[i].round != online[i - 1].round:
            axes.axvline(i - 0.5, color='black', lw=0.8, ls=':')
    for outcome in dict.fromkeys(r.outcome for r in online):
        axes.bar(0, 0, color=COLOURS[outcome], label=outcome.name.lower())
    axes.set_xlabel('online episode (n×: takeovers)')
    axes.set_ylabel('length [s]')
    axes.xaxis.get_major_locator().set_params(integer=True)
    if online:
        axes.legend(frameon=False, ncols=4, loc='lower right', bbox_to_anchor=(1.0, 1.0))


def _training(results: Results) -> list[str]:
    rows_ = [r for r in results.metrics if 'update' in r]
    names = [n for n in dict.fromkeys(k for r in rows_ for k in r) if n not in COUNTERS and _is_curve(rows_, n)]
    if not names:
        return []
    return ['<h2>Training</h2>', _plot_grid(rows_, names[:CURVES])]


def _is_curve(rows_: Sequence[dict[str, Any]], name: str) -> bool:
    values = [r[name] for r in rows_ if name in r]
    return len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and len(set(values)) > 1


def _plot_grid(rows_: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    from matplotlib.figure import Figure

    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(10, 2.1 * lines), layout='constrained')
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names, strict=False):
        points = np.array([(r['update'], r[name]) for r in rows_ if name in r], dtype=np.float64)
        axes.plot(points[:, 0], points[:, 1], color=BLUE, lw=1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in list(figure.axes)[len(names) :]:
        axes.remove()
    out = io.StringIO()
    figure.savefig(out, format='svg')
    svg = out.getvalue()
    return f'<div>{svg[svg.index("<svg"):]}</div>'


# --- camera strips -------------------------------------------------------------------------------------------------------------------


def _strips(results: Results) -> list[str]:
    logged = {e.event.episode: e for e in results.logged}
    parts = []
    for number, result in enumerate(results.online, 1):
        colour = COLOURS[result.outcome]
        tag = f'<span class="tag" style="background:{colour}">{result.outcome.name.lower()}</span>'
        text = f'Round {result.round + 1}, episode {number}: {result.duration:.1f} s, takeovers: {result.takeovers}'
        parts.append(f'<div class="strip">{text} {tag}{_strip(logged.get(result.id))}</div>')
    return parts or ['<p>No online episode.</p>']


def _strip(episode: Any) -> str:
    """Frames of the front camera (or the first there is) from start to end, as one picture; a bar below marks the human's steps."""
    if episode is None or not episode.frames:
        return '<p>No frames in the log.</p>'
    cameras = list(dict.fromkeys(f.camera for f in episode.frames))
    camera = 'front' if 'front' in cameras else cameras[0]
    images = [f.image() for f in episode.strip(camera, STRIP_FRAMES)]
    picture = np.concatenate([_scaled(i) for i in images], axis=1)
    picture = np.concatenate([picture, _share_bar([s.human for s in episode.steps], picture.shape[1])], axis=0)
    return f'<img alt="{camera} camera" src="data:image/jpeg;base64,{_jpeg(picture)}">'


def _scaled(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.resize(image, (round(image.shape[1] * STRIP_HEIGHT / image.shape[0]), STRIP_HEIGHT), interpolation=cv2.INTER_LINEAR)


def _share_bar(human: Sequence[bool], width: int) -> np.ndarray:
    """Bar [5, width, 3] over the episode's time: orange where the human drove, grey elsewhere."""
    bar = np.full((5, width, 3), (217, 222, 229), np.uint8)
    for i, flag in enumerate(human):
        if flag:
            bar[:, width * i // len(human) : width * (i + 1) // len(human)] = (234, 138, 31)
    return bar


def _jpeg(image: np.ndarray) -> str:
    import cv2

    done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        raise ValueError('camera strip: an image could not be encoded')
    return base64.b64encode(data.tobytes()).decode()
