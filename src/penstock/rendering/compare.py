"""Runs side by side: what differs between their inputs, and what came of it."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.accounting.verdict import active_shares
from penstock.errors import Problem, UserError
from penstock.rendering.report import write_page
from penstock.rendering.report_data import RunView, stage_causes, view_of_directory
from penstock.units import NS_PER_MS, NS_PER_S

_CAUSES = (
    "busy",
    "transfer",
    "fill",
    "imbalance",
    "dependency",
    "memory",
    "kv_transfer",
    "engine",
    "blocked",
    "drain",
)


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One quantity in every run; ``better`` is +1 where more is better, -1 where less is, 0 where neither."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    better: int

    def change(self, run: int) -> float | None:
        """Relative to the first run; None where there is nothing to relate."""
        first, value = self.values[0], self.values[run]
        if first is None or value is None or not first:
            return None
        return value / first - 1


def load_runs(directories: Sequence[str | Path]) -> list[RunView]:
    """Read results directories; runs of one name are told apart by their paths.

    Raises:
        UserError: with everything that is wrong with any of them.
    """
    views: list[RunView] = []
    problems: list[Problem] = []
    for directory in directories:
        try:
            views.append(view_of_directory(directory))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        names = [os.path.normpath(directory) for directory in directories]
    if len(set(names)) < len(names):
        names = [f"{place + 1}: {name}" for place, name in enumerate(names)]
    return [_renamed(view, name) for view, name in zip(views, names, strict=True)]


def compared_rows(views: Sequence[RunView]) -> list[ComparedRow]:
    """What came of each run: rates, latencies, and where the stages' time went."""
    summaries = [view.summary for view in views]
    rows = [
        _row("finished", "requests", [one["requests"]["finished"] for one in summaries], 1),
        _row("rejected", "requests", [one["requests"]["rejected"] for one in summaries], -1),
        _row("preemptions", "", [one["requests"]["preemptions"] for one in summaries], -1),
        _row("simulated", "s", [one["simulated_ns"] / NS_PER_S for one in summaries], 0),
    ]
    for name, key, unit in (
        ("requests", "requests_per_s", "/s"),
        ("prompt tokens", "prompt_tokens_per_s", "/s"),
        ("generated tokens", "generated_tokens_per_s", "/s"),
    ):
        rates = [one["throughput"] for one in summaries]
        rows.append(_row(name, unit, [rate[key] if rate else None for rate in rates], 1))
    for name, key in (
        ("TTFT", "ttft"),
        ("TPOT", "tpot"),
        ("ITL", "itl"),
        ("latency", "latency"),
        ("queuing", "queuing"),
    ):
        found = [one["latency"][key] for one in summaries]
        for statistic in ("mean", "p50", "p99"):
            values = [of[f"{statistic}_ns"] / NS_PER_MS if of else None for of in found]
            rows.append(_row(f"{name} {statistic}", "ms", values, -1))
    shares = [_shares(one) for one in summaries]
    for cause in _CAUSES:
        values = [100 * share.get(cause, 0.0) if share else None for share in shares]
        if any(value for value in values):
            rows.append(_row(cause, "% of stage time", values, 1 if cause == "busy" else -1))
    stranded = [
        max(stage["stranded_bytes"] for instance in one["instances"] for stage in instance["stages"])
        for one in summaries
    ]
    rows.append(_row("stranded on one NPU, most", "GiB", [size / 2**30 for size in stranded], -1))
    return rows


def different_inputs(views: Sequence[RunView]) -> list[tuple[str, tuple[str, ...]]]:
    """Inputs that are not the same in all runs: their JSON path and the value in each."""
    flat = [dict(_flat(view.inputs)) for view in views]
    paths = list(dict.fromkeys(path for one in flat for path in one))
    return [
        (path, tuple(str(one.get(path, "-")) for one in flat))
        for path in paths
        if len({str(one.get(path, "-")) for one in flat}) > 1
    ]


def render_comparison(views: Sequence[RunView]) -> str:
    """Tables for the terminal; changes are relative to the first run."""
    head = ["", *(view.name for view in views)]
    lines: list[str] = []
    inputs = different_inputs(views)
    if inputs:
        lines += [_table([["input", *head[1:]], *([path, *values] for path, values in inputs)]), ""]
    else:
        lines += ["all inputs are the same", ""]
    rows = [head]
    for row in compared_rows(views):
        label = f"{row.name} ({row.unit})" if row.unit else row.name
        rows.append([label, *(_cell(row, run) for run in range(len(views)))])
    return "\n".join([*lines, _table(rows)])


def write_comparison(views: Sequence[RunView], path: str | Path) -> None:
    """The page of a report with all runs in each chart, and their differences on top.

    Raises:
        UserError: the file cannot be written.
    """
    heads = "".join(f'<th scope="col">{html.escape(view.name)}</th>' for view in views)
    body = ""
    for name, values in different_inputs(views):
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        body += f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>'
    inputs = body or f'<tr><th scope="row">all the same</th><td colspan="{len(views)}"></td></tr>'
    body = ""
    for row in compared_rows(views):
        cells = "".join(f"<td>{html.escape(_cell(row, run))}</td>" for run in range(len(views)))
        label = f"{row.name} ({row.unit})" if row.unit else row.name
        body += f'<tr><th scope="row">{html.escape(label)}</th>{cells}</tr>'
    tables = "".join(
        f'<h2>{title}</h2><div class="card scroll"><table><thead><tr><th scope="col">{corner}</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        for title, corner, rows in (
            ("What differs", "input", inputs),
            ("What came of it", "change from the first run in brackets", body),
        )
    )
    title = " and ".join([", ".join(view.name for view in views[:-1]), views[-1].name])
    write_page(views, path, title=title, differences=tables)


def _row(name: str, unit: str, values: Sequence[float | None], better: int) -> ComparedRow:
    return ComparedRow(name, unit, tuple(values), better)


def _shares(summary: Mapping[str, Any]) -> dict[str, float]:
    return active_shares([stage for instance in summary["instances"] for stage in stage_causes(instance)])


def _renamed(view: RunView, name: str) -> RunView:
    return RunView(
        name=name,
        summary=view.summary,
        inputs=view.inputs,
        requests=view.requests,
        steps=view.steps,
        memory=view.memory,
        gantt=view.gantt,
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a JSON value by path."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _flat(member, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(member, dict | list) for member in value):
        for place, member in enumerate(value):
            yield from _flat(member, f"{path}[{place}]")
    else:
        yield path, value


def _cell(row: ComparedRow, run: int) -> str:
    value = row.values[run]
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    first, change = row.values[0], row.change(run)
    if not run or first is None:
        return text
    if row.unit.startswith("%"):
        return f"{text} ({value - first:+.1f} points)"
    if change is None:
        return text
    return f"{text} ({value / first:,.0f} x)" if change >= 9 else f"{text} ({change:+.1%})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
