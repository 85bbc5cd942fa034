"""Runs side by side: what differs between their inputs, and what came of it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.accounting.verdict import active_shares
from penstock.errors import Problem, UserError
from penstock.files.document import understood
from penstock.rendering.page import Table, card, section, table
from penstock.rendering.page import verdict as told_first
from penstock.rendering.report import write_page
from penstock.rendering.report_data import RunView, page_data, stage_causes, view_of_directory
from penstock.spec.prices import find_price, listed_prices
from penstock.units import NS_PER_MS, NS_PER_S

_CAUSES = (
    "busy",
    "transfer",
    "fill",
    "imbalance",
    "dependency",
    "memory",
    "seqs",
    "kv_transfer",
    "engine",
    "blocked",
    "drain",
    "sync",
    "dummy",
)


GENERATED = "generated tokens"
PER_GPU = "generated tokens per GPU"
PER_DOLLAR = "cost of a million generated tokens"
JUDGED = (GENERATED, "TTFT p99", "TPOT p99")
"""What decides which run is best."""

SAME = 0.01
"""Figures closer than this, relative to the larger one, are the same."""

_OF_PLACE = ("index", "node", "where", "instance")


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

    def verdict(self, run: int, than: int = 0) -> str:
        """``better``, ``worse`` or ``same`` than another run; empty where neither more nor less is better."""
        value, other = self.values[run], self.values[than]
        if value is None or other is None or not self.better:
            return ""
        if abs(value - other) <= SAME * max(abs(value), abs(other)):
            return "same"
        return "better" if (value > other) is (self.better > 0) else "worse"

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


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
    for view, directory in zip(views, directories, strict=True):
        with understood(str(directory), "cannot be compared"):
            compared_rows([view])
            page_data(view)
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        names = [os.path.normpath(directory) for directory in directories]
    if len(set(names)) < len(names):
        names = [f"{place + 1}: {name}" for place, name in enumerate(names)]
    return [_renamed(view, name) for view, name in zip(views, names, strict=True)]


def compared_rows(views: Sequence[RunView]) -> list[ComparedRow]:
    """What came of each run: rates, latencies, and where the stages' time went."""
    summaries = [view.summary for view in views]
    gpus = [_gpus(one) for one in summaries]
    dollars = [_usd_per_hour(one) for one in summaries]
    rows = [
        _row("GPUs", "", [sum(of.values()) for of in gpus], 0),
        _row("replicas, mean", "", [_mean_replicas(one) for one in summaries], 0),
        _row("price", "USD/hour", dollars, -1),
        _row("finished", "requests", [one["requests"]["finished"] for one in summaries], 1),
        _row("rejected", "requests", [one["requests"]["rejected"] for one in summaries], -1),
        _row("preemptions", "", [one["requests"]["preemptions"] for one in summaries], -1),
        _row("simulated", "s", [one["simulated_ns"] / NS_PER_S for one in summaries], 0),
    ]
    rates = [one["throughput"] for one in summaries]
    for name, key, unit in (
        ("requests", "requests_per_s", "/s"),
        ("prompt tokens", "prompt_tokens_per_s", "/s"),
        (GENERATED, "generated_tokens_per_s", "/s"),
    ):
        rows.append(_row(name, unit, [rate[key] if rate else None for rate in rates], 1))
    tokens = [rate["generated_tokens_per_s"] if rate else None for rate in rates]
    per_gpu = [
        None if rate is None else rate / sum(of.values()) for rate, of in zip(tokens, gpus, strict=True)
    ]
    per_dollar = [
        usd / (rate * 3600 / 1e6) if usd is not None and rate else None
        for usd, rate in zip(dollars, tokens, strict=True)
    ]
    rows.append(_row(PER_GPU, "/s", per_gpu, 1))
    rows.append(_row(PER_DOLLAR, "USD", per_dollar, -1))
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
    return [row for row in rows if any(value is not None for value in row.values)]


def winner(rows: Sequence[ComparedRow], names: Sequence[str]) -> str:
    """A sentence or two: which run is best, in what, and what it costs; figures within 1% are the same."""
    by_name = {row.name: row for row in rows}
    judged = [by_name[name] for name in JUDGED if name in by_name]
    leaders: dict[str, set[int]] = {}
    for row in judged:
        known = [run for run, value in enumerate(row.values) if value is not None]
        leaders[row.name] = {
            run for run in known if all(row.verdict(run, other) != "worse" for other in known)
        }
    everywhere = set(range(len(names))).intersection(*leaders.values()) if leaders else set[int]()
    if not leaders or len(everywhere) == len(names):
        text = "No run is better than another in tokens/s, TTFT p99 or TPOT p99"
    elif len(everywhere) == 1:
        run = everywhere.pop()
        told = ", ".join(f"{row.name} {_shown(row, run)}" for row in judged)
        text = f"{names[run]} is best in everything that was judged: {told}"
    else:
        told = "; ".join(
            f"{' and '.join(names[run] for run in sorted(leaders[row.name]))} in {row.name}"
            for row in judged
            if len(leaders[row.name]) < len(names)
        )
        text = f"No run is best in everything: {told}"
    return " ".join([f"{text}.", *_by_cost(by_name, names)])


def _by_cost(by_name: Mapping[str, ComparedRow], names: Sequence[str]) -> list[str]:
    """What runs on different numbers of GPUs, or at different prices, do for them."""
    sentences: list[str] = []
    gpus, price = by_name["GPUs"], by_name.get("price")
    for name, differs in (
        (PER_GPU, len(set(gpus.values)) > 1),
        (PER_DOLLAR, price is not None and len(set(price.values)) > 1),
    ):
        row = by_name.get(name)
        if row is None or not differs:
            continue
        known = [run for run, value in enumerate(row.values) if value is not None]
        best = min(known, key=lambda run, row=row: -row.better * (row.values[run] or 0.0))
        others = ", ".join(f"{names[run]} {_shown(row, run)}" for run in known if run != best)
        sentences.append(
            f"{row.name}: {names[best]} {_shown(row, best)}" + (f" against {others}." if others else ".")
        )
    return sentences


