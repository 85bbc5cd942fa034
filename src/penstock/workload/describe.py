"""What a workload holds, in a few figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penstock.units import seconds
from penstock.workload.workload import Workload

Facts = dict[str, str | int | float | bool | dict[str, float]]

_PERCENTILES = (50, 90, 99)
_MAX_PRIORITIES_LISTED = 10


def describe(workload: Workload) -> Facts:
    """Counts, span, rate and lengths. ``rate_per_s`` is arrivals (a session is one) over the span between
    the first and the last of them, 0 where they all come at once. ``priorities``: requests by priority, only
    where there are some; of more than 10 of them the number and the ends."""
    arrivals = workload.arrival_ns
    span_s = seconds(int(arrivals.max() - arrivals.min()))
    arriving = sum(1 for _ in workload.requests()) if workload.has_sessions else len(workload)
    return {
        "source": workload.source,
        "requests": len(workload),
        "sessions": workload.num_sessions,
        "first_arrival_s": seconds(workload.first_arrival_ns),
        "span_s": span_s,
        "rate_per_s": (arriving - 1) / span_s if span_s else 0.0,
        "token_ids": workload.has_token_ids,
        **({"priorities": _priorities(workload)} if workload.has_priorities else {}),
        "input_tokens": _figures(workload.input_tokens),
        "output_tokens": _figures(workload.output_tokens),
    }


def _priorities(workload: Workload) -> dict[str, float]:
    values, counts = np.unique(workload.priority, return_counts=True)
    if len(values) > _MAX_PRIORITIES_LISTED:
        return {"different": len(values), "min": int(values[0]), "max": int(values[-1])}
    return dict(zip(map(str, values.tolist()), counts.tolist(), strict=True))


def table(facts: Facts) -> str:
    """The facts as aligned text."""
    rows = [(name, _text(value)) for name, value in facts.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


def _figures(tokens: npt.NDArray[np.int64]) -> dict[str, float]:
    percentiles = np.percentile(tokens, _PERCENTILES)
    return {
        "total": int(tokens.sum()),
        "mean": round(float(tokens.mean()), 2),
        "min": int(tokens.min()),
        **{f"p{p}": round(float(v), 2) for p, v in zip(_PERCENTILES, percentiles, strict=True)},
        "max": int(tokens.max()),
    }


def _text(value: str | float | bool | dict[str, float]) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:,.10g}" for name, number in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,.10g}"
