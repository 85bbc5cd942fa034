"""The page of ``penstock size``: what to buy, what it costs, how far the load may grow, the run behind each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.explore.charts import latency_chart, log_axis, readable, spoken
from penstock.explore.design_point import cluster_config
from penstock.explore.evaluate import Evaluator
from penstock.explore.point_pane import BELOW, SCRIPT, beside_pane, shown_in_pane
from penstock.explore.sizing import Choice, HardwareAnswer, SizeQuestion, total_candidates
from penstock.explore.sizing_report import (
    HOURS_PER_MONTH,
    UNSURE,
    basis_lines,
    cannot,
    doubts,
    in_order,
    limit_of,
    metrics_of,
    run_command,
    stem_of,
    usd_per_hour,
)
from penstock.explore.slo import shown_ns
from penstock.rendering import page
from penstock.rendering.page import SERIES, SYMBOLS, Cell, Chart, Table
from penstock.spec.prices import listed_watts


def sizing_page(
    question: SizeQuestion, answers: Sequence[HardwareAnswer], evaluator: Evaluator, directory: Path
) -> str:
    """The whole document; ``directory`` is where the configs and requests are, for the commands it shows."""
    choices = in_order(question, answers)
    title = f"What to buy for {question.rate_per_s:g} requests/s of {question.model}"
    parts = [page.verdict(_verdict(question, answers)), page.facts(_facts(question, answers))]
    charts: list[Chart] = []
    if choices:
        scatter, curves = _scatter(question, choices), _curves(question, choices)
        charts = [scatter, *curves]
        parts += [
            beside_pane(
                page.section("Cost and headroom", page.picture(scatter), BELOW),
                "Every deployment that holds it",
                _table(question, choices, directory),
            ),
            page.section("Latency over load", page.columns(*map(page.picture, curves))),
            page.section(
                "The runs behind the rows", page.card(page.table(_commands(question, choices, directory)))
            ),
        ]
    basis = page.statements(basis_lines(question, answers, evaluator))
    parts.append(page.section("What it rests on", page.card(basis)))
    data = {
        "points": {_key(one, directory): _detail(question, one, evaluator, directory) for one in choices},
        "best": _key(choices[0], directory) if choices else None,
    }
    scripts = (SCRIPT,) if choices else ()
    return page.document(title, "".join(parts), charts=charts, data=data, scripts=scripts)


def _key(choice: Choice, directory: Path) -> str:
    """The name of its files."""
    return stem_of(choice, directory).name


def _verdict(question: SizeQuestion, answers: Sequence[HardwareAnswer]) -> list[str]:
    load = f"{question.rate_per_s:g} requests/s within {spoken(question.slo)}"
    choices = in_order(question, answers)
    fitting = [one for one in choices if one.fits]
    sentences: list[str] = []
    if fitting:
        how = "cheapest" if usd_per_hour(question, fitting[0]) is not None else "smallest"
        if question.objective == "joules_per_token":
            how = "one with the least energy per token"
        sentences.append(f"The {how} that holds {load}: {_told(question, fitting[0])}.")
    else:
        sentences.append(f"None of the GPUs that there are hold {load}.")
        if choices:
            sentences.append(f"With more GPUs: {_told(question, choices[0])}.")
    first = fitting[0] if fitting else choices[0] if choices else None
    for answer in answers:
        if answer.fits:
            best = next(one for one in fitting if one.point.hardware == answer.hardware)
            if best is not first:
                sentences.append(f"The best of {answer.hardware}: {_told(question, best)}.")
        else:
            sentences.append(" ".join(part.strip() for part in cannot(question, answer).splitlines()) + ".")
    return sentences + [f"{line}." for line in doubts(question, answers)]


def _told(question: SizeQuestion, choice: Choice) -> str:
    """``H100, 4 x TP4: 16 GPUs, 48.00 USD an hour, headroom 8%``"""
    gpus, usd = choice.at_rate.gpus, usd_per_hour(question, choice)
    joules = choice.at_rate.joules_per_token if question.objective == "joules_per_token" else None
    parts = [f"{gpus} GPU{'s' if gpus > 1 else ''}"]
    parts += [] if usd is None else [f"{usd:,.2f} USD an hour ({usd * HOURS_PER_MONTH:,.0f} a month)"]
    parts += [] if joules is None else [f"{joules:.3f} J/token"]
    if choice.headroom is not None:
        parts.append(f"headroom {choice.headroom:.0%}")
    return f"{choice.point.label}: {', '.join(parts)}"


def _facts(question: SizeQuestion, answers: Sequence[HardwareAnswer]) -> list[tuple[str, str]]:
    thought, ruled_out = total_candidates(answers)
    runs = sum(len(_trials(choice)) for answer in answers for choice in answer.choices)
    return [
        ("requests/s asked for", f"{question.rate_per_s:g}"),
        ("SLO", spoken(question.slo)),
        ("GPUs that there are", ", ".join(f"{count} {label}" for label, count in question.hardware.items())),
        ("USD per GPU and hour", ", ".join(f"{k} {usd:g}" for k, usd in question.prices.items()) or "none"),
        ("deployments thought of", f"{thought:,}"),
        ("of them ruled out by rules, memory and bounds", f"{ruled_out:,}"),
        ("runs of those shown", f"{runs:,}"),
    ]


def _scatter(question: SizeQuestion, choices: Sequence[Choice]) -> Chart:
    """What a deployment costs against by how much its load may grow."""
    priced = all(usd_per_hour(question, one) is not None for one in choices)
    traces: list[dict[str, Any]] = []
    ys: list[float] = []
    for place, kind in enumerate(dict.fromkeys(one.point.hardware for one in choices)):
        own = [one for one in choices if one.point.hardware == kind]
        costs = [(usd_per_hour(question, one) if priced else None) or float(one.at_rate.gpus) for one in own]
        ys += costs
        # The first and the one with the most headroom are named; more names than that stand in each other's way.
        named = {id(own[0]), id(max(own, key=lambda one: one.headroom or 0.0))}
        symbol = SYMBOLS[place % len(SYMBOLS)]
        traces.append(
            {
                "x": [100 * (one.headroom or 0.0) for one in own],
                "y": costs,
                "text": [_cut(one) if id(one) in named else "" for one in own],
                "customdata": [stem_of(one, Path()).name for one in own],
                "hovertext": [_told(question, one) for one in own],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "name": kind,
                "mode": "markers+text",
                "textposition": "middle right",
                "textfont": {"size": 11},
                "cliponaxis": False,
                "marker": {
                    "symbol": [symbol if one.fits else f"{symbol}-open" for one in own],
                    "size": 13,
                    "color": SERIES[place % len(SERIES)],
                },
            }
        )
    most = max(100 * (one.headroom or 0.0) for one in choices)
    return Chart(
        id="scatter",
        title="Cost against headroom" if priced else "GPUs against headroom",
        traces=traces,
        x="headroom: by how much the load may grow (%)",
        y="cost (USD per hour)" if priced else "GPUs",
        layout={
            "height": 440,
            "margin": {"t": 26},
            "yaxis": log_axis(ys),
            "xaxis": {"range": [-0.05 * max(most, 1.0), 1.35 * max(most, 1.0)]},
        },
        note="Down and to the right is better. A filled mark: there are so many GPUs; an open one: there are too few.",
    )


def _cut(choice: Choice) -> str:
    """``  4 x TP4``: without the hardware, which colour and shape say, and the engine's options."""
    return "  " + choice.point.label.partition(", ")[2].partition(", seqs")[0]


