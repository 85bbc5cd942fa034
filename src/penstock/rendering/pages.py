"""Plotly figures, and pages that hold everything inline."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


def figure(title: str, x_title: str, y_title: str) -> go.Figure:
    """An empty figure in the project's looks."""
    import plotly.graph_objects as go

    chart = go.Figure()
    chart.update_layout(
        title=title,
        template="plotly_white",
        height=440,
        margin={"l": 70, "r": 20, "t": 50, "b": 55},
        legend={"orientation": "h", "y": -0.2},
        colorway=list(COLOURS),
    )
    chart.update_xaxes(title=x_title)
    chart.update_yaxes(title=y_title)
    return chart


def div(chart: go.Figure, name: str) -> str:
    """The figure as an HTML element with a fixed id; the page must hold :func:`plotly_script`."""
    return chart.to_html(full_html=False, include_plotlyjs=False, div_id=name)


def plotly_script() -> str:
    """plotly.js itself, inline: pages open without a network."""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"


def page(title: str, body: str, head: str = "") -> str:
    """A whole document."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:24px auto;max-width:1100px;padding:0 16px;color:#1f2937}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "td,th{padding:3px 10px;text-align:right;border-bottom:1px solid #e5e7eb}"
        "pre{background:#f3f4f6;padding:10px;overflow:auto}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{style}</style>{head}</head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )
