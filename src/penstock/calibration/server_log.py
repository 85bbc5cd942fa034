"""A vLLM server's log with ``--enable-logging-iteration-details``: one line per step (``v1/metrics/loggers.py``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.errors import Problem, UserError
from penstock.files.reading import read_text

_LINE = re.compile(
    r"(?:Engine (?P<engine>\d+): )?"
    r"Iteration\((?P<index>\d+)\): (?P<context>\d+) context requests, (?P<context_tokens>\d+) context tokens, "
    r"(?P<decodes>\d+) generation requests, (?P<decode_tokens>\d+) generation tokens, "
    r"iteration elapsed time: (?P<elapsed>[\d.]+) ms(?P<dummy> \(dummy\))?"
)
_STAMP = re.compile(r"\b(\d\d-\d\d \d\d:\d\d:\d\d)\b")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One step. ``stamp`` is the logger's local time (whole seconds, no year), empty where there is none;
    ``elapsed_ms`` is how long the engine waited for the step's result."""

    index: int
    stamp: str
    context_requests: int
    context_tokens: int
    decodes: int
    decode_tokens: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class ServerLog:
    """The steps of one engine, in order; dummy steps of data parallelism are left out."""

    source: str
    lines: tuple[LogLine, ...]


def read_server_log(path: str) -> ServerLog:
    """Read the iteration lines of a log, gzipped or not.

    Raises:
        UserError: it has none, or those of several engines.
    """
    lines: list[LogLine] = []
    engines: set[str] = set()
    for text in read_text(path).splitlines():
        if "Iteration(" not in text:
            continue
        match = _LINE.search(text)
        if match is None or match["dummy"]:
            continue
        engines.add(match["engine"] or "000")
        stamp = _STAMP.search(text, 0, match.start())
        lines.append(
            LogLine(
                index=int(match["index"]),
                stamp="" if stamp is None else stamp[1],
                context_requests=int(match["context"]),
                context_tokens=int(match["context_tokens"]),
                decodes=int(match["decodes"]),
                decode_tokens=int(match["decode_tokens"]),
                elapsed_ms=float(match["elapsed"]),
            )
        )
    if not lines:
        message = "has no iteration lines: start the server with --enable-logging-iteration-details"
        raise UserError([Problem(path, message)])
    if len(engines) > 1:
        message = f"has the iterations of {len(engines)} engines: only one can be matched with a benchmark"
        raise UserError([Problem(path, message)])
    return ServerLog(path, tuple(lines))


def span(log: ServerLog, year: int) -> tuple[datetime, datetime] | None:
    """First and last time in the log, None where its lines have none."""
    stamps = [line.stamp for line in (log.lines[0], log.lines[-1])]
    if not all(stamps):
        return None
    first, last = (parse_stamp(stamp, year) for stamp in stamps)
    return first, last


def parse_stamp(stamp: str, year: int) -> datetime:
    """``11-24 23:31:09`` in a year."""
    return datetime.strptime(f"{year}-{stamp}", "%Y-%m-%d %H:%M:%S")


def in_window(lines: Sequence[LogLine], end: datetime, duration_s: float, slack_s: float = 3.0) -> list[int]:
    """Places of the lines that a benchmark which ended at ``end`` may have caused."""
    first, last = end - timedelta(seconds=duration_s + slack_s), end + timedelta(seconds=slack_s)
    places: list[int] = []
    parsed: dict[str, bool] = {}
    for place, line in enumerate(lines):
        if line.stamp not in parsed:
            # A log has no year: around New Year it may be the one before the benchmark's or after.
            parsed[line.stamp] = bool(line.stamp) and any(
                first <= parse_stamp(line.stamp, year) <= last for year in {first.year, end.year, last.year}
            )
        if parsed[line.stamp]:
            places.append(place)
    return places
