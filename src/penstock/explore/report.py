"""A search's results for readers: a table as text, CSV and Parquet, configs of the best, an HTML page."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError, nearest
from penstock.explore.design_point import DesignPoint, cluster_config
from penstock.explore.evaluate import PILOT
from penstock.explore.objectives import Objective, values_of
from penstock.explore.result import FAILED, HOPELESS, INFEASIBLE, MISSES, STOPPED, PointResult
from penstock.explore.slo import shown_ns
from penstock.explore.study import RESULTS_FILE, StudyOutcome
from penstock.explore.study_spec import StudySpec
from penstock.explore.tables import text_table
from penstock.files.frames import write_csv, write_parquet
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.rendering.statements import rests_on
from penstock.workload.offered_load import OfferedLoad
from penstock.workload.writer import lines as request_lines

TABLE_CSV = "table.csv"
TABLE_PARQUET = "table.parquet"
REPORT_HTML = "report.html"
BEST = "best"
POINTS_DIRECTORY = "points"
FRONT_DIRECTORY = "front"
STATUSES_WITH_REASONS = (FAILED, INFEASIBLE, HOPELESS, MISSES)
_SHOWN_IN_TEXT = 20
_BLANK = PointResult(key="", phase="", point=DesignPoint(hardware="", tp=1, pp=1, replicas=1), status="")


def output_files(directory: Path) -> list[Path]:
    """What a search writes whatever it finds; configs of its front and of chosen points have names of their own."""
    names = (RESULTS_FILE, TABLE_CSV, TABLE_PARQUET, REPORT_HTML, f"{BEST}.json", f"{BEST}-requests.jsonl")
    return [directory / name for name in names]


def write_outputs(outcome: StudyOutcome, directory: Path) -> list[Path]:
    """Write everything, all files or none; returns the paths.

    Raises:
        UserError: a file cannot be written.
    """
    with all_or_nothing():
        return _write_outputs(outcome, directory)


def _write_outputs(outcome: StudyOutcome, directory: Path) -> list[Path]:
    from penstock.explore.report_html import report_page

    rows = table_rows(outcome)
    written = [directory / TABLE_CSV, directory / TABLE_PARQUET, directory / REPORT_HTML]
    _write_tables(rows, written[0], written[1])
    with atomic_write(written[2]) as file:
        file.write(report_page(outcome, directory))
    for index in outcome.front:
        result = outcome.results[index]
        written.append(directory / FRONT_DIRECTORY / f"{result.key}.json")
        _write_config(outcome.spec, result, written[-1])
    winner = outcome.winner
    if winner is not None:
        written += write_point(outcome.spec, winner, directory / BEST)
    return written


def write_point(spec: StudySpec, result: PointResult, stem: Path) -> list[Path]:
    """The files of :func:`run_command`: a point's cluster config, ``STEM.json``, and the requests of its first
    realisation at its rate, ``STEM-requests.jsonl``."""
    paths = [stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}-requests.jsonl")]
    _write_config(spec, result, paths[0])
    load = OfferedLoad(spec.load.workload, spec.load.arrivals, spec.load.recipe)
    given = spec.load.rate == "trace" or result.rate_per_s is None
    workload = load.as_given() if given else load.at(result.rate_per_s or 1.0, 0, result.requests)
    with atomic_write(paths[1]) as file:
        file.writelines(request_lines(workload))
    return paths


def find_result(outcome: StudyOutcome, key: str) -> PointResult:
    """The result with a key.

    Raises:
        UserError: there is none.
    """
    found = [result for result in outcome.results if result.key == key]
    if not found:
        hint = nearest(key, [result.key for result in outcome.results])
        raise UserError([Problem("--point", f"no point has the key '{key}'{hint}: {TABLE_CSV} lists them")])
    return found[0]


def table_rows(outcome: StudyOutcome) -> list[dict[str, Any]]:
    """One per point, in the order of the results; all rows have the same columns."""
    front = set(outcome.front)
    return [_row(result, index in front) for index, result in enumerate(outcome.results)]


def _row(result: PointResult, on_front: bool) -> dict[str, Any]:
    point = result.point
    members = point.to_json()
    partition = point.partition
    members["partition"] = partition if isinstance(partition, str) else "-".join(map(str, partition))
    # A first look's figures stand in columns of their own: they are of shorter runs.
    first_look = result.phase == PILOT
    full = replace(_BLANK, key=result.key, point=point) if first_look else result
    return {
        "key": result.key,
        "label": point.label,
        "status": result.status,
        "pareto": on_front,
        "gpus": result.gpus,
        **members,
        "rate_per_s": full.rate_per_s,
        "low_per_s": full.low_per_s,
        "high_per_s": full.high_per_s,
        "saturated_per_s": full.saturated_per_s,
        "goodput_per_s": full.goodput_per_s,
        "goodput_per_gpu": full.goodput_per_gpu,
        "generated_tokens_per_s": full.generated_tokens_per_s,
        "usd_per_million_tokens": full.usd_per_million_tokens,
        "joules_per_token": full.joules_per_token,
        **{
            f"{name}_ms": _ms(full.statistics_ns.get(name))
            for name in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99")
        },
        "first_look_rate_per_s": result.rate_per_s if first_look else None,
        "first_look_goodput_per_gpu": result.goodput_per_gpu if first_look else None,
        "limiting_metric": full.limiting_metric,
        "limiting_cause": full.limiting_cause,
        "runs": len(result.trials),
        "requests": full.requests,
        "reason": result.reason,
        "why_wide": full.why_wide,
    }


def _write_tables(rows: list[dict[str, Any]], csv: Path, parquet: Path) -> None:
    import polars as pl

    kinds: dict[type, Any] = {str: pl.String, bool: pl.Boolean, int: pl.Int64, float: pl.Float64}
    schema: dict[str, Any] = {}
    for name in rows[0]:
        found = {type(row[name]) for row in rows if row[name] is not None}
        # A column without a value in any row has the type of its kind all the same.
        schema[name] = kinds[found.pop()] if found else pl.Float64 if _is_figure(name) else pl.String
    frame = pl.DataFrame(rows, schema=schema)
    write_csv(csv, frame)
    write_parquet(parquet, frame)


def _is_figure(name: str) -> bool:
    return name.startswith(
        (
            "rate",
            "low",
            "high",
            "saturated",
            "goodput",
            "generated",
            "usd",
            "joules",
            "ttft",
            "tpot",
            "first_look",
        )
    )


def _write_config(spec: StudySpec, result: PointResult, path: Path) -> None:
    with atomic_write(path) as file:
        json.dump(cluster_config(result.point, spec.site), file, indent=2)
        file.write("\n")


def run_command(spec: StudySpec, result: PointResult, stem: Path) -> str:
    """The run that shows a point in full, from the files of :func:`write_point`."""
    parts = ["penstock", "run", "--cluster-config", f"{stem}.json", "--dataset", f"{stem}-requests.jsonl"]
    if result.point.router != "LOAD":
        parts += ["--router", result.point.router]
    if spec.profile_root is not None:
        parts += ["--profile-root", spec.profile_root]
    if spec.calibration is not None:
        parts += ["--calibration", spec.calibration.name]
    return shlex.join(parts)


def point_command(spec: StudySpec, result: PointResult, directory: Path) -> str:
    """The command that writes a point's files and says how to run them."""
    parts = ["penstock", "explore", spec.source, "--output", str(directory)]
    if spec.calibration is not None:
        parts += ["--calibration", spec.calibration.name]
    return shlex.join([*parts, "--point", result.key])


