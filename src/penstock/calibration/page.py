"""The page of a calibration: how far off it is, measured against simulated, and what was fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray
from penstock.calibration.calibration_file import error_of, shown_value, source_of, way_of
from penstock.calibration.comparison import METRICS, THROUGHPUT, Row, compare, shown_error, shown_name
from penstock.calibration.fit import Fit
from penstock.calibration.parameters import FITTED, MEANINGS, Estimate
from penstock.rendering import page
from penstock.rendering.page import SERIES, Cell, Chart, Table

_POINTS = 400
KEY_FIGURES = ("ttft_p50", "ttft_p99", "tpot_p50", "e2el_p99", THROUGHPUT)


class _Body:
    """Parts of a page and the charts in them."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.charts: list[Chart] = []

    def add(self, *parts: str) -> None:
        """Parts as they are."""
        self.parts += parts

    def pictures(self, charts: Sequence[Chart]) -> None:
        """Charts side by side."""
        self.charts += charts
        self.parts.append(page.columns(*map(page.picture, charts)))

    def document(self, title: str) -> str:
        """The whole page."""
        return page.document(title, "".join(self.parts), charts=self.charts)


def fit_page(fit: Fit) -> str:
    """The whole document of ``penstock calibrate --report``."""
    way = way_of(fit)
    cost = "step cost fitted, no kernel times" if fit.cost == FITTED else "factors on kernel times"
    body = _Body()
    told = error_of(fit)
    body.add(
        page.verdict(
            [
                f"{told[:1].upper()}{told[1:]}.",
                f"Fitted to {source_of(fit)}, by {way}; {cost}. {_noise_text(fit)}",
            ]
        )
    )
    body.add(page.facts(_errors(fit.held_out[0])) if fit.held_out else "")
    body.add(page.section("Parameters", page.card(page.table(_parameters(fit.estimates)))))
    halves = zip(fit.measured, fit.half_simulated, fit.held_out, strict=True)
    for place, (one, simulated, rows) in enumerate(halves):
        second = ~one.benchmark.first_half()
        title = f"Held out: the second half of {one.benchmark.source}, by a fit of the first"
        body.add(page.section(title, page.card(page.table(_rows(rows)))))
        body.pictures(_ecdfs(one.benchmark, simulated, second, f"half-{place}"))
    for place, (one, simulated) in enumerate(zip(fit.measured, fit.simulated, strict=True)):
        title = f"All of {one.benchmark.source}, by the fit of all of it"
        body.add(page.section(title, page.card(page.table(_rows(compare(one.benchmark, simulated))))))
        body.pictures(_ecdfs(one.benchmark, simulated, None, f"all-{place}"))
        body.pictures(_residuals(one.benchmark, simulated, place))
    if fit.step_errors is not None:
        body.add(page.section("Steps"))
        body.pictures(_step_charts(fit))
    if fit.notes:
        body.add(page.section("Notes", page.card(page.statements(fit.notes))))
    return body.document(f"Calibration of {fit.instance.hardware}, {fit.instance.model.name}")


def bench_page(measured: Benchmark, simulated: Benchmark, rows: Sequence[Row], basis: Sequence[str]) -> str:
    """The whole document of ``penstock validate bench --report``."""
    body = _Body()
    figures = _errors(rows)
    body.add(
        page.verdict(
            [
                "; ".join(f"{what} {error}" for what, error in figures) + ", simulated against measured.",
                f"{len(measured)} requests, {measured.kind}; nothing is fitted to them.",
            ]
        ),
        page.facts(figures),
        page.section("Measured and simulated", page.card(page.table(_rows(rows)))),
    )
    body.pictures(_ecdfs(measured, simulated, None, "all"))
    body.pictures(_residuals(measured, simulated, 0))
    body.add(page.section("What it rests on", page.card(page.statements(basis))))
    return body.document(f"{measured.source}: measured and simulated")


def _errors(rows: Sequence[Row]) -> list[tuple[str, str]]:
    by_name = {row.name: row for row in rows}
    return [
        (f"error of {shown_name(name)}", shown_error(by_name[name]))
        for name in KEY_FIGURES
        if name in by_name
    ]


def _noise_text(fit: Fit) -> str:
    if fit.noise is None:
        return "Steps are simulated without noise."
    sigma, correlation = fit.noise.sigma, fit.noise.correlation
    return f"Step noise: sigma {sigma:.3f} of the log, correlation from step to step {correlation:.2f}."


def _parameters(found: Sequence[Estimate]) -> Table:
    rows: list[list[str]] = []
    for one in found:
        interval = (
            f"{shown_value(one.low, one.name)} to {shown_value(one.high, one.name)}"
            if one.identified
            else "not identified: the prior"
        )
        rows.append(
            [
                one.name,
                shown_value(one.value, one.name),
                interval,
                shown_value(one.prior, one.name),
                MEANINGS[one.name],
            ]
        )
    head = ["parameter", "value", "95% interval", "prior", "what it is"]
    return Table(label="Parameters", head=head, rows=rows, left=(0, 4), wraps=True)


