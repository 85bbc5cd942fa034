"""Runs side by side: what differs between their inputs, and what came of it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.document import understood
from penstock.rendering.compared_rows import ComparedRow, compared_rows, winner
from penstock.rendering.page import Table, card, section, table
from penstock.rendering.page import verdict as told_first
from penstock.rendering.report import write_page
from penstock.rendering.report_data import page_data
from penstock.rendering.run_view import RunView, view_of_directory

_OF_PLACE = ("index", "node", "where", "instance")


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
    return [replace(view, name=name) for view, name in zip(views, names, strict=True)]


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