def text_report(outcome: StudyOutcome, directory: Path) -> str:
    """The Pareto table, the winner and what became of the other points."""
    parts = [_counts(outcome), _front_table(outcome), _hardware_table(outcome)]
    winner = outcome.winner
    if winner is not None:
        stem = directory / BEST
        names = [objective.name for objective in outcome.spec.objectives]
        parts.append(f"best on {names[0]}: {winner.point.label}\n  {stem}.json")
        parts[-1] += f"\n  {run_command(outcome.spec, winner, stem)}"
        if winner.limiting_text:
            parts[-1] += (
                f"\n  limited by {winner.limiting_metric}: {winner.limiting_cause}: {winner.limiting_text}"
            )
        parts[-1] += f"\n  measured: {measured_how(outcome, winner)}"
    parts.append(_prices(outcome))
    if winner is not None:
        parts.append(rests_on(winner.basis))
    return "\n\n".join(part for part in parts if part)


def measured_how(outcome: StudyOutcome, result: PointResult) -> str:
    """How long the runs behind a result were, and where their requests come from."""
    load = outcome.spec.load
    if load.rate == "trace":
        return "the whole trace, once, as it is"
    own = [one.rate_per_s == result.rate_per_s and one.requests == result.requests for one in result.trials]
    runs = max(load.seeds, sum(own))
    how = OfferedLoad(load.workload, load.arrivals, load.recipe).how(result.requests, several=runs > 1)
    seeds = f"{runs} runs" if runs > 1 else "one run"
    text = f"{seeds} of {result.requests or 0:,} requests a rate ({how}), between warm-up and drain"
    return f"{text}; {result.why_wide}" if result.why_wide else text


