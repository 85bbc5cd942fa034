"""The page of a calibration: measured against simulated, and what was fitted. One file, plotly.js inline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray
from penstock.calibration.calibration_file import error_of, shown_value, source_of, way_of
from penstock.calibration.comparison import METRICS, THROUGHPUT, Row, compare, shown_error, shown_name
from penstock.calibration.fit import Fit
from penstock.calibration.parameters import FITTED, MEANINGS, Estimate
from penstock.rendering.pages import COLOURS, div, figure, page, plotly_script

_STYLE = (
    "<style>td:first-child,td:last-child,th:first-child{text-align:left}"
    ".grid{display:grid;grid-template-columns:1fr 1fr;gap:8px}@media(max-width:800px){.grid{grid-template-columns:1fr}}"
    "</style>"
)
_POINTS = 400
_SMALL = 360


def fit_page(fit: Fit) -> str:
    """The whole document of ``penstock calibrate --report``."""
    way = way_of(fit)
    cost = "step cost fitted, no kernel times" if fit.cost == FITTED else "factors on kernel times"
    parts = [
        plotly_script(),
        f"<p>Fitted to {html.escape(source_of(fit))}, by {way}; {cost}.</p>",
        "<h2>Parameters</h2>",
        _parameters(fit.estimates),
        f"<p>{html.escape(_noise_text(fit))}</p>",
        "<h2>Held-out check</h2>",
        f"<p>{html.escape(error_of(fit))}.</p>",
    ]
    halves = zip(fit.measured, fit.half_simulated, fit.held_out, strict=True)
    for place, (one, simulated, rows) in enumerate(halves):
        second = ~one.benchmark.first_half()
        parts.append(f"<h3>{html.escape(one.benchmark.source)}: second half, by a fit of the first</h3>")
        parts += [_rows(rows), _ecdfs(one.benchmark, simulated, second, f"half-{place}")]
    for place, (one, simulated) in enumerate(zip(fit.measured, fit.simulated, strict=True)):
        parts.append(f"<h2>{html.escape(one.benchmark.source)}: all of it, by the fit of all of it</h2>")
        parts.append(_rows(compare(one.benchmark, simulated)))
        parts += [
            _ecdfs(one.benchmark, simulated, None, f"all-{place}"),
            _residuals(one.benchmark, simulated, place),
        ]
    if fit.step_errors is not None:
        parts += ["<h2>Steps</h2>", _step_charts(fit)]
    if fit.notes:
        parts.append(
            "<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in fit.notes) + "</ul>"
        )
    name = f"Calibration of {fit.instance.hardware}, {fit.instance.model.name}"
    return page(name, "".join(parts), _STYLE)


def bench_page(measured: Benchmark, simulated: Benchmark, rows: Sequence[Row]) -> str:
    """The whole document of ``penstock validate bench --report``."""
    body = (
        f"{plotly_script()}<p>{len(measured)} requests, {html.escape(measured.kind)}; nothing is fitted to them.</p>"
        f"{_rows(rows)}{_ecdfs(measured, simulated, None, 'all')}{_residuals(measured, simulated, 0)}"
    )
    return page(f"{measured.source}: measured and simulated", body, _STYLE)


def _noise_text(fit: Fit) -> str:
    if fit.noise is None:
        return "Steps are simulated without noise."
    sigma, correlation = fit.noise.sigma, fit.noise.correlation
    return f"Step noise: sigma {sigma:.3f} of the log, correlation from step to step {correlation:.2f}."


def _parameters(found: Sequence[Estimate]) -> str:
    lines = [
        "<tr><th>parameter</th><th>value</th><th>95% interval</th><th>prior</th><th>what it is</th></tr>"
    ]
    for one in found:
        interval = (
            f"{shown_value(one.low, one.name)} to {shown_value(one.high, one.name)}"
            if one.identified
            else "not identified: the prior"
        )
        cells = (one.name, shown_value(one.value, one.name), interval, shown_value(one.prior, one.name))
        texts = "".join(f"<td>{html.escape(text)}</td>" for text in (*cells, MEANINGS[one.name]))
        lines.append(f"<tr>{texts}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _rows(rows: Sequence[Row]) -> str:
    lines = ["<tr><th></th><th>measured</th><th>predicted</th><th>error</th></tr>"]
    for row in rows:
        scale, unit = (1.0, "tokens/s") if row.name == THROUGHPUT else (1e3, "ms")
        lines.append(
            f"<tr><td>{shown_name(row.name)}, {unit}</td><td>{row.measured * scale:.2f}</td>"
            f"<td>{row.predicted * scale:.2f}</td><td>{shown_error(row)}</td></tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _ecdfs(measured: Benchmark, simulated: Benchmark, chosen: BoolArray | None, name: str) -> str:
    """Empirical distributions, both in one chart per metric."""
    seen, predicted = measured.metrics(chosen), simulated.metrics(chosen)
    charts: list[str] = []
    for metric in METRICS:
        if metric not in seen or not len(seen[metric]):
            continue
        title = shown_name(f"{metric}_").strip()
        chart = _small(title, f"{title} in ms", "share of samples")
        for label, values, colour in (
            ("measured", seen[metric], COLOURS[0]),
            ("simulated", predicted[metric], COLOURS[1]),
        ):
            x, y = _ecdf(values)
            chart.add_scatter(x=x * 1e3, y=y, name=label, mode="lines", line={"color": colour, "shape": "hv"})
        charts.append(div(chart, f"ecdf-{name}-{metric}"))
    return f'<div class="grid">{"".join(charts)}</div>'


def _ecdf(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At most ``_POINTS`` corners of the empirical distribution."""
    shares = np.linspace(0.0, 1.0, min(len(values), _POINTS) + 1)[1:]
    return np.quantile(values, shares, method="inverted_cdf"), shares


