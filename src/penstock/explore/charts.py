"""Charts of latency over load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.explore.load_test import Trial
from penstock.explore.slo import Slo
from penstock.rendering.pages import div, figure, page, plotly_script
from penstock.units import NS_PER_MS

if TYPE_CHECKING:
    import plotly.graph_objects as go


def latency_figure(curves: dict[str, Sequence[Trial]], metric: str, limit_ns: int | None) -> go.Figure:
    """A statistic over the rate, a line per name."""
    chart = figure(f"{metric} over load", "requests/s", f"{metric} in ms")
    for name, trials in curves.items():
        known = sorted(
            (trial.rate_per_s, value / NS_PER_MS)
            for trial in trials
            if trial.rate_per_s is not None and (value := trial.statistics_ns.get(metric)) is not None
        )
        chart.add_scatter(
            x=[rate for rate, _ in known], y=[value for _, value in known], name=name, mode="lines+markers"
        )
    if limit_ns is not None:
        chart.add_hline(y=limit_ns / NS_PER_MS, line_dash="dot", annotation_text="limit")
    return chart


def curve_page(curve: Sequence[Trial], slo: Slo) -> str:
    """The latency-over-load curves of one deployment, one per bound."""
    parts = [plotly_script()]
    for bound in slo.bounds:
        chart = latency_figure({bound.name: curve}, bound.name, bound.limit_ns)
        parts.append(div(chart, f"curve-{bound.name}"))
    return page(f"Latency over load, {slo}", "".join(parts))