def _counts(outcome: StudyOutcome) -> str:
    counts = Counter(result.status for result in outcome.results)
    runs = sum(len(result.trials) for result in outcome.results)
    named = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    lines = [f"{len(outcome.results)} points ({outcome.method}): {named}; {runs} runs"]
    lines += [f"  cannot run: {line}" for line in outcome.pruned.lines()]
    wide = Counter(_shape(result.why_wide) for result in outcome.results if result.why_wide)
    for status in (*STATUSES_WITH_REASONS, STOPPED):
        reasons = [r.reason or "" for r in outcome.results if r.status == status]
        lines += [f"  {status}: {line}" for line in grouped(reasons)]
    lines += [f"  wider intervals than asked for: {count} x {text}" for text, count in wide.most_common()]
    return "\n".join(lines)


def grouped(reasons: Sequence[str]) -> list[str]:
    """``12 x reason``, most frequent first; reasons that differ in figures or labels only are one, shown as the
    first of them."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in reasons:
        shape = _shape(reason)
        first.setdefault(shape, reason)
        counts[shape] += 1
    return [
        f"{count} x {first[shape]}" + (", and the like" if count > 1 and "#" in shape else "")
        for shape, count in counts.most_common()
    ]


def _shape(reason: str | None) -> str:
    """A reason without its figures, and without who beat a point."""
    text = (reason or "").partition(" in the pilot by ")[0]
    return re.sub(r"[0-9][0-9.,e+-]*( [mun]?s\b)?", "#", text)


def _front_table(outcome: StudyOutcome) -> str:
    if not outcome.front:
        return "no point has figures for every objective: the Pareto front is empty"
    objectives = outcome.spec.objectives
    results = [outcome.results[index] for index in outcome.front]
    first = objectives[0]
    results.sort(key=lambda result: (first.value(result) or 0.0) * (-1 if first.maximise else 1))
    winner = outcome.winner
    results.sort(key=lambda result: result is not winner)
    head = [
        "Pareto front",
        *(f"{o.name} ({o.unit})" for o in objectives),
        "requests/s",
        "TTFT p99",
        "TPOT p99",
    ]
    rows = [[*head, "limited by"]]
    rows += [_front_row(result, objectives) for result in results[:_SHOWN_IN_TEXT]]
    more = len(results) - _SHOWN_IN_TEXT
    return text_table(rows, left=(0,)) + (f"\n{more} more in {TABLE_CSV}" if more > 0 else "")


def _front_row(result: PointResult, objectives: Sequence[Objective]) -> list[str]:
    values = values_of(result, objectives) or ()
    return [
        result.point.label,
        *(f"{value:.4g}" for value in values),
        _interval(result),
        shown_ns(result.statistics_ns.get("ttft_p99")),
        shown_ns(result.statistics_ns.get("tpot_p99")),
        f"{result.limiting_metric or '-'}: {result.limiting_cause or '-'}",
    ]


def _interval(result: PointResult) -> str:
    """``18.2 (17.9 to 18.6)``"""
    if result.rate_per_s is None:
        return "-"
    text = f"{result.rate_per_s:.4g}"
    if result.unbounded:
        return f">= {text}"
    if result.low_per_s == result.high_per_s:
        return text
    high = "?" if result.high_per_s is None else f"{result.high_per_s:.4g}"
    return f"{text} ({result.low_per_s:.4g} to {high})"


def _hardware_table(outcome: StudyOutcome) -> str:
    best = outcome.best_by_hardware
    if len(best) < 2:
        return ""
    objectives = outcome.spec.objectives
    rows = [["best per hardware", *(f"{o.name} ({o.unit})" for o in objectives), "requests/s"]]
    for result in best.values():
        values = values_of(result, objectives) or ()
        rows.append([result.point.label, *(f"{value:.4g}" for value in values), _interval(result)])
    return text_table(rows, left=(0,))


def _prices(outcome: StudyOutcome) -> str:
    if all(objective.name != "cost_per_million_tokens" for objective in outcome.spec.objectives):
        return ""
    sources: Mapping[str, str] = outcome.spec.price_sources
    return "\n".join(
        f"price: {label} {usd:g} USD per GPU and hour ({sources[label]})"
        for label, usd in outcome.spec.prices.items()
    )


def _ms(value_ns: float | None) -> float | None:
    return None if value_ns is None else round(value_ns / 1e6, 6)
