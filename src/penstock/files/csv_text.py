"""CSV as measurements come in: every mistake with its line, and never more of it than a line of a message."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator

from penstock.errors import Problem, UserError
from penstock.files.json_text import shown_text
from penstock.files.reading import read_text
from penstock.files.use import AnyPath


def rows_of(path: AnyPath) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row that is not empty.

    Raises:
        UserError: the file cannot be read, a quote that nobody closes, a cell of more than 128 KiB.
    """
    return parse_rows(read_text(path), str(path))


def parse_rows(text: str, shown: str) -> Iterator[tuple[int, list[str]]]:
    """As :func:`rows_of`, of text."""
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            told = "a quote is not closed" if "unexpected end" in str(error) else str(error)
            raise UserError([Problem(f"{shown}:{line}", f"broken CSV: {told}")]) from None
        if row is None:
            return
        if row:
            yield line, row


def named_rows(path: AnyPath, needed: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of each row below the header; cells that are missing are empty.

    Raises:
        UserError: as :func:`rows_of`, or a column of ``needed`` is missing.
    """
    return parse_named(read_text(path), str(path), needed)


def parse_named(text: str, shown: str, needed: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """As :func:`named_rows`, of text."""
    rows = parse_rows(text, shown)
    _, header = next(rows, (1, []))
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError([Problem(f"{shown}:1", f"no column {', '.join(missing)}")])
    return ((line, dict(zip(header, row + [""] * len(header), strict=False))) for line, row in rows)


def measured(cell: str) -> float:
    """A time or a size as somebody measured it: a finite number, none below 0.

    Raises:
        ValueError: it is none.
    """
    value = float(cell)
    if not 0.0 <= value < math.inf:
        raise ValueError(f"'{shown_text(cell)}' is no finite number from 0")
    return value


def measured_above_zero(cell: str) -> float:
    """As :func:`measured`, for what has a logarithm.

    Raises:
        ValueError: it has none.
    """
    value = measured(cell)
    if not value:
        raise ValueError(f"'{shown_text(cell)}' is not above 0")
    return value


def shown_row(row: Iterable[str]) -> str:
    """A row as a message shows it."""
    return f"'{shown_text(','.join(row))}'"
