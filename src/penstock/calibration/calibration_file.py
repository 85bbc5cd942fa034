"""The file of a calibration, and what ``penstock calibrate`` says of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from penstock import __version__
from penstock.calibration.comparison import as_json, compare, error_sentence, table
from penstock.calibration.fit import STEPS, TOKENS, Fit
from penstock.calibration.parameters import FITTED, MEANINGS, Estimate
from penstock.spec.calibration import FORMAT, model_shape
from penstock.units import NS_PER_MS, NS_PER_US


def to_json(fit: Fit) -> dict[str, Any]:
    """What ``--calibration`` reads back (docs/calibration.md)."""
    instance = fit.instance
    return {
        "format": FORMAT,
        "penstock": __version__,
        "source": source_of(fit),
        "date": _date(fit),
        "method": fit.method,
        "cost": fit.cost,
        "cost_basis": list(fit.cost_basis),
        "deployment": {
            "hardware": instance.hardware,
            "model": instance.model.name,
            "model_shape": model_shape(instance.model),
            "dtype": instance.dtype,
            "tp_size": instance.tp_size,
            "pp_size": instance.pp_size,
        },
        "parameters": {
            one.name: {
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "prior": one.prior,
                "identified": one.identified,
            }
            for one in fit.estimates
        },
        "noise": None
        if fit.noise is None
        else {"sigma": fit.noise.sigma, "correlation": fit.noise.correlation},
        "error": error_of(fit),
        "held_out": {
            one.benchmark.source: as_json(rows) for one, rows in zip(fit.measured, fit.held_out, strict=True)
        },
        "notes": list(fit.notes),
    }


def to_text(fit: Fit) -> str:
    """The file's text."""
    return json.dumps(to_json(fit), indent=2) + "\n"


def source_of(fit: Fit) -> str:
    """The benchmarks in one line."""
    return "; ".join(
        f"{Path(one.benchmark.source).name} ({one.benchmark.kind}, {len(one.benchmark)} requests)"
        + (f" with {len(one.steps)} steps of its log" if one.steps is not None else "")
        for one in fit.measured
    )


def way_of(fit: Fit) -> str:
    """How it was fitted, in words."""
    if fit.method == STEPS:
        return "a regression over steps matched with the server's log"
    if fit.method == TOKENS:
        return "a regression over steps read off tokens that came together"
    return f"{fit.simulations} simulations, no step times"


def error_of(fit: Fit) -> str:
    """How far the second half was missed by a fit of the first."""
    parts = [error_sentence(rows) for rows in fit.held_out]
    return "held-out second half, " + "; ".join(parts)


def _date(fit: Fit) -> str:
    dates = [one.benchmark.date for one in fit.measured if one.benchmark.date]
    try:
        return f"{datetime.strptime(max(dates), '%Y%m%d-%H%M%S'):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return max(dates, default="")


def report(fit: Fit) -> list[str]:
    """Lines for a terminal: how it was fitted, the parameters, and both comparisons."""
    way = way_of(fit)
    cost = (
        "the step cost itself is fitted: no kernel times"
        if fit.cost == FITTED
        else "; ".join(fit.cost_basis[:1])
    )
    lines = [f"fitted to {source_of(fit)}", f"by {way}; {cost}", ""]
    lines += parameter_lines(fit.estimates)
    if fit.noise is not None:
        lines.append(
            f"  step noise: sigma {fit.noise.sigma:.3f} of the log, correlation from step to step "
            f"{fit.noise.correlation:.2f}"
        )
    if fit.step_errors is not None:
        off = sorted(abs(float(one)) for one in fit.step_errors)
        lines.append(
            f"  steps: {len(off)}, off by {off[len(off) // 2]:.1%} at the median, "
            f"{off[int(len(off) * 0.9)]:.1%} at the 90th percentile"
        )
    for one, simulated, rows in zip(fit.measured, fit.simulated, fit.held_out, strict=True):
        lines += ["", f"{one.benchmark.source}: second half, predicted by a fit of the first", *table(rows)]
        own = compare(one.benchmark, simulated)
        lines += ["", f"{one.benchmark.source}: all of it, by the fit of all of it", *table(own)]
    lines += ["", *(f"- {note}" for note in fit.notes)] if fit.notes else []
    return lines


def parameter_lines(found: Sequence[Estimate]) -> list[str]:
    """A line per parameter: value, interval, prior, meaning."""
    lines = [f"  {'':20}{'value':>12}{'95% interval':>26}{'prior':>12}"]
    for one in found:
        value, low, high, prior = (
            shown_value(number, one.name) for number in (one.value, one.low, one.high, one.prior)
        )
        interval = f"{low} to {high}" if one.identified else "not identified"
        lines.append(f"  {one.name:20}{value:>12}{interval:>26}{prior:>12}  {MEANINGS[one.name]}")
    return lines


def shown_value(value: float, name: str) -> str:
    """A parameter with its unit."""
    if name.endswith("_factor"):
        return f"{value:.3f}"
    if abs(value) >= 0.1 * NS_PER_MS:
        return f"{value / NS_PER_MS:.2f} ms"
    return f"{value / NS_PER_US:.2f} us" if abs(value) >= 0.1 * NS_PER_US else f"{value:.2f} ns"
