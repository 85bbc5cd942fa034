"""The measurements as Markdown tables, which the terminal and ``docs/performance.md`` both show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import BEFORE, GOALS
from benchmarks.targets import ratio, targets

Row = Mapping[str, Any]

MEASURED = "measured"
PROFILED = "profiled"
"""Names of the two parts of ``docs/performance.md`` that are written by a command."""


def render(report: Mapping[str, Any]) -> str:
    """All tables of a report as written to JSON."""
    groups: Mapping[str, Sequence[Row]] = report["groups"]
    machine = report["machine"]
    left_out = " The long cases were left out." if report["quick"] else ""
    measured_on = (
        f"Measured on {machine['cpu']}, {machine['cores']} cores, Linux, Python {machine['python']}, load average "
        f"{machine['load_average']:.1f} when it began; costs from {report['cost_basis']}.{left_out}"
    )
    parts = [measured_on]
    sections = (
        ("goals", f"What is asked, beside {BEFORE}", goals_table(groups.get("goals", ()))),
        ("targets", "Targets", _targets(report)),
        ("saturated", "Iterations per CPU second, all requests arriving at once, pp 4", _rates(groups)),
        ("modes", "By the way of scheduling, pp 4, 128 running", _modes(groups)),
        ("reference", "Beside the reference scheduler, pp 4, 512 running", _reference(groups)),
        ("prefixes", "Prefix caching, pp 4, 128 running", _prefixes(groups)),
        ("sizes", "Requests x deployments, 10 requests/s per GPU, 128 running at most", _sizes(groups)),
        ("processes", "Whole processes", _processes(groups)),
    )
    for group, title, lines in sections:
        if group == "targets" or groups.get(group):
            parts.append(f"### {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def update_docs(path: Path, part: str, text: str) -> None:
    """Replace what stands between ``<!-- begin: part ... -->`` and ``<!-- end: part -->``.

    Raises:
        ValueError: the markers are missing.
    """
    pattern = re.compile(rf"(<!-- begin: {part}\b[^>]*-->).*?(<!-- end: {part} -->)", re.DOTALL)
    updated, count = pattern.subn(
        lambda found: f"{found[1]}\n\n{text.strip()}\n\n{found[2]}", path.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(f"{path} lacks the markers of '{part}'")
    path.write_text(updated, encoding="utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns padded to one width; all but the first to the right."""
    body = [list(row) for row in rows]
    widths = [max(len(row[place]) for row in [list(head), *body]) for place in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    return [line(head), f"| {' | '.join(rule)} |", *(line(row) for row in body)]


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:,.1f}"


def _targets(report: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[str, str, str, str]] = []
    for target in targets(report["groups"]):
        met = {None: "not measured", True: "yes", False: "no"}[target.is_met]
        sign = ">=" if target.at_least else "<"
        value = (
            "-"
            if target.value is None
            else f"{target.value:,.3g}"
            if target.value < 10
            else _count(target.value)
        )
        rows.append((target.name, f"{sign} {target.limit:,g} {target.unit}", f"{value} {target.unit}", met))
    return _table(("target", "limit", "measured", "met"), rows)


def goals_table(rows: Sequence[Row]) -> list[str]:
    """Iterations per CPU second or CPU seconds of each case in each way, with what is asked of it."""
    found = {(row["name"], row["way"]): row for row in rows}
    lines: list[tuple[str, ...]] = []
    for goal in GOALS:
        before, plain, compiled = (found.get((goal.name, way)) for way in ("before", "plain", "compiled"))
        if before is None and plain is None and compiled is None:
            continue
        asked = _value(goal.compiled) + ("" if goal.peak_mb is None else f", {goal.peak_mb:,.0f} MB")
        reached = "-" if compiled is None else _value(compiled["value"])
        if compiled is not None and goal.peak_mb is not None:
            reached += f", {compiled['peak_mb']:,.0f} MB"
        times = "-"
        if before is not None and compiled is not None:
            times = f"{before['min_cpu_s'] / compiled['min_cpu_s']:.1f}"
        lines.append(
            (
                goal.name,
                asked,
                reached,
                "-" if goal.plain is None else _value(goal.plain),
                "-" if plain is None else _value(plain["value"]),
                "-" if before is None else _value(before["value"]),
                times,
            )
        )
    loads = sorted(row["load"] for row in rows) or [0.0]
    head = ("it/s or CPU s", "asked", "compiled", "asked", "plain", BEFORE, "times")
    said = f"Iterations per CPU second, or CPU seconds of a process; at a load of {loads[0]:.0f} to {loads[-1]:.0f}."
    return [*_table(head, lines), "", said]


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f} s"


