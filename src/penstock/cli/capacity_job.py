"""A capacity from options to text and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from penstock.api import load_scenario
from penstock.errors import Problem, UserError
from penstock.explore.capacity import Capacity, CapacityOptions, find_capacity, latency_curve
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.slo import Slo, check_priorities, parse_slo, shown_ns
from penstock.explore.steady_state import SteadyState
from penstock.explore.tables import text_table
from penstock.files.use import FileUse
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.rendering.statements import rests_on
from penstock.spec.check import check_members
from penstock.spec.option_table import RawRun
from penstock.workload.offered_load import Arrivals, OfferedLoad, check_arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityQuestion:
    """The command line's options; ``options`` are those of a run."""

    cluster: str
    dataset: str
    slo: str
    arrivals: str
    burstiness: float
    seeds: int
    tolerance: float
    max_requests: int
    curve: str | None
    report: str | None
    output: str | None
    options: Mapping[str, Any]


def run_capacity(question: CapacityQuestion) -> None:
    """Check everything, search, print, write.

    Raises:
        UserError: mistakes in the inputs, or an SLO that holds at no rate.
    """
    arrivals = Arrivals(question.arrivals, question.burstiness)
    files = FileUse(
        reads={"CLUSTER": question.cluster, "--dataset": question.dataset},
        writes={"--curve": question.curve, "--output": question.output, "--report": question.report},
    )
    slo, load_test = _prepare(question, arrivals, files)
    files.check()
    think_s = question.options.get("think_time")
    if think_s is not None:
        from penstock.cli.users_job import run_users

        run_users(question, load_test, slo, think_s)
        return
    options = CapacityOptions(
        seeds=question.seeds,
        tolerance=question.tolerance,
        requests=min(len(load_test.offered_load), question.max_requests),
        max_requests=question.max_requests,
    )
    found = find_capacity(load_test, options)
    lines = _lines(found, load_test, slo, question)
    typer.echo("\n".join(f"{name:<11} {text}" for name, text in lines))
    pages = [path for path in (question.curve, question.report) if path is not None]
    curve = latency_curve(load_test, found) if pages else []
    if question.curve is not None:
        typer.echo("\n" + _curve_table(curve, slo))
    typer.echo("\n" + rests_on(load_test.basis))
    with all_or_nothing():
        for path in pages:
            if path == question.curve and path.endswith(".csv"):
                _write_csv(path, curve, slo)
            else:
                from penstock.explore.capacity_page import capacity_page

                with atomic_write(path) as file:
                    file.write(capacity_page(found, curve, slo, load_test, lines))
        if question.output:
            with atomic_write(question.output) as file:
                json.dump(_as_json(found, load_test, slo, curve), file, indent=2)
                file.write("\n")
    written = [*pages, *([question.output] if question.output else [])]
    if written:
        typer.echo("\nwrote " + ", ".join(written))


def _prepare(question: CapacityQuestion, arrivals: Arrivals, files: FileUse) -> tuple[Slo, LoadTest]:
    problems = files.problems()
    if question.curve is not None and not question.curve.endswith((".csv", ".html")):
        problems.append(Problem("--curve", f"must end in .csv or .html, not '{question.curve}'"))
    think_s = question.options.get("think_time")
    if think_s is not None:
        given = {"--curve": question.curve, "--report": question.report}
        problems += [
            Problem(name, "is latency over requests/s: not of users (--think-time)")
            for name, value in given.items()
            if value is not None
        ]
        check_members(RawRun, {"think_time": think_s}, lambda _: "--think-time", problems)
    slo = None
    try:
        slo = parse_slo(question.slo)
    except UserError as error:
        problems += error.problems
    try:
        options = {name: value for name, value in question.options.items() if name != "think_time"}
        scenario = load_scenario(
            question.cluster, question.dataset, options, lambda name: f"--{name.replace('_', '-')}"
        )
        check_arrivals(arrivals, scenario.workload)
        if slo is not None:
            check_priorities(slo, scenario.workload)
            load_test = LoadTest(
                scenario.cluster, OfferedLoad(scenario.workload, arrivals), slo, scenario.options
            )
            if not problems:
                return slo, load_test
    except UserError as error:
        problems += error.problems
    raise UserError(problems)