def _rows(rows: Sequence[Row]) -> Table:
    lines: list[list[str | Cell]] = []
    for row in rows:
        scale, unit = (1.0, "tokens/s") if row.name == THROUGHPUT else (1e3, "ms")
        lines.append(
            [
                f"{shown_name(row.name)} ({unit})",
                f"{row.measured * scale:,.2f}",
                f"{row.predicted * scale:,.2f}",
                Cell(shown_error(row), row.error),
            ]
        )
    return Table(
        label="Measured and predicted", head=["", "measured", "predicted", "error"], rows=lines, sorts=True
    )


def _ecdfs(measured: Benchmark, simulated: Benchmark, chosen: BoolArray | None, name: str) -> list[Chart]:
    """Empirical distributions, both in one chart per metric."""
    seen, predicted = measured.metrics(chosen), simulated.metrics(chosen)
    charts: list[Chart] = []
    for metric in METRICS:
        if metric not in seen or not len(seen[metric]):
            continue
        title = shown_name(f"{metric}_").strip()
        traces = []
        for place, (label, values) in enumerate(
            (("measured", seen[metric]), ("simulated", predicted[metric]))
        ):
            x, y = _ecdf(values)
            traces.append(
                {
                    "x": np.round(x * 1e3, 4),
                    "y": np.round(100 * y, 3),
                    "name": label,
                    "mode": "lines",
                    "line": {"color": SERIES[place], "dash": ("solid", "dash")[place], "width": 2},
                    "hovertemplate": f"%{{y:.1f}}% within %{{x:.2f}} ms<extra>{label}</extra>",
                }
            )
        charts.append(
            Chart(
                id=f"ecdf-{name}-{metric}",
                title=f"{title}: share of samples within a time",
                traces=traces,
                x=f"{title} (ms)",
                y="samples (%)",
            )
        )
    return charts


def _ecdf(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At most ``_POINTS`` corners of the empirical distribution."""
    shares = np.linspace(0.0, 1.0, min(len(values), _POINTS) + 1)[1:]
    return np.quantile(values, shares, method="inverted_cdf"), shares


def _scatter(
    id: str,  # noqa: A002
    titles: tuple[str, str, str],
    x: FloatArray,
    series: Iterator[tuple[str, BoolArray | None, FloatArray]],
) -> Chart:
    """Errors in percent over something; ``titles`` of the chart and its axes."""
    traces = [
        {
            "x": x if mask is None else x[mask],
            "y": np.round(100 * (values if mask is None else values[mask]), 3),
            "name": name,
            "mode": "markers",
            "marker": {"size": 5, "opacity": 0.6, "color": SERIES[place], "symbol": page.SYMBOLS[place]},
            "hovertemplate": f"{name} %{{y:+.1f}}%<extra></extra>",
        }
        for place, (name, mask, values) in enumerate(series)
    ]
    title, x_title, y_title = titles
    return Chart(
        id=id, title=title, traces=traces, x=x_title, y=y_title, layout={"yaxis": {"rangemode": "normal"}}
    )


def _residuals(measured: Benchmark, simulated: Benchmark, place: int) -> list[Chart]:
    """Simulated over measured, less one, over time and over how many requests ran when one was sent."""
    ends = measured.start_s + measured.latency_s
    running = np.array(
        [int(((measured.start_s < at) & (ends > at)).sum()) for at in measured.start_s], dtype=np.float64
    )
    found = _per_request(measured, simulated)
    return [
        _scatter(
            f"residuals-{place}-{name}",
            (title, axis, "simulated over measured, less 1 (%)"),
            x,
            ((metric, None, values) for metric, values in found.items()),
        )
        for name, title, axis, x in (
            ("time", "Residuals over time", "since the first request (s)", measured.start_s),
            ("batch", "Residuals over batch size", "requests running when it was sent", running),
        )
    ]


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


def _step_charts(fit: Fit) -> list[Chart]:
    """Measured over fitted step times, less one, over the log and over the requests in a step."""
    assert fit.step_errors is not None
    steps = fit.steps
    sizes = np.concatenate([one.decodes[[bool(own) for own in one.tokens]] for one in steps])
    prefill = np.concatenate([one.prefill_tokens[[bool(own) for own in one.tokens]] for one in steps]) > 0
    errors = fit.step_errors
    kinds = (("decodes only", ~prefill), ("with prefill", prefill))
    return [
        _scatter(
            f"steps-{name}",
            (title, axis, "measured over fitted, less 1 (%)"),
            x,
            ((label, mask, errors) for label, mask in kinds),
        )
        for name, title, x, axis in (
            ("log", "Steps in order", np.arange(len(errors), dtype=np.float64), "step"),
            ("size", "Steps over batch size", sizes.astype(np.float64), "decodes in the step"),
        )
    ]
