"""A measured run and its simulation as one page: the errors, both over time, what it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.tables import FloatArray
from penstock.files.writing import atomic_write
from penstock.rendering import page
from penstock.rendering.page import SERIES, Cell, Chart, Table
from penstock.validate.measured import Line, MeasuredComparison

_POINTS = 600
_KEY = (("TTFT", "mean"), ("TTFT", "p99"), ("TPOT", "mean"), ("latency", "mean"))


def write_measured_page(comparison: MeasuredComparison, path: Path, title: str | None = None) -> None:
    """Errors, requests running and waiting over time, each request's TTFT and TPOT by when it was queued, and
    throughput where both sides have it.

    Raises:
        UserError: the path cannot be written.
    """
    charts = _charts(comparison)
    errors = [
        (f"error of {line.metric} {line.statistic}", f"{line.error:+.1%}")
        for line in comparison.lines
        if (line.metric, line.statistic) in _KEY
    ]
    told = ", ".join(f"{what.removeprefix('error of ')} {error}" for what, error in errors)
    name = comparison.run.directory.name
    body = "".join(
        [
            page.verdict([f"Simulated against measured: {told}."]),
            page.facts(errors),
            page.section("Both over time", page.columns(*map(page.picture, charts))),
            page.section("Errors", page.card(page.table(_table(comparison.lines)))),
            page.section("What the simulated side rests on", page.card(page.statements(comparison.notes))),
        ]
    )
    with atomic_write(path) as file:
        file.write(page.document(title or f"{name}: measured and simulated", body, charts=charts))


def _charts(comparison: MeasuredComparison) -> list[Chart]:
    end = max(float(times.last_token.max()) for times in comparison.times)
    grid = np.linspace(0.0, end, _POINTS)
    traces: dict[str, list[dict[str, Any]]] = {"running": [], "waiting": [], "ttft": [], "tpot": []}
    for place, (times, name) in enumerate(zip(comparison.times, ("measured", "simulated"), strict=True)):
        several = times.output_tokens > 1
        curves = (
            ("running", grid, _between(grid, times.scheduled, times.last_token)),
            ("waiting", grid, _between(grid, times.queued, times.scheduled)),
            ("ttft", times.queued, times.metrics()["TTFT"]),
            ("tpot", times.queued[several], times.metrics()["TPOT"] * 1e3),
        )
        for key, x, y in curves:
            is_line = key in ("running", "waiting")
            traces[key].append(_trace(place, name, x, y, is_line=is_line))
        if comparison.throughput is not None:
            series = comparison.throughput[place]
            for key, y in (("prompt", series.prompt_per_s), ("decode", series.decode_per_s)):
                traces.setdefault(key, []).append(_trace(place, name, series.seconds, y, is_line=True))
    titles = {
        "running": ("Requests running", "requests"),
        "waiting": ("Requests waiting", "requests"),
        "ttft": ("TTFT by arrival", "TTFT (s)"),
        "tpot": ("TPOT by arrival", "TPOT (ms)"),
        "prompt": ("Prompt throughput", "tokens/s"),
        "decode": ("Generation throughput", "tokens/s"),
    }
    return [
        Chart(id=key, title=title, traces=traces[key], x="time (s)", y=y)
        for key, (title, y) in titles.items()
        if key in traces
    ]


def _trace(place: int, name: str, x: FloatArray, y: FloatArray, *, is_line: bool) -> dict[str, Any]:
    return {
        "x": np.round(x, 4),
        "y": np.round(y, 5),
        "name": name,
        "mode": "lines" if is_line else "markers",
        "line": {"color": SERIES[place], "dash": ("solid", "dash")[place]},
        "marker": {"color": SERIES[place], "symbol": page.SYMBOLS[place], "size": 5, "opacity": 0.6},
    }


def _table(lines: tuple[Line, ...]) -> Table:
    rows: list[list[str | Cell]] = []
    for line in lines:
        scale, unit, digits = (1e3, "ms", 2) if line.metric == "TPOT" else (1.0, "s", 3)
        rows.append(
            [
                f"{line.metric} {line.statistic} ({unit})",
                f"{line.measured * scale:,.{digits}f}",
                f"{line.simulated * scale:,.{digits}f}",
                Cell(f"{line.error:+.1%}", line.error),
            ]
        )
    head = ["", "measured", "simulated", "error"]
    return Table(label="Measured and simulated", head=head, rows=rows, sorts=True)


def _between(grid: FloatArray, starts: FloatArray, stops: FloatArray) -> FloatArray:
    """How many intervals [start, stop) hold each point of ``grid``."""
    begun = np.searchsorted(np.sort(starts), grid, side="right")
    ended = np.searchsorted(np.sort(stops), grid, side="right")
    return (begun - ended).astype(np.float64)
