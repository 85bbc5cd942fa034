"""Measured and simulated side by side: percentiles of what a client sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray

METRICS = ("ttft", "tpot", "itl", "e2el")
STATISTICS = ("p10", "p50", "p90", "p99", "mean")
THROUGHPUT = "throughput"
_FAR = 10.0
_SPOKEN = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}


@dataclass(frozen=True, slots=True)
class Row:
    """One statistic: seconds, or output tokens a second for ``throughput``."""

    name: str
    measured: float
    predicted: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None where nothing was measured."""
        return self.predicted / self.measured - 1 if self.measured else None


def compare(measured: Benchmark, predicted: Benchmark, chosen: BoolArray | None = None) -> list[Row]:
    """Every statistic of every metric that the measurement has, over all requests or the chosen ones."""
    seen, simulated = measured.metrics(chosen), predicted.metrics(chosen)
    rows = [
        Row(f"{metric}_{name}", statistic(seen[metric], name), statistic(simulated[metric], name))
        for metric in METRICS
        if metric in seen and len(seen[metric])
        for name in STATISTICS
    ]
    return [*rows, Row(THROUGHPUT, measured.throughput(chosen), predicted.throughput(chosen))]


def statistic(values: FloatArray, name: str) -> float:
    """``p10`` to ``p99`` (linear between samples) or ``mean``."""
    return float(values.mean()) if name == "mean" else float(np.percentile(values, float(name[1:])))


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """``{"ttft_p50": {"measured": s, "predicted": s, "error": fraction}, ...}``."""
    return {
        row.name: {"measured": row.measured, "predicted": row.predicted, "error": row.error} for row in rows
    }


def to_text(rows: Sequence[Row]) -> str:
    """The JSON of a comparison as a file holds it."""
    return json.dumps(as_json(rows), indent=2) + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """Lines for a terminal: milliseconds, and output tokens a second."""
    lines = [f"{'':24}{'measured':>12}{'predicted':>14}{'error':>9}"]
    for row in rows:
        scale, unit = (1.0, "tokens/s") if row.name == THROUGHPUT else (1e3, "ms")
        error = shown_error(row)
        name = f"{shown_name(row.name)}, {unit}"
        lines.append(f"{name:24}{row.measured * scale:>12.2f}{row.predicted * scale:>14.2f}{error:>9}")
    return lines


def shown_error(row: Row) -> str:
    """In percent; of a measured value next to nothing only that it is far off."""
    if row.error is None:
        return ""
    return f"{row.error:+.1%}" if abs(row.error) < _FAR else "far off"


def shown_name(name: str) -> str:
    """``e2el_p50`` as ``E2E p50``."""
    metric, _, statistic_name = name.partition("_")
    return f"{_SPOKEN[metric]} {statistic_name}" if statistic_name else name


def error_sentence(rows: Sequence[Row]) -> str:
    """The medians and the throughput in one line."""
    wanted = [f"{metric}_p50" for metric in METRICS] + [THROUGHPUT]
    known = {row.name: row.error for row in rows}
    parts = [
        f"{shown_name(name).removesuffix(' p50')} {error:+.1%}"
        for name in wanted
        if (error := known.get(name)) is not None
    ]
    return "medians " + ", ".join(parts)
