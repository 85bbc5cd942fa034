"""Azure LLM inference traces: CSV of ``TIMESTAMP,ContextTokens,GeneratedTokens``, with dates.

Source: Azure Public Dataset, AzureLLMInferenceDataset2023. Arrivals count from the earliest timestamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from penstock.files.json_text import shown_text
from penstock.units import NS_PER_S
from penstock.workload.jsonl import MAX_TOKENS
from penstock.workload.mistakes import Mistakes
from penstock.workload.workload import Columns

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_LATEST_S = 4_102_444_800  # 2100-01-01: nanoseconds between any two stamps fit 64 bits
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
    if sorted(header) != sorted(COLUMNS):
        mistakes.add(first[0], f"expected the columns {','.join(COLUMNS)}, got {','.join(header)[:80]}")
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
    cells = line.split(",")
    if len(cells) != len(COLUMNS):
        mistakes.add(number, f"expected {len(COLUMNS)} columns, got {len(cells)}")
        return None
    before = mistakes.count()
    stamp = cells[places[0]].strip()
    time_ns = 0
    try:
        time_ns = _epoch_ns(stamp)
    except (ValueError, OverflowError):
        mistakes.add(number, f"TIMESTAMP must be like 2023-11-16 18:17:03.9799600, got {shown_cell(stamp)}")
    inputs = _tokens(number, COLUMNS[1], cells[places[1]].strip(), mistakes)
    outputs = _tokens(number, COLUMNS[2], cells[places[2]].strip(), mistakes)
    return (time_ns, inputs, outputs) if mistakes.count() == before else None


def _tokens(number: int, name: str, cell: str, mistakes: Mistakes) -> int:
    if _is_digits(cell, at_most=10) and 0 < int(cell) <= MAX_TOKENS:
        return int(cell)
    mistakes.add(number, f"{name} must be a whole number from 1 to {MAX_TOKENS}, got {shown_cell(cell)}")
    return 0


def _epoch_ns(stamp: str) -> int:
    """Nanoseconds since 1970; ``datetime`` alone would cut the seventh digit off."""
    rest = stamp[_WHOLE_SECONDS:]
    fraction, zone = rest, ""
    for sign in "Z+-":
        if sign in rest:
            fraction, zone = rest[: rest.index(sign)], rest[rest.index(sign) :]
            break
    digits = fraction.removeprefix(".")
    if fraction and not (fraction.startswith(".") and _is_digits(digits, at_most=9)):
        raise ValueError(stamp)
    return _epoch_s(stamp[:_WHOLE_SECONDS], zone) * NS_PER_S + int(digits.ljust(9, "0") or "0")


def _is_digits(text: str, *, at_most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= at_most


def shown_cell(cell: str) -> str:
    """A cell as a message shows it."""
    return f"'{shown_text(cell)}'"


@lru_cache(maxsize=256)
def _epoch_s(whole: str, zone: str) -> int:
    moment = datetime.fromisoformat(whole + zone)
    if len(whole) != _WHOLE_SECONDS:
        raise ValueError(whole)
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if not 0 <= seconds <= _LATEST_S:
        raise ValueError(whole)
    return seconds