def _trials(choice: Choice) -> list[Any]:
    """The runs at the rate, then those of the look upwards."""
    return [*choice.at_rate.trials, *(() if choice.edge is None else choice.edge.trials)]


def _curves(question: SizeQuestion, choices: Sequence[Choice]) -> list[Chart]:
    """Each bound's statistic over the load, the cheapest of each hardware."""
    best: dict[str, Choice] = {}
    for one in choices:
        best.setdefault(one.point.hardware, one)
    curves = {one.point.label.partition(", seqs")[0]: _longest(_trials(one)) for one in best.values()}
    return [
        latency_chart(f"curve-{bound.name}", curves, bound.name, bound.limit_ns)
        for bound in question.slo.bounds
    ]


def _longest(trials: Sequence[Any]) -> list[Any]:
    """Of the runs at a rate, that with the most requests."""
    by_rate: dict[float | None, Any] = {}
    for trial in trials:
        known = by_rate.get(trial.rate_per_s)
        if known is None or trial.requests > known.requests:
            by_rate[trial.rate_per_s] = trial
    return list(by_rate.values())


def _table(question: SizeQuestion, choices: Sequence[Choice], directory: Path) -> Table:
    bounds = [bound.name for bound in question.slo.bounds]
    others = [name for name in metrics_of(question) if name not in bounds]
    rows: list[list[str | Cell]] = []
    for choice in choices:
        result, usd = choice.at_rate, usd_per_hour(question, choice)
        watts = listed_watts(choice.point.hardware)
        rows.append(
            [
                choice.point.label + ("" if choice.sure else UNSURE),
                Cell(f"{result.gpus} of {question.hardware[choice.point.hardware]}", result.gpus),
                _figure("{:.0%}", choice.headroom),
                _figure("{:,.2f}", usd),
                *(_time(result.statistics_ns.get(name)) for name in (*bounds, *others)),
                _figure("{:,.0f}", None if usd is None else usd * HOURS_PER_MONTH),
                _figure("{:.3f}", result.usd_per_million_tokens),
                _figure("{:,.0f}", None if watts is None else watts * result.gpus),
                _figure("{:.3f}", result.joules_per_token),
                limit_of(choice),
            ]
        )
    head = ["deployment", "GPUs", "headroom", "USD/hour", *map(readable, (*bounds, *others))]
    head += ["USD/month", "USD/M tokens", "GPU watts", "J/token", "limited by"]
    return Table(
        label="Every deployment that holds it",
        head=head,
        rows=rows,
        left=(0, len(head) - 1),
        sorts=True,
        wraps=True,
        row_names=[_key(one, directory) for one in choices],
    )


