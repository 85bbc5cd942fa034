"""The page of a search: the best, the front, every choice, and every point's own run beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.explore.charts import latency_chart, readable, spoken
from penstock.explore.design_point import cluster_config
from penstock.explore.evaluate import PILOT
from penstock.explore.objectives import values_of
from penstock.explore.point_charts import choices_chart, front_chart, titled
from penstock.explore.point_pane import BELOW, SCRIPT, beside_pane, shown_in_pane
from penstock.explore.report import measured_how, point_command
from penstock.explore.result import PointResult
from penstock.explore.slo import shown_ns
from penstock.explore.study import StudyOutcome
from penstock.rendering import page
from penstock.rendering.page import Cell, Chart, Table

_CURVES_SHOWN = 8


def report_page(outcome: StudyOutcome, directory: Path) -> str:
    """The whole document; ``directory`` is where the results are, for the commands it shows."""
    scatter, parallel, curves = front_chart(outcome), choices_chart(outcome), _curves(outcome)
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
    head = ["deployment", "", *map(titled, objectives), "requests/s", *map(readable, metrics), "why"]
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