def different_inputs(views: Sequence[RunView]) -> list[tuple[str, tuple[str, ...]]]:
    """Inputs that are not the same in all runs: their key and the value in each, "-" where a run has none.

    Instances that are alike but for their place are one, ``each instance``, and a count.
    """
    flat = [dict(_flat(_by_kind(view.inputs))) for view in views]
    paths = list(dict.fromkeys(path for one in flat for path in one))
    return [
        (path, tuple(str(one.get(path, "-")) for one in flat))
        for path in paths
        if len({str(one.get(path, "-")) for one in flat}) > 1
    ]


def _by_kind(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with instances that are alike told once."""
    instances = inputs.get("instances")
    if not isinstance(instances, list) or not all(isinstance(one, Mapping) for one in instances):
        return dict(inputs)
    alike = [{key: value for key, value in one.items() if key not in _OF_PLACE} for one in instances]
    rest = {key: value for key, value in inputs.items() if key != "instances"}
    if any(one != alike[0] for one in alike):
        return {**rest, "number of instances": len(alike), "instances": alike}
    return {**rest, "number of instances": len(alike), "each instance": alike[0]}


def render_comparison(views: Sequence[RunView], width: int = 120) -> str:
    """Tables for a terminal of so many columns; long values are wrapped. Changes are from the first run."""
    names = [view.name for view in views]
    rows = compared_rows(views)
    lines = [textwrap.fill(winner(rows, names), width), ""]
    inputs = different_inputs(views)
    if inputs:
        lines += [_table([["input", *names], *([path, *values] for path, values in inputs)], width), ""]
    else:
        lines += ["all inputs are the same", ""]
    table = [["", *names]]
    table += [[row.label, *(_cell(row, run) for run in range(len(views)))] for row in rows]
    return "\n".join([*lines, _table(table, width)])


def write_comparison(views: Sequence[RunView], path: str | Path) -> None:
    """The page of a report with all runs in each chart, and their differences on top.

    Raises:
        UserError: the file cannot be written.
    """
    names = [view.name for view in views]
    rows = compared_rows(views)
    inputs = different_inputs(views)
    differing = table(
        Table(
            label="Inputs that differ",
            head=["input", *names],
            rows=[[name, *values] for name, values in inputs],
            left=range(len(names) + 1),
            wraps=True,
        )
    )
    came = table(
        Table(
            label="What came of it",
            head=["from the first run to each", *names],
            rows=[[row.label, *(_cell(row, run) for run in range(len(views)))] for row in rows],
            wraps=True,
        )
    )
    write_page(
        views,
        path,
        title=" and ".join([", ".join(names[:-1]), names[-1]]),
        verdict=told_first([winner(rows, names)]),
        differences=section("What came of it", card(came))
        + section("What differs", card(differing) if inputs else card("<p>All inputs are the same.</p>")),
    )


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


def _shown(row: ComparedRow, run: int) -> str:
    """A value with its unit."""
    value = row.values[run]
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    return f"{text}{row.unit if row.unit.startswith('/') else ' ' + row.unit if row.unit else ''}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _cell(row: ComparedRow, run: int) -> str:
    """``12.3 -> 8.1 better``: from the first run's value to this one's."""
    value, first = row.values[run], row.values[0]
    if value is None:
        return "-"
    if not run or first is None or value == first:
        return _number(value)
    return f"{_number(first)} → {_number(value)} {row.verdict(run)}".rstrip()


def _mean_replicas(summary: Mapping[str, Any]) -> float | None:
    """Under autoscaling."""
    use = summary.get("autoscaling")
    return None if use is None else use["mean_replicas"]


def _gpus(summary: Mapping[str, Any]) -> dict[str, float]:
    """GPUs by the label of their hardware; under autoscaling, those that there were on average."""
    found: dict[str, float] = {}
    use = summary.get("autoscaling")
    share = 1 if use is None else use["mean_replicas"] / use["instances"]
    for instance in summary["instances"]:
        for stage in instance["stages"]:
            label = str(stage["hardware"])
            found[label] = found.get(label, 0) + instance["tp_size"] * share
    return found


def _usd_per_hour(summary: Mapping[str, Any]) -> float | None:
    """By the package's dated list; None where a chip is not on it."""
    listed = listed_prices()
    total = 0.0
    for label, count in _gpus(summary).items():
        price = find_price(label, {}, listed)
        if price is None:
            return None
        total += price.usd_per_hour * count
    return total


def _table(rows: Sequence[Sequence[str]], width: int) -> str:
    """Columns two spaces apart, the first to the left; the others share what it leaves of the width, and wrap."""
    columns = len(rows[0])
    first = min(max(len(row[0]) for row in rows), width // 3)
    room = max((width - first) // max(columns - 1, 1) - 2, 12)
    widths = [first, *(min(max(len(row[column]) for row in rows), room) for column in range(1, columns))]
    lines: list[str] = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, size, break_on_hyphens=False) or [""]
            for cell, size in zip(row, widths, strict=True)
        ]
        for line in range(max(map(len, cells))):
            parts = [cell[line] if line < len(cell) else "" for cell in cells]
            padded = [
                part.rjust(size) if column else part.ljust(size)
                for column, (part, size) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