def _figure(form: str, value: float | None) -> Cell:
    return Cell("-" if value is None else form.format(value), value)


def _time(value_ns: float | None) -> Cell:
    return Cell(shown_ns(value_ns), value_ns)


def _commands(question: SizeQuestion, choices: Sequence[Choice], directory: Path) -> Table:
    return Table(
        label="The runs behind the rows",
        head=["deployment", "its run"],
        rows=[[one.point.label, run_command(question, one, directory)] for one in choices],
        left=(0, 1),
        wraps=True,
    )


def _detail(question: SizeQuestion, choice: Choice, evaluator: Evaluator, directory: Path) -> dict[str, Any]:
    result, edge = choice.at_rate, choice.edge
    there = question.hardware[choice.point.hardware]
    summary = [
        f"It takes {result.gpus} of {there} GPUs."
        if choice.fits
        else f"It takes {result.gpus} GPUs of {there}.",
        f"{_told(question, choice).partition(': ')[2]}.",
    ]
    if edge is not None and edge.limiting_text:
        metric = readable(edge.limiting_metric or "the queue")
        summary.append(
            f"Beyond {edge.rate_per_s:.4g} requests/s it is limited by {metric}: {edge.limiting_text}."
        )
    if result.why_wide:
        summary.append(f"It is {result.why_wide}.")
    return shown_in_pane(
        _key(choice, directory),
        result if result.stages or edge is None else edge,
        summary=summary,
        command=run_command(question, choice, directory),
        config=cluster_config(choice.point, evaluator.site),
        trials=_trials(choice),
    )
