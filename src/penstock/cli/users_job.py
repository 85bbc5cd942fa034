"""A capacity in users, as text and as a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from penstock.explore.capacity import CapacityOptions
from penstock.explore.load_test import LoadTest
from penstock.explore.slo import Slo, shown_ns
from penstock.explore.user_capacity import UserCapacity, find_users
from penstock.files.writing import atomic_write
from penstock.rendering.statements import rests_on

if TYPE_CHECKING:
    from penstock.cli.capacity_job import CapacityQuestion


def run_users(question: CapacityQuestion, load_test: LoadTest, slo: Slo, think_s: float) -> None:
    """Search, print, write.

    Raises:
        UserError: the SLO holds with no number of users, or with any.
    """
    options = CapacityOptions(
        seeds=question.seeds,
        tolerance=question.tolerance,
        requests=min(len(load_test.offered_load), question.max_requests),
        max_requests=question.max_requests,
    )
    found = find_users(load_test, think_s, options)
    lines = _lines(found, load_test, slo, think_s)
    typer.echo("\n".join(f"{name:<11} {text}" for name, text in lines) + "\n\n" + rests_on(load_test.basis))
    if question.output:
        with atomic_write(question.output) as file:
            json.dump(_as_json(found, load_test, slo, think_s), file, indent=2)
            file.write("\n")
        typer.echo(f"\nwrote {question.output}")


def _lines(found: UserCapacity, load_test: LoadTest, slo: Slo, think_s: float) -> list[tuple[str, str]]:
    high = "unknown" if found.high is None else f"{found.high:,}"
    held, broke = found.held, found.broke
    rows = [
        ("capacity", f"{found.users:,} users (95% interval {found.low:,} to {high})"),
        (
            "who send",
            f"{held.rate_per_s:.4g} requests/s in all, each thinking {think_s:g} s on average before the next",
        ),
    ]
    worst = next((bound for bound in slo.bounds if bound.name == broke.worst), None)
    if worst is not None:
        value = shown_ns(broke.bounds_ns[worst.name].estimate)
        limit = shown_ns(worst.limit_ns)
        rows.append(("limited by", f"{worst.name}: {value} with {found.broke_users:,} users, limit {limit}"))
    rows.append(("because of", f"{found.bottleneck.cause}: {found.bottleneck.text}"))
    runs = len(held.runs)
    how = load_test.offered_load.how(found.requests)
    count = f"{runs} runs" if runs > 1 else "one run"
    rows.append(("measured", f"{count} of {found.requests:,} requests for each number of users ({how})"))
    if found.why_wide is not None:
        rows.append(("note", f"the interval is wider than asked for: {found.why_wide}"))
    rows.append(("effort", f"{len(found.trials)} runs"))
    return rows


def _as_json(found: UserCapacity, load_test: LoadTest, slo: Slo, think_s: float) -> dict[str, Any]:
    return {
        "slo": str(slo),
        "think_time_s": think_s,
        "users": found.users,
        "low": found.low,
        "high": found.high,
        "rate_per_s": found.held.rate_per_s,
        "requests_per_run": found.requests,
        "why_wide": found.why_wide,
        "gpus": load_test.gpus,
        "bottleneck": found.bottleneck.to_json(),
        "trials": [trial.to_json() for trial in found.trials],
        "basis": list(load_test.basis),
    }
