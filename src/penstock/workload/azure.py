"""Azure LLM inference traces: CSV of ``TIMESTAMP,ContextTokens,GeneratedTokens``, with dates.

Source: Azure Public Dataset, AzureLLMInferenceDataset2023. Arrivals count from the earliest timestamp.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain

from penstock.errors import nearest
from penstock.units import NS_PER_S
from penstock.workload.jsonl import MAX_TOKENS
from penstock.workload.mistakes import Mistakes
from penstock.workload.workload import Columns

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_WHOLE_SECONDS = 19  # characters of "2023-11-16 18:17:03"


def is_header(line: str) -> bool:
    """Whether a file's first line is the header of such a trace, mistyped perhaps."""
    return not line.lstrip().startswith("{") and any(name in line for name in COLUMNS)


def read(
    first: tuple[int, str],
    lines: Iterator[tuple[int, str]],
    columns: Columns,
    mistakes: Mistakes,
    num_requests: int,
) -> None:
    """Add the rows behind the header line ``first``, at most ``num_requests`` of them (0: all)."""
    header = [name.strip() for name in first[1].split(",")]
    for name in header:
        if name not in COLUMNS:
            mistakes.add(first[0], f"unknown column '{name}'{nearest(name, COLUMNS)}")
    absent = [name for name in COLUMNS if name not in header]
    if absent or mistakes.count():
        if absent:
            mistakes.add(first[0], f"missing column{'s' * (len(absent) > 1)} {', '.join(absent)}")
        return
    places = tuple(header.index(name) for name in COLUMNS)
    arrivals: list[int] = []
    for taken, (number, line) in enumerate(lines):
        if num_requests and taken == num_requests:
            break
        row = _row(number, line, places, mistakes)
        if row is not None:
            arrivals.append(row[0])
            columns.add_plain(*row)
    start = min(arrivals, default=0)
    for row, arrival_ns in enumerate(arrivals):
        columns.arrival_ns[row] = arrival_ns - start


def _row(number: int, line: str, places: tuple[int, ...], mistakes: Mistakes) -> tuple[int, int, int] | None:
    """(time, prompt tokens, answer tokens), or None with the row's mistakes noted."""
    cells = next(csv.reader([line]))
    if len(cells) != len(COLUMNS):
        mistakes.add(number, f"expected {len(COLUMNS)} columns, got {len(cells)}")
        return None
    before = mistakes.count()
    stamp = cells[places[0]].strip()
    time_ns = 0
    try:
        time_ns = _epoch_ns(stamp)
    except ValueError:
        mistakes.add(number, f"TIMESTAMP must be like 2023-11-16 18:17:03.9799600, got {stamp!r}")
    counts = [_tokens(number, name, cells[place].strip(), mistakes) for name, place in _counts(places)]
    return (time_ns, counts[0], counts[1]) if mistakes.count() == before else None


def _counts(places: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    return zip(COLUMNS[1:], places[1:], strict=True)


def _tokens(number: int, name: str, cell: str, mistakes: Mistakes) -> int:
    if (
        cell.isascii()
        and cell.isdigit()
        and len(cell) <= len(str(MAX_TOKENS))
        and 0 < int(cell) <= MAX_TOKENS
    ):
        return int(cell)
    mistakes.add(number, f"{name} must be a whole number from 1 to {MAX_TOKENS}, got {cell!r}")
    return 0


def _epoch_ns(stamp: str) -> int:
    """Nanoseconds since 1970; ``datetime`` alone would cut the seventh digit off."""
    rest = stamp[_WHOLE_SECONDS:]
    fraction, zone = rest, ""
    for sign in chain("Z+-"):
        if sign in rest:
            fraction, zone = rest[: rest.index(sign)], rest[rest.index(sign) :]
            break
    digits = fraction.removeprefix(".")
    if fraction and not (
        fraction.startswith(".") and digits.isascii() and digits.isdigit() and len(digits) <= 9
    ):
        raise ValueError(stamp)
    return _epoch_s(stamp[:_WHOLE_SECONDS], zone) * NS_PER_S + int(digits.ljust(9, "0") or "0")


@lru_cache(maxsize=256)
def _epoch_s(whole: str, zone: str) -> int:
    moment = datetime.fromisoformat(whole + zone)
    if len(whole) != _WHOLE_SECONDS:
        raise ValueError(whole)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
