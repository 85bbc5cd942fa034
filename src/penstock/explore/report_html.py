"""The page of a search: the best, the front, every choice, and every point's own run beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.explore.charts import latency_chart, log_axis, readable, spoken
from penstock.explore.design_point import cluster_config
from penstock.explore.evaluate import PILOT
from penstock.explore.objectives import Objective, values_of
from penstock.explore.point_pane import BELOW, SCRIPT, beside_pane, shown_in_pane
from penstock.explore.report import measured_how, point_command, table_rows
from penstock.explore.result import PointResult
from penstock.explore.slo import shown_ns
from penstock.explore.study import StudyOutcome
from penstock.rendering import page
from penstock.rendering.page import SERIES, SYMBOLS, Cell, Chart, Table

_CURVES_SHOWN = 8
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


def report_page(outcome: StudyOutcome, directory: Path) -> str:
    """The whole document; ``directory`` is where the results are, for the commands it shows."""
    scatter, parallel, curves = _scatter(outcome), _parallel(outcome), _curves(outcome)
    charts = [chart for chart in (scatter, parallel, *curves) if chart is not None]
    winner = outcome.winner
    left = page.section(
        "The Pareto front",
        page.picture(scatter),
        BELOW,
    )
    left += page.section("Every choice", page.picture(parallel)) if parallel is not None else ""
    parts = [
        page.verdict(_verdict(outcome)),
        page.facts(_facts(outcome)),
        beside_pane(left, "Every deployment", _table(outcome)),
    ]
    if curves:
        parts.append(page.section("Latency over load", page.columns(*map(page.picture, curves))))
    basis = winner.basis if winner is not None else ()
    prices = [
        f"{label}: {usd:g} USD per GPU and hour ({outcome.spec.price_sources[label]})"
        for label, usd in outcome.spec.prices.items()
    ]
    parts.append(
        page.section("What it rests on", page.card(page.statements([*basis, *_measured(outcome), *prices])))
    )
    data = {
        "points": {result.key: _detail(outcome, result, directory) for result in outcome.results},
        "best": None if winner is None else winner.key,
    }
    title = f"Deployments of {outcome.spec.site.model}"
    return page.document(title, "".join(parts), charts=charts, data=data, scripts=(SCRIPT,))


def _measured(outcome: StudyOutcome) -> list[str]:
    winner = outcome.winner
    return [] if winner is None else [f"measured: {measured_how(outcome, winner)}"]


def _titled(objective: Objective) -> str:
    name = readable(objective.name)
    return name if name == objective.unit else f"{name} ({objective.unit})"


def _verdict(outcome: StudyOutcome) -> list[str]:
    winner = outcome.winner
    if winner is None:
        return ["No deployment has figures for every objective: the Pareto front is empty."]
    objectives = outcome.spec.objectives
    values = values_of(winner, objectives) or ()
    told = ", ".join(
        f"{readable(o.name)} {value:.4g} {o.unit}" if o.unit != "GPUs" else f"{value:g} GPUs"
        for o, value in zip(objectives, values, strict=True)
    )
    sentences = [f"Best in {readable(objectives[0].name)}: {winner.point.label}.", f"{told}."]
    if winner.limiting_text:
        sentences.append(f"It is limited by {winner.limiting_cause}: {winner.limiting_text}.")
    others = [one for one in outcome.best_by_hardware.values() if one is not winner]
    if others:
        first = objectives[0]
        listed = ", ".join(f"{one.point.label} ({first.value(one):.4g} {first.unit})" for one in others)
        sentences.append(f"The best of other hardware: {listed}.")
    return sentences


def _facts(outcome: StudyOutcome) -> list[tuple[str, str]]:
    spec = outcome.spec
    rate = spec.load.rate
    load = (
        "the capacity of each" if rate is None else "the trace" if rate == "trace" else f"{rate:g} requests/s"
    )
    return [
        ("SLO", spoken(spec.load.slo)),
        ("load", load),
        ("deployments tried", f"{len(outcome.results)} ({outcome.method})"),
        ("on the Pareto front", str(len(outcome.front))),
        ("runs", f"{sum(len(result.trials) for result in outcome.results):,}"),
        (
            "USD per GPU and hour",
            ", ".join(f"{label} {usd:g}" for label, usd in spec.prices.items()) or "none",
        ),
    ]


def _kinds(outcome: StudyOutcome) -> list[str]:
    return list(dict.fromkeys(result.point.hardware for result in outcome.results))


def _scatter(outcome: StudyOutcome) -> Chart:
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
        x="GPUs" if second is None else _titled(second),
        y=_titled(first),
        layout={"height": 460, "xaxis": x_axis, "yaxis": log_axis(ys), "margin": {"t": 26}},
        note="Large marks with a dark edge are on the Pareto front: no other is as good in everything and better in "
        "something.",
    )


def _short(result: PointResult) -> str:
    """The label without the hardware, which colour and shape say."""
    return result.point.label.partition(", ")[2]


def _parallel(outcome: StudyOutcome) -> Chart | None:
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
                "<br>".join(textwrap.wrap(_titled(objective), 14)),
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


def _curves(outcome: StudyOutcome) -> list[Chart]:
    """Latency over the rates that the search tried, for the best of the front, one chart per bound."""
    slo = outcome.spec.load.slo
    if slo is None or outcome.spec.load.rate is not None:
        return []
    best = _best_first(outcome, [outcome.results[index] for index in outcome.front])[:_CURVES_SHOWN]
    curves = {
        result.point.label: [
            trial for trial in result.trials if trial.seed == 0 and trial.rate_per_s is not None
        ]
        for result in best
    }
    return [latency_chart(f"curve-{bound.name}", curves, bound.name, bound.limit_ns) for bound in slo.bounds]


def _best_first(outcome: StudyOutcome, results: Sequence[PointResult]) -> list[PointResult]:
    """The winner, the front, then the rest by the first objective; what has no figures comes last."""
    first, winner = outcome.spec.objectives[0], outcome.winner
    front = {id(outcome.results[index]) for index in outcome.front}

    def order(result: PointResult) -> tuple[bool, bool, bool, float]:
        value = first.value(result) if result.comparable else None
        sign = -1 if first.maximise else 1
        return result is not winner, id(result) not in front, value is None, sign * (value or 0.0)

    return sorted(results, key=order)


def _table(outcome: StudyOutcome) -> Table:
    objectives = outcome.spec.objectives
    metrics = [name for name in ("ttft_p99", "tpot_p99") if name not in {o.name for o in objectives}]
    front = {id(outcome.results[index]) for index in outcome.front}
    rows: list[list[str | Cell]] = []
    ordered = _best_first(outcome, outcome.results)
    for result in ordered:
        first_look = result.phase == PILOT
        values = [None if first_look and o.measured else o.value(result) for o in objectives]
        times = [None if first_look else result.statistics_ns.get(name) for name in metrics]
        status = "best" if result is outcome.winner else "Pareto" if id(result) in front else result.status
        rate = None if first_look else result.rate_per_s
        why = result.reason or ""
        if result.limiting_metric and result.limiting_cause:
            why = why or f"limited by {readable(result.limiting_metric)}: {result.limiting_cause}"
        rows.append(
            [
                result.point.label,
                status,
                *(Cell("" if value is None else f"{value:.4g}", value) for value in values),
                Cell("" if rate is None else f"{rate:.4g}", rate),
                *(Cell("" if ns is None else shown_ns(ns), ns) for ns in times),
                why,
            ]
        )
    head = ["deployment", "", *map(_titled, objectives), "requests/s", *map(readable, metrics), "why"]
    return Table(
        label="Every deployment",
        head=head,
        rows=rows,
        left=(0, 1, len(head) - 1),
        sorts=True,
        wraps=True,
        row_names=[result.key for result in ordered],
    )


def _detail(outcome: StudyOutcome, result: PointResult, directory: Path) -> dict[str, Any]:
    parts = [f"{result.status}{': ' + result.reason if result.reason else ''}"]
    if result.rate_per_s is not None:
        look = " in the first look" if result.phase == PILOT else ""
        parts.append(f"{result.rate_per_s:.4g} requests/s{look} on {result.gpus} GPUs")
    if result.limiting_text:
        parts.append(f"limited by {result.limiting_metric}: {result.limiting_cause}: {result.limiting_text}")
    return shown_in_pane(
        result.key,
        result,
        summary=parts,
        command=point_command(outcome.spec, result, directory),
        config=cluster_config(result.point, outcome.spec.site),
    )