def _rates(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    names = {"run": "whole run, bubbles accounted", "engine": "engine alone"}
    return _table(
        ("running", "what", "requests", "iterations", "it/s, best", "it/s, median", "requests/s", "peak MB"),
        (
            (
                _count(row["max_num_seqs"]),
                names[row["what"]],
                _count(row["requests"]),
                _count(row["iterations"]),
                _count(row["iterations_per_s"]),
                _count(row["median_iterations_per_s"]),
                _count(row["requests_per_s"]),
                _count(row["peak_mb"]),
            )
            for row in groups.get("saturated", ())
        ),
    )


def _modes(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    return _table(
        ("scheduling", "requests", "iterations", "it/s, best", "it/s, median", "requests/s", "peak MB"),
        (
            (
                row["mode"],
                _count(row["requests"]),
                _count(row["iterations"]),
                _count(row["iterations_per_s"]),
                _count(row["median_iterations_per_s"]),
                _count(row["requests_per_s"]),
                _count(row["peak_mb"]),
            )
            for row in groups.get("modes", ())
        ),
    )


def _reference(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    names = {
        "run": "whole run, bubbles accounted",
        "engine": "engine alone",
        "reference": "reference, no trace",
    }
    lines = _table(
        ("what", "requests", "iterations", "CPU s, best", "iterations/s", "peak MB"),
        (
            (
                names[row["what"]],
                _count(row["requests"]),
                _count(row["iterations"]),
                _seconds(row["min_cpu_s"]),
                _count(row["iterations_per_s"]),
                _count(row["peak_mb"]),
            )
            for row in groups.get("reference", ())
        ),
    )
    found = ratio(groups)
    return (
        lines
        if found is None
        else [*lines, "", f"The whole run is {found:.0f} times as fast as the reference."]
    )


def _prefixes(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    def name(row: Row) -> str:
        if not row["prefixes"]:
            return "no token ids"
        return f"token ids, 16 shared prefixes of 512, caching {'on' if row['caching'] else 'off'}"

    return _table(
        ("workload", "requests", "iterations", "it/s, best", "it/s, median", "requests/s", "peak MB"),
        (
            (
                name(row),
                _count(row["requests"]),
                _count(row["iterations"]),
                _count(row["iterations_per_s"]),
                _count(row["median_iterations_per_s"]),
                _count(row["requests_per_s"]),
                _count(row["peak_mb"]),
            )
            for row in groups.get("prefixes", ())
        ),
    )


def _sizes(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    return _table(
        (
            "deployment",
            "requests",
            "iterations",
            "it/s, best",
            "it/s, median",
            "requests/s",
            "start-up s",
            "CPU s, best",
            "peak MB",
        ),
        (
            (
                row["shape"],
                _count(row["requests"]),
                _count(row["iterations"]),
                _count(row["iterations_per_s"]),
                _count(row["median_iterations_per_s"]),
                _count(row["requests_per_s"]),
                _seconds(row["startup_cpu_s"]),
                _seconds(row["min_cpu_s"]),
                _count(row["peak_mb"]),
            )
            for row in groups.get("sizes", ())
        ),
    )


def _processes(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    return _table(
        ("process", "CPU s, best", "CPU s, median", "wall s, best", "peak MB"),
        (
            (
                row["name"],
                _seconds(row["min_cpu_s"]),
                _seconds(row["median_cpu_s"]),
                _seconds(row["min_wall_s"]),
                _count(row["peak_mb"]),
            )
            for row in groups.get("processes", ())
        ),
    )
