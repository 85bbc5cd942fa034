"""A search's results for readers: a table as text, CSV and Parquet, configs of the best, an HTML page."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.explore.design_point import cluster_config
from penstock.explore.objectives import values_of
from penstock.explore.result import PointResult
from penstock.explore.slo import shown_ns
from penstock.explore.study import StudyOutcome
from penstock.explore.tables import text_table
from penstock.rendering.atomic import atomic_write, atomic_write_bytes

TABLE_CSV = "table.csv"
TABLE_PARQUET = "table.parquet"
REPORT_HTML = "report.html"
BEST_CONFIG = "best.json"
FRONT_DIRECTORY = "front"
_SHOWN_IN_TEXT = 20


def write_outputs(outcome: StudyOutcome, directory: Path) -> list[Path]:
    """Write everything, each file whole or not at all; returns the paths."""
    from penstock.explore.report_html import report_page

    rows = table_rows(outcome)
    written = [directory / TABLE_CSV, directory / TABLE_PARQUET, directory / REPORT_HTML]
    _write_tables(rows, written[0], written[1])
    with atomic_write(written[2]) as file:
        file.write(report_page(outcome))
    for index in outcome.front:
        result = outcome.results[index]
        written.append(directory / FRONT_DIRECTORY / f"{result.key}.json")
        _write_config(outcome, result, written[-1])
    winner = outcome.winner
    if winner is not None:
        written.append(directory / BEST_CONFIG)
        _write_config(outcome, winner, written[-1])
    return written


def table_rows(outcome: StudyOutcome) -> list[dict[str, Any]]:
    """One per point, in the order of the results; all rows have the same columns."""
    front = set(outcome.front)
    return [_row(result, index in front) for index, result in enumerate(outcome.results)]


def _row(result: PointResult, on_front: bool) -> dict[str, Any]:
    point = result.point
    statistics = {
        f"{name}_ms": _ms(result.statistics_ns.get(name))
        for name in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99")
    }
    members = point.to_json()
    partition = point.partition
    members["partition"] = partition if isinstance(partition, str) else "-".join(map(str, partition))
    return {
        "key": result.key,
        "label": point.label,
        "status": result.status,
        "pareto": on_front,
        "gpus": result.gpus,
        **members,
        "rate_per_s": result.rate_per_s,
        "low_per_s": result.low_per_s,
        "high_per_s": result.high_per_s,
        "saturated_per_s": result.saturated_per_s,
        "goodput_per_s": result.goodput_per_s,
        "goodput_per_gpu": result.goodput_per_gpu,
        "generated_tokens_per_s": result.generated_tokens_per_s,
        "usd_per_million_tokens": result.usd_per_million_tokens,
        **statistics,
        "limiting_metric": result.limiting_metric,
        "limiting_cause": result.limiting_cause,
        "runs": len(result.trials),
        "reason": result.reason,
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
    with atomic_write_bytes(csv) as file:
        frame.write_csv(file)
    with atomic_write_bytes(parquet) as file:
        frame.write_parquet(file)


def _is_figure(name: str) -> bool:
    return name.startswith(
        ("rate", "low", "high", "saturated", "goodput", "generated", "usd", "ttft", "tpot")
    )


def _write_config(outcome: StudyOutcome, result: PointResult, path: Path) -> None:
    with atomic_write(path) as file:
        json.dump(cluster_config(result.point, outcome.spec.site), file, indent=2)
        file.write("\n")


def run_command(outcome: StudyOutcome, result: PointResult, config: Path) -> str:
    """The run that shows a point in full."""
    workload = outcome.spec.load.workload.source
    dataset = workload if Path(workload).is_file() else "REQUESTS.jsonl"
    parts = ["penstock", "run", "--cluster-config", str(config), "--dataset", dataset]
    if result.point.router != "LOAD":
        parts += ["--router", result.point.router]
    if outcome.spec.profile_root is not None:
        parts += ["--profile-root", outcome.spec.profile_root]
    if outcome.spec.calibration is not None:
        parts += ["--calibration", outcome.spec.calibration.name]
    return shlex.join(parts)


def text_report(outcome: StudyOutcome, directory: Path) -> str:
    """The Pareto table, the winner and what became of the other points."""
    parts = [_counts(outcome), _front_table(outcome)]
    winner = outcome.winner
    if winner is not None:
        best = directory / BEST_CONFIG
        parts.append(f"best on {outcome.spec.objectives[0].name}: {winner.point.label}\n  {best}")
        parts[-1] += f"\n  {run_command(outcome, winner, best)}"
        if winner.limiting_text:
            parts[-1] += (
                f"\n  limited by {winner.limiting_metric}: {winner.limiting_cause}: {winner.limiting_text}"
            )
        parts.append("\n".join(f"rests on: {line}" for line in winner.basis))
    parts.append(_prices(outcome))
    return "\n\n".join(part for part in parts if part)


def _counts(outcome: StudyOutcome) -> str:
    counts = Counter(result.status for result in outcome.results)
    runs = sum(len(result.trials) for result in outcome.results)
    named = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    lines = [f"{len(outcome.results)} points ({outcome.method}): {named}; {runs} runs"]
    lines += [f"  cannot run: {line}" for line in outcome.pruned.lines()]
    short = sum(1 for result in outcome.results if _too_short(result))
    if short:
        lines.append(
            f"  note: {short} points hold the SLO at rates that cannot last (goodput and costs are of those that "
            "can): the workload is too short for their queues to grow"
        )
    for status in ("failed", "infeasible", "hopeless", "misses"):
        reasons = Counter(r.reason for r in outcome.results if r.status == status)
        lines += [f"  {status}: {count} x {reason}" for reason, count in reasons.most_common(3)]
    return "\n".join(lines)


def _too_short(result: PointResult) -> bool:
    rate, lasting = result.rate_per_s, result.saturated_per_s
    return result.unbounded or (rate is not None and lasting is not None and rate > lasting)


def _front_table(outcome: StudyOutcome) -> str:
    if not outcome.front:
        return "no point has figures for every objective: the Pareto front is empty"
    objectives = outcome.spec.objectives
    results = [outcome.results[index] for index in outcome.front]
    first = objectives[0]
    results.sort(key=lambda result: (first.value(result) or 0.0) * (-1 if first.maximise else 1))
    head = [
        "Pareto front",
        *(f"{o.name} ({o.unit})" for o in objectives),
        "requests/s",
        "TTFT p99",
        "TPOT p99",
    ]
    rows = [[*head, "limited by"]]
    for result in results[:_SHOWN_IN_TEXT]:
        values = values_of(result, objectives) or ()
        interval = f"{result.rate_per_s:.4g}" if result.rate_per_s is not None else "-"
        if result.unbounded:
            interval = f">= {interval}"
        rows.append(
            [
                result.point.label,
                *(f"{value:.4g}" for value in values),
                interval,
                shown_ns(result.statistics_ns.get("ttft_p99")),
                shown_ns(result.statistics_ns.get("tpot_p99")),
                f"{result.limiting_metric or '-'}: {result.limiting_cause or '-'}",
            ]
        )
    more = len(results) - _SHOWN_IN_TEXT
    return text_table(rows, left=(0,)) + (f"\n{more} more in {TABLE_CSV}" if more > 0 else "")


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
