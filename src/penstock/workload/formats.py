"""Workload files -> :class:`Workload`: LLMServingSim JSONL, Azure CSV, Mooncake JSONL, each also gzipped.

The kind of a JSON line is told line by line, so kinds may stand in one file in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from penstock.errors import Problem, UserError
from penstock.files.reading import Lines, opened
from penstock.workload import azure
from penstock.workload.jsonl import LineReader
from penstock.workload.mistakes import Mistakes
from penstock.workload.plain_lines import PlainLines
from penstock.workload.workload import Columns, Workload


def load_workload(path: str | Path, num_requests: int = 0) -> Workload:
    """Read a workload of any known format; ``num_requests`` > 0 keeps the first so many (a session is one).

    Lines behind the last one kept are not looked at.

    Raises:
        UserError: every mistake of the file with its line number, the first 20 in full; an empty or
            unreadable file.
    """
    if num_requests < 0:
        raise UserError([Problem("--num-reqs", f"must be 0 (all) or more, got {num_requests}")])
    name = str(path)
    if not name:
        raise UserError("the path of the workload must not be empty")
    mistakes = Mistakes(name)
    with opened(path) as file:
        columns = _read(file, name, mistakes, num_requests)
    mistakes.raise_if_any(read=len(columns.arrival_ns))
    if not len(columns.arrival_ns):
        raise UserError([Problem(name, "has no requests")])
    return Workload(columns, name)


def _read(file: BinaryIO, name: str, mistakes: Mistakes, num_requests: int) -> Columns:
    """Read up to ``num_requests`` lines that are not blank (0: all)."""
    columns = Columns()
    numbered = Lines(file, name)
    lines = _lines(numbered, mistakes)
    first = next(lines, None)
    if first is None:
        return columns
    if azure.is_header(first[1]) or name.lower().removesuffix(".gz").endswith(".csv"):
        azure.read(first, lines, columns, mistakes, num_requests)
        return columns
    reader = LineReader(columns, mistakes)
    reader.take(*first)
    taken = 1
    alike = PlainLines.like(first[1])
    while taken != num_requests:
        if alike is not None:
            left = num_requests - taken if num_requests else None
            many = numbered.offer(partial(alike.add, columns, left))
            taken += many
            if many:
                continue
        line = next(lines, None)
        if line is None:
            break
        reader.take(*line)
        taken += 1
    return columns


def _lines(numbered: Lines, mistakes: Mistakes) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line that is not blank; a byte order mark is dropped."""
    for number, raw in numbered:
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            mistakes.add(number, "is not UTF-8 text")
            continue
        if line.strip():
            yield number, line
