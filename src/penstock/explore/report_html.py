"""The page of a search: parallel coordinates, Pareto scatter, capacity curves, and every point's own run.

One file, plotly.js inline. A click on a point, or on a row of the table, opens what is known of it: figures, the
time of its stages by cause, every rate tried, its cluster config, and the command that runs it.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from penstock.explore.charts import latency_figure
from penstock.explore.design_point import cluster_config
from penstock.explore.evaluate import PILOT
from penstock.explore.objectives import values_of
from penstock.explore.report import point_command, table_rows
from penstock.explore.result import PointResult
from penstock.explore.study import StudyOutcome
from penstock.rendering.pages import COLOURS, div, figure, page, plotly_script

_CURVES_SHOWN = 8
_COORDINATES = ("tp", "pp", "replicas", "max_num_seqs", "max_num_batched_tokens")
_CHOICES = ("hardware", "partition", "policy", "router", "network", "dtype")

_SCRIPT = """
const points = JSON.parse(document.getElementById('points').textContent);
function cell(row, text, tag) { const c = document.createElement(tag || 'td'); c.textContent = text; row.append(c); }
function table(head, rows) {
  const t = document.createElement('table'), h = t.insertRow();
  head.forEach(x => cell(h, x, 'th'));
  rows.forEach(r => { const tr = t.insertRow(); r.forEach(x => cell(tr, x)); });
  return t;
}
function show(index) {
  const p = points[index], box = document.getElementById('detail');
  box.replaceChildren();
  const title = document.createElement('h2'); title.textContent = p.label; box.append(title);
  const text = document.createElement('p'); text.textContent = p.summary; box.append(text);
  if (p.stages.length) {
    const bars = document.createElement('div'); bars.className = 'bars';
    p.stages.forEach(s => {
      const line = document.createElement('div'); line.className = 'bar';
      const name = document.createElement('span'); name.textContent = s.name; line.append(name);
      s.parts.forEach(([cause, share, colour]) => {
        const b = document.createElement('i'); b.style.width = (share * 100) + '%'; b.style.background = colour;
        b.title = cause + ' ' + (share * 100).toFixed(1) + '%'; line.append(b);
      });
      bars.append(line);
    });
    box.append(bars);
  }
  if (p.trials.length) box.append(table(p.trial_head, p.trials));
  [p.command, JSON.stringify(p.config, null, 2)].forEach(t => {
    const pre = document.createElement('pre'); pre.textContent = t; box.append(pre);
  });
  const link = document.createElement('a'); link.textContent = 'save this config'; link.download = p.key + '.json';
  link.href = 'data:application/json,' + encodeURIComponent(JSON.stringify(p.config, null, 2)); box.append(link);
  location.hash = p.key; box.scrollIntoView({behavior: 'smooth'});
}
document.querySelectorAll('[data-point]').forEach(e => e.addEventListener('click', () => show(+e.dataset.point)));
const scatter = document.getElementById('scatter');
if (scatter) scatter.on('plotly_click', e => show(e.points[0].customdata));
const wanted = points.findIndex(p => '#' + p.key === location.hash);
if (wanted >= 0) show(wanted);
"""
_STYLE = (
    "<style>[data-point]{cursor:pointer}[data-point]:hover{background:#eff6ff}td:first-child{text-align:left}"
    ".bar{display:flex;height:18px;margin:2px 0}.bar span{width:170px;flex:none;font-size:12px}"
    ".scroll{max-height:420px;overflow:auto}#detail{border-top:2px solid #e5e7eb;margin-top:24px}</style>"
)
_CAUSE_COLOURS = {
    "busy": "#059669",
    "transfer": "#2563eb",
    "fill": "#93c5fd",
    "imbalance": "#d97706",
    "dependency": "#7c3aed",
    "memory": "#dc2626",
    "seqs": "#db2777",
    "kv_transfer": "#78350f",
    "engine": "#0891b2",
    "blocked": "#be185d",
    "idle": "#e5e7eb",
    "drain": "#cbd5e1",
    "sync": "#65a30d",
    "dummy": "#a8a29e",
}


def report_page(outcome: StudyOutcome, directory: Path) -> str:
    """The whole document; ``directory`` is where the results are, for the commands it shows."""
    figures = [("scatter", _scatter(outcome)), ("parallel", _parallel(outcome))]
    figures += [(f"curve-{index}", chart) for index, chart in enumerate(_curves(outcome))]
    charts = "".join(div(chart, name) for name, chart in figures if chart is not None)
    legend = " ".join(
        f'<span style="border-left:12px solid {colour};padding:0 8px 0 4px">{cause}</span>'
        for cause, colour in _CAUSE_COLOURS.items()
    )
    data = json.dumps([_detail(outcome, result, directory) for result in outcome.results]).replace(
        "<", "\\u003c"
    )
    body = (
        f"{plotly_script()}{charts}<p>A point opens its run: click it in the first chart or in the table. "
        f"Colours of stages: {legend}</p><div class='scroll'>{_table(outcome)}</div>"
        f'<section id="detail"></section><script type="application/json" id="points">{data}</script>'
        f"<script>{_SCRIPT}</script>"
    )
    return page(f"Deployments of {Path(outcome.spec.site.model).name}", body, _STYLE)


def _scatter(outcome: StudyOutcome) -> Any:
    """The first two objectives against each other (or one against the number of GPUs)."""
    objectives = outcome.spec.objectives
    first = objectives[0]
    second = next(iter(objectives[1:]), None)
    chart = figure(
        "Pareto front",
        f"{second.name} ({second.unit})" if second else "GPUs",
        f"{first.name} ({first.unit})",
    )
    front = set(outcome.front)
    for name, chosen, size in (("dominated", False, 7), ("Pareto front", True, 11)):
        rows: list[tuple[float, float, str, int]] = []
        for index, result in enumerate(outcome.results):
            values = values_of(result, objectives)
            if values is not None and (index in front) is chosen:
                rows.append((values[1] if second else result.gpus, values[0], result.point.label, index))
        rows.sort()
        chart.add_scatter(
            x=[row[0] for row in rows],
            y=[row[1] for row in rows],
            text=[row[2] for row in rows],
            customdata=[row[3] for row in rows],
            name=name,
            mode="markers",
            marker={"size": size, "color": COLOURS[1] if chosen else "#9ca3af"},
        )
    return chart


def _parallel(outcome: StudyOutcome) -> Any:
    """Choices that differ, then objectives, a line per point that has them all."""
    import plotly.graph_objects as go

    objectives = outcome.spec.objectives
    rows = [
        (row, v)
        for row, r in zip(table_rows(outcome), outcome.results, strict=True)
        if (v := values_of(r, objectives))
    ]
    if not rows:
        return None
    dimensions: list[dict[str, Any]] = []
    for name in (*_CHOICES, *_COORDINATES):
        values = [row[name] for row, _ in rows]
        levels = sorted(set(values), key=lambda value: (value is not None, value if value is not None else 0))
        if len(levels) > 1:
            places = {value: place for place, value in enumerate(levels)}
            dimensions.append(
                {
                    "label": name,
                    "values": [places[value] for value in values],
                    "tickvals": list(range(len(levels))),
                    "ticktext": ["default" if value is None else str(value) for value in levels],
                }
            )
    for place, objective in enumerate(objectives):
        dimensions.append({"label": objective.name, "values": [values[place] for _, values in rows]})
    line = {"color": [values[0] for _, values in rows], "colorscale": "Viridis", "showscale": True}
    chart = go.Figure(go.Parcoords(line=line, dimensions=dimensions))
    chart.update_layout(title="All points", height=440, margin={"l": 90, "r": 40, "t": 90, "b": 30})
    return chart


def _curves(outcome: StudyOutcome) -> list[Any]:
    """Latency over the rates that the search tried, for the best of the front, one chart per bound."""
    slo = outcome.spec.load.slo
    if slo is None or outcome.spec.load.rate is not None:
        return []
    first = outcome.spec.objectives[0]
    best = sorted(
        (outcome.results[index] for index in outcome.front),
        key=lambda result: (first.value(result) or 0.0) * (-1 if first.maximise else 1),
    )[:_CURVES_SHOWN]
    curves = {
        result.point.label: [
            trial for trial in result.trials if trial.seed == 0 and trial.rate_per_s is not None
        ]
        for result in best
    }
    return [latency_figure(dict(curves), bound.name, bound.limit_ns) for bound in slo.bounds]


def _table(outcome: StudyOutcome) -> str:
    objectives = outcome.spec.objectives
    head = "".join(
        f"<th>{html.escape(text)}</th>" for text in ("deployment", *(o.name for o in objectives), "status")
    )
    front = set(outcome.front)
    lines: list[str] = []
    for index, result in enumerate(outcome.results):
        first_look = result.phase == PILOT
        values = [None if first_look and o.measured else o.value(result) for o in objectives]
        status = "Pareto" if index in front else result.status
        texts = [result.point.label, *("" if value is None else f"{value:.4g}" for value in values), status]
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        lines.append(f'<tr data-point="{index}" title="{html.escape(result.reason or "")}">{cells}</tr>')
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _detail(outcome: StudyOutcome, result: PointResult, directory: Path) -> dict[str, Any]:
    names = list(result.trials[0].statistics_ns) if result.trials else []
    parts = [f"{result.status}{': ' + result.reason if result.reason else ''}"]
    if result.rate_per_s is not None:
        look = " in the first look" if result.phase == PILOT else ""
        parts.append(f"{result.rate_per_s:.4g} requests/s{look} on {result.gpus} GPUs")
    if result.limiting_text:
        parts.append(f"limited by {result.limiting_metric}: {result.limiting_cause}: {result.limiting_text}")
    return {
        "key": result.key,
        "label": result.point.label,
        "summary": ". ".join([*parts, *(f"Rests on: {line}" for line in result.basis)]),
        "trial_head": ["requests/s", "seed", *(f"{name} ms" for name in names), "within limits"],
        "trials": [
            [
                "all at once" if trial.rate_per_s is None else f"{trial.rate_per_s:g}",
                str(trial.seed),
                *(_shown_ms(trial.statistics_ns.get(name)) for name in names),
                f"{trial.attained:.1%}",
            ]
            for trial in result.trials
        ],
        "stages": [
            {
                "name": f"instance {stage['instance']} stage {stage['stage']}",
                "parts": [
                    [cause, round(stage[cause], 5), colour]
                    for cause, colour in _CAUSE_COLOURS.items()
                    if stage.get(cause)
                ],
            }
            for stage in result.stages
        ],
        "command": point_command(outcome.spec, result, directory),
        "config": cluster_config(result.point, outcome.spec.site),
    }


def _shown_ms(value_ns: float | None) -> str:
    return "-" if value_ns is None else f"{value_ns / 1e6:.4g}"
