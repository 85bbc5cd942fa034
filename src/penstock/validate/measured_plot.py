"""Measured and simulated over time, as one HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock.cost.tables import FloatArray
from penstock.files.writing import atomic_write
from penstock.validate.measured import MeasuredComparison

_POINTS = 600


def write_plot(comparison: MeasuredComparison, path: Path) -> None:
    """Requests running and waiting over time, and each request's TTFT and TPOT by when it was queued.

    Raises:
        UserError: the path cannot be written.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = ("running", "waiting", "TTFT by arrival, s", "TPOT by arrival, ms")
    figure = make_subplots(rows=4, cols=1, subplot_titles=titles, vertical_spacing=0.07)
    end = max(float(times.last_token.max()) for times in comparison.times)
    grid = np.linspace(0.0, end, _POINTS)
    for times, name, colour in zip(
        comparison.times, ("measured", "simulated"), ("#d1495b", "#2e86ab"), strict=True
    ):
        several = times.output_tokens > 1
        curves = (
            (grid, _between(grid, times.scheduled, times.last_token), "lines"),
            (grid, _between(grid, times.queued, times.scheduled), "lines"),
            (times.queued, times.metrics()["TTFT"], "markers"),
            (times.queued[several], times.metrics()["TPOT"] * 1e3, "markers"),
        )
        for row, (x, y, mode) in enumerate(curves, start=1):
            trace = go.Scatter(
                x=x, y=y, mode=mode, name=name, legendgroup=name, showlegend=row == 1, marker_color=colour
            )
            figure.add_trace(trace, row=row, col=1)
    figure.update_xaxes(title_text="seconds", row=4, col=1)
    figure.update_layout(height=1100, title=f"{comparison.run.directory.name}: measured and simulated")
    with atomic_write(path) as file:
        file.write(figure.to_html(include_plotlyjs=True, full_html=True, div_id="measured"))


def _between(grid: FloatArray, starts: FloatArray, stops: FloatArray) -> FloatArray:
    """How many intervals [start, stop) hold each point of ``grid``."""
    begun = np.searchsorted(np.sort(starts), grid, side="right")
    ended = np.searchsorted(np.sort(stops), grid, side="right")
    return (begun - ended).astype(np.float64)