def _residuals(measured: Benchmark, simulated: Benchmark, place: int) -> str:
    """Simulated over measured, less one, over time and over how many requests ran when one was sent."""
    ends = measured.start_s + measured.latency_s
    running = np.array(
        [int(((measured.start_s < at) & (ends > at)).sum()) for at in measured.start_s], dtype=np.float64
    )
    charts: list[str] = []
    for name, title, x in (
        ("time", "Residuals over time", measured.start_s),
        ("batch", "Residuals over batch size", running),
    ):
        axis = "seconds since the first request" if name == "time" else "requests running when it was sent"
        chart = _small(title, axis, "simulated over measured, less 1")
        for metric, values in _per_request(measured, simulated).items():
            chart.add_scatter(x=x, y=values, name=metric, mode="markers", marker={"size": 5, "opacity": 0.7})
        chart.update_yaxes(tickformat="+.0%")
        charts.append(div(chart, f"residuals-{place}-{name}"))
    return f'<div class="grid">{"".join(charts)}</div>'


def _per_request(measured: Benchmark, simulated: Benchmark) -> dict[str, FloatArray]:
    answers = np.maximum(measured.output_tokens - 1, 1)
    several = measured.output_tokens > 1
    seen = np.where(several, (measured.latency_s - measured.ttft_s) / answers, np.nan)
    predicted = np.where(several, (simulated.latency_s - simulated.ttft_s) / answers, np.nan)
    return {
        "TTFT": simulated.ttft_s / measured.ttft_s - 1,
        "TPOT": predicted / np.where(seen > 0, seen, np.nan) - 1,
        "E2E": simulated.latency_s / measured.latency_s - 1,
    }


def _step_charts(fit: Fit) -> str:
    """Measured over fitted step times, less one, over the log and over the requests in a step."""
    assert fit.step_errors is not None
    steps = fit.steps
    sizes = np.concatenate([one.decodes[[bool(own) for own in one.tokens]] for one in steps])
    prefill = np.concatenate([one.prefill_tokens[[bool(own) for own in one.tokens]] for one in steps]) > 0
    errors = fit.step_errors
    charts: list[str] = []
    for name, title, x, axis in (
        ("log", "Steps in order", np.arange(len(errors)), "step"),
        ("size", "Steps over batch size", sizes, "decodes in the step"),
    ):
        chart = _small(title, axis, "measured over fitted, less 1")
        for label, mask in (("decodes only", ~prefill), ("with prefill", prefill)):
            chart.add_scattergl(
                x=x[mask], y=errors[mask], name=label, mode="markers", marker={"size": 4, "opacity": 0.5}
            )
        chart.update_yaxes(tickformat="+.0%")
        charts.append(div(chart, f"steps-{name}"))
    return f'<div class="grid">{"".join(charts)}</div>'


def _small(title: str, x_title: str, y_title: str) -> Any:
    chart = figure(title, x_title, y_title)
    chart.update_layout(height=_SMALL)
    return chart