def _lines(
    found: Capacity, load_test: LoadTest, slo: Slo, question: CapacityQuestion
) -> list[tuple[str, str]]:
    """What was found, as (what, text); a further line of one thing has no name."""
    per_gpu = found.goodput_per_s / load_test.gpus
    goodput = f"{found.goodput_per_s:.4g} requests/s within all limits, {per_gpu:.3g} per GPU ({load_test.gpus} GPUs)"
    count = f"{question.seeds} runs" if question.seeds > 1 else "one run"
    how = load_test.offered_load.how(found.requests)
    measured = f"{count} of {found.requests:,} requests a rate ({how}), {question.arrivals} arrivals"
    if found.broke is None or found.held is None:
        rows = [("capacity", f"at least {found.rate_per_s:.4g} requests/s: {slo} broke at no rate")]
    else:
        high = f"{found.high_per_s:.4g}" if math.isfinite(found.high_per_s) else "unknown"
        interval = f"95% interval {found.low_per_s:.4g} to {high}"
        rows = [
            ("capacity", f"{found.rate_per_s:.4g} requests/s ({interval})"),
            ("goodput", goodput),
            ("limited by", _limit(found.broke, slo)),
        ]
        if found.bottleneck is not None:
            rows.append(("because of", f"{found.bottleneck.cause}: {found.bottleneck.text}"))
    if found.saturated_per_s is not None:
        rows.append(
            ("full", f"with a queue that never empties it serves {found.saturated_per_s:.4g} requests/s")
        )
    rows.append(("measured", f"{measured}, between warm-up and drain"))
    if found.why_wide is not None:
        rows.append(("note", f"the interval is wider than asked for: {found.why_wide}"))
    rows.append(("effort", f"{len(found.trials)} runs"))
    return rows


def _limit(broke: SteadyState, slo: Slo) -> str:
    at = f"at {broke.rate_per_s:.4g} requests/s"
    worst = next((bound for bound in slo.bounds if bound.name == broke.worst), None)
    if worst is None:
        growth = broke.drift.growth.estimate
        return f"the queue, which grows by {growth:.3g} requests/s without end {at}"
    found = broke.bounds_ns[worst.name]
    low, high = shown_ns(found.low), shown_ns(found.high)
    interval = f"95% interval {low} to {high}"
    return f"{worst.name}: {shown_ns(found.estimate)} ({interval}) {at}, limit {shown_ns(worst.limit_ns)}"


def _columns(slo: Slo) -> list[str]:
    return list(
        dict.fromkeys(["ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", *(b.name for b in slo.bounds)])
    )


def _curve_table(curve: list[Trial], slo: Slo) -> str:
    columns = _columns(slo)
    rows = [["requests/s", *columns, "within limits", "SLO"]]
    for trial in curve:
        values = [shown_ns(trial.statistics_ns[name]) for name in columns]
        held = "holds" if trial.holds else "broken"
        rows.append([f"{trial.rate_per_s:.4g}", *values, f"{trial.attained:.1%}", held])
    return text_table(rows)


def _write_csv(path: str, curve: list[Trial], slo: Slo) -> None:
    columns = _columns(slo)
    with atomic_write(path) as file:
        file.write(",".join(["rate_per_s", *(f"{name}_ns" for name in columns), "attained", "holds"]) + "\n")
        for trial in curve:
            values = ["" if (v := trial.statistics_ns[name]) is None else f"{v:.0f}" for name in columns]
            file.write(
                ",".join([f"{trial.rate_per_s}", *values, f"{trial.attained}", str(trial.holds)]) + "\n"
            )


def _as_json(found: Capacity, load_test: LoadTest, slo: Slo, curve: list[Trial]) -> dict[str, Any]:
    return {
        "slo": str(slo),
        "holds_at_every_rate": found.unbounded,
        "rate_per_s": found.rate_per_s,
        "low_per_s": found.low_per_s,
        "high_per_s": found.high_per_s if math.isfinite(found.high_per_s) else None,
        "goodput_per_s": found.goodput_per_s,
        "saturated_per_s": found.saturated_per_s,
        "requests_per_run": found.requests,
        "requests_from": load_test.offered_load.how(found.requests),
        "why_wide": found.why_wide,
        "gpus": load_test.gpus,
        "bottleneck": None if found.bottleneck is None else found.bottleneck.to_json(),
        "trials": [trial.to_json() for trial in found.trials],
        "curve": [trial.to_json() for trial in curve],
        "basis": list(load_test.basis),
    }
