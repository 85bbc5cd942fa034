"""The charts of all deployments of a search: the first two objectives, and every choice beside every objective."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from penstock.explore.charts import log_axis, readable
from penstock.explore.objectives import Objective, values_of
from penstock.explore.report import table_rows
from penstock.explore.result import PointResult
from penstock.explore.study import StudyOutcome
from penstock.rendering.page import SERIES, SYMBOLS, Chart

_LABELS_SHOWN = 10
_CHOICES = (
    "hardware",
    "gpus",
    "tp",
    "pp",
    "replicas",
    "partition",
    "max_num_seqs",
    "max_num_batched_tokens",
    "policy",
    "router",
    "network",
    "dtype",
)


def titled(objective: Objective) -> str:
    """The objective with its unit."""
    name = readable(objective.name)
    return name if name == objective.unit else f"{name} ({objective.unit})"


def _kinds(outcome: StudyOutcome) -> list[str]:
    return list(dict.fromkeys(result.point.hardware for result in outcome.results))


def front_chart(outcome: StudyOutcome) -> Chart:
    """The first two objectives against each other, or the first against the number of GPUs."""
    objectives = outcome.spec.objectives
    first, second = objectives[0], next(iter(objectives[1:]), None)
    by_count = second is None or second.name == "gpus"
    front = set(outcome.front)
    traces: list[dict[str, Any]] = []
    xs: list[float] = []
    ys: list[float] = []
    labelled = {id(outcome.results[index]) for index in sorted(front)[:_LABELS_SHOWN]}
    for place, kind in enumerate(_kinds(outcome)):
        colour, symbol = SERIES[place % len(SERIES)], SYMBOLS[place % len(SYMBOLS)]
        for chosen in (False, True):
            rows: list[tuple[float, float, PointResult]] = []
            for index, result in enumerate(outcome.results):
                values = values_of(result, objectives)
                if values is None or result.point.hardware != kind or (index in front) is not chosen:
                    continue
                rows.append((values[1] if second else float(result.gpus), values[0], result))
            rows.sort(key=lambda row: (row[0], row[1]))
            xs += [x for x, _, _ in rows]
            ys += [y for _, y, _ in rows]
            if not rows:
                continue
            traces.append(
                {
                    "x": [f"{x:g}" if by_count else x for x, _, _ in rows],
                    "y": [y for _, y, _ in rows],
                    "text": [_short(one) if id(one) in labelled else "" for _, _, one in rows],
                    "customdata": [one.key for _, _, one in rows],
                    "hovertext": [one.point.label for _, _, one in rows],
                    "hovertemplate": f"%{{hovertext}}<br>%{{y:.4g}} {first.unit}, %{{x}}<extra></extra>",
                    "name": f"{kind}, on the front" if chosen else kind,
                    "mode": "markers+text" if chosen else "markers",
                    "textposition": [("top right", "bottom left")[n % 2] for n in range(len(rows))],
                    "textfont": {"size": 11},
                    "cliponaxis": False,
                    "marker": {
                        "symbol": symbol,
                        "size": 13 if chosen else 8,
                        "color": colour,
                        "opacity": 1.0 if chosen else 0.45,
                        "line": {"color": "$ink", "width": 1.5 if chosen else 0},
                    },
                }
            )
    x_axis: dict[str, Any] = log_axis(xs)
    if by_count:
        order = [f"{x:g}" for x in sorted(set(xs))]
        x_axis = {"type": "category", "categoryorder": "array", "categoryarray": order}
    return Chart(
        id="scatter",
        title=f"{readable(first.name)} against {'GPUs' if second is None else readable(second.name)}",
        traces=traces,
        x="GPUs" if second is None else titled(second),
        y=titled(first),
        layout={"height": 460, "xaxis": x_axis, "yaxis": log_axis(ys), "margin": {"t": 26}},
        note="Large marks with a dark edge are on the Pareto front: no other is as good in everything and better in "
        "something.",
    )


def _short(result: PointResult) -> str:
    """The label without the hardware, which colour and shape say."""
    return result.point.label.partition(", ")[2]


def choices_chart(outcome: StudyOutcome) -> Chart | None:
    """Choices that differ, then objectives: an axis each, a line per point that has them all."""
    objectives = outcome.spec.objectives
    rows = [
        (row, values, result, index)
        for index, (row, result) in enumerate(zip(table_rows(outcome), outcome.results, strict=True))
        if (values := values_of(result, objectives))
    ]
    axes: list[tuple[str, list[float], list[tuple[float, str]]]] = []
    for name in _CHOICES:
        levels = sorted(
            {row[name] for row, *_ in rows},
            key=lambda value: (value is not None, value if value is not None else 0),
        )
        if len(levels) > 1:
            at = {value: place / (len(levels) - 1) for place, value in enumerate(levels)}
            ticks = [(at[value], "default" if value is None else str(value)) for value in levels]
            axes.append((readable(name), [at[row[name]] for row, *_ in rows], ticks))
    for place, objective in enumerate(objectives):
        if objective.name == "gpus":
            continue
        found = [values[place] for _, values, *_ in rows]
        low, high = min(found, default=0.0), max(found, default=0.0)
        span = (high - low) or 1.0
        axes.append(
            (
                "<br>".join(textwrap.wrap(titled(objective), 14)),
                [(value - low) / span for value in found],
                [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.0, f"{low:.3g}")],
            )
        )
    if len(axes) < 2:
        return None
    front = set(outcome.front)
    traces: list[dict[str, Any]] = []
    for place, kind in enumerate(_kinds(outcome)):
        for chosen in (False, True):
            x: list[int | None] = []
            y: list[float | None] = []
            keys: list[str] = []
            texts: list[str] = []
            for number, (_, _, result, index) in enumerate(rows):
                if result.point.hardware != kind or (index in front) is not chosen:
                    continue
                x += [*range(len(axes)), None]
                y += [*(values[number] for _, values, _ in axes), None]
                keys += [result.key] * (len(axes) + 1)
                texts += [result.point.label] * (len(axes) + 1)
            if not keys:
                continue
            traces.append(
                {
                    "x": x,
                    "y": y,
                    "customdata": keys,
                    "hovertext": texts,
                    "hovertemplate": "%{hovertext}<extra></extra>",
                    "mode": "lines",
                    "name": f"{kind}, on the front" if chosen else kind,
                    "opacity": 1.0 if chosen else 0.35,
                    "line": {"color": SERIES[place % len(SERIES)], "width": 3 if chosen else 1},
                }
            )
    ticks = [(place, at, text) for place, (_, _, own) in enumerate(axes) for at, text in own]
    traces.append(
        {
            "x": [place for place, _, _ in ticks],
            "y": [at for _, at, _ in ticks],
            "text": [text for _, _, text in ticks],
            "mode": "markers+text",
            "textposition": [
                "middle left" if place == len(axes) - 1 else "middle right" for place, _, _ in ticks
            ],
            "textfont": {"size": 12, "color": "$ink"},
            "marker": {"size": 5, "color": "$ink"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    names: Mapping[str, Any] = {
        "tickvals": list(range(len(axes))),
        "ticktext": [name for name, _, _ in axes],
        "range": [-0.3, len(axes) - 0.7],
        "zeroline": False,
        "tickangle": 0,
    }
    y_axis = {"showticklabels": False, "showgrid": False, "zeroline": False, "range": [-0.07, 1.07]}
    return Chart(
        id="parallel",
        title="An axis for each choice and objective, a line for each deployment",
        traces=traces,
        x="",
        y="",
        layout={"height": 440, "xaxis": names, "yaxis": y_axis, "margin": {"l": 20, "r": 50, "b": 90}},
    )
