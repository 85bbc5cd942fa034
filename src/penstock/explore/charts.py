"""Charts of latency over load, and names that readers know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.explore.load_test import Trial
from penstock.explore.slo import Slo, shown_ns
from penstock.rendering.page import SERIES, SYMBOLS, Chart
from penstock.units import NS_PER_MS, NS_PER_S

LOG_FROM = 8.0
"""An axis whose values span more than this ratio is logarithmic."""

_NAMES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "goodput_per_gpu": "goodput per GPU",
    "cost_per_million_tokens": "cost of a million tokens",
    "gpus": "GPUs",
    "tp": "tensor parallel",
    "pp": "stages",
}


def readable(name: str) -> str:
    """``ttft_p99`` as ``TTFT p99``."""
    if name in _NAMES:
        return _NAMES[name]
    first, _, rest = name.partition("_")
    return f"{_NAMES[first]} {rest}" if first in _NAMES else name.replace("_", " ")


def spoken(slo: Slo | None) -> str:
    """``TTFT p99 < 2 s, TPOT p99 < 50 ms``"""
    if slo is None:
        return "none"
    return ", ".join(f"{readable(bound.name)} < {shown_ns(bound.limit_ns)}" for bound in slo.bounds)


def latency_chart(id: str, curves: Mapping[str, Sequence[Trial]], metric: str, limit_ns: int | None) -> Chart:  # noqa: A002
    """A statistic over the rate, a line per name, and its limit."""
    scale, unit = (NS_PER_S, "s") if limit_ns is not None and limit_ns >= NS_PER_S else (NS_PER_MS, "ms")
    traces: list[dict[str, Any]] = []
    rates: list[float] = []
    values: list[float] = []
    for place, (name, trials) in enumerate(curves.items()):
        known = sorted(
            (trial.rate_per_s, value / scale, trial.holds)
            for trial in trials
            if trial.rate_per_s is not None and (value := trial.statistics_ns.get(metric)) is not None
        )
        rates += [rate for rate, _, _ in known]
        values += [value for _, value, _ in known]
        traces.append(
            {
                "x": [rate for rate, _, _ in known],
                "y": [value for _, value, _ in known],
                "name": name,
                "mode": "lines+markers",
                "line": {"color": SERIES[place % len(SERIES)]},
                "marker": {
                    "symbol": [
                        SYMBOLS[place % len(SYMBOLS)] + ("" if held else "-open") for _, _, held in known
                    ],
                    "size": 9,
                },
                "customdata": ["the SLO holds" if held else "the SLO is broken" for _, _, held in known],
                "hovertemplate": f"%{{y:.4g}} {unit} at %{{x:.4g}} requests/s, %{{customdata}}<extra>{name}</extra>",
            }
        )
    if limit_ns is not None and rates:
        limit = limit_ns / scale
        values.append(limit)
        traces.append(
            {
                "x": [min(rates), max(rates)],
                "y": [limit, limit],
                "name": f"limit {limit:g} {unit}",
                "mode": "lines",
                "line": {"color": "$limit", "dash": "dot", "width": 2},
                "hoverinfo": "skip",
            }
        )
    return Chart(
        id=id,
        title=f"{readable(metric)} over load",
        traces=traces,
        x="requests/s",
        y=f"{readable(metric)} ({unit})",
        layout={"yaxis": log_axis(values), "height": 380},
        note="A filled mark: the SLO holds there; an open one: it is broken.",
    )


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where the values ask for one."""
    positive = [value for value in values if value > 0]
    if len(positive) < len(values) or not positive or max(positive) < LOG_FROM * min(positive):
        return {"rangemode": "tozero"}
    low, high = min(positive), max(positive)
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 5)
    ]
    return {
        "type": "log",
        "rangemode": "normal",
        "tickvals": ticks,
        "ticktext": [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks],
    }
