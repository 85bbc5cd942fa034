"""Recorded fields beside ours, and ours under the recording's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ITERATION_FIELDS = (
    "iter",
    "t_schedule_ns",
    "t_done_ns",
    "t_update_ns",
    "scheduled",
    "preempted",
    "free_blocks_before",
    "free_blocks_after",
    "num_running",
    "num_waiting",
    "queue_len_before",
    "stage_ns",
)
REQUEST_FIELDS = (
    "added_ns",
    "first_scheduled_ns",
    "first_token_ns",
    "finish_ns",
    "token_times_ns",
    "num_preemptions",
    "cached_tokens",
    "resumes",
    "finish_reason",
)


def named_iteration(row: Mapping[str, Any], names: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """The ``fields`` that an iteration has, with names for request indices."""
    named = {name: row[name] for name in fields if name in row}
    named["scheduled"] = [[names[index], new, computed] for index, new, computed in row["scheduled"]]
    named["preempted"] = [names[index] for index in row["preempted"]]
    return named


def named_requests(rows: Mapping[int, Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """``per_request`` of a recording."""
    return [
        {"req_id": names[index], **{name: row[name] for name in REQUEST_FIELDS}}
        for index, row in sorted(rows.items())
    ]


def instance_difference(
    recorded: Mapping[str, Any], ours: Mapping[str, Any], iteration_fields: Sequence[str], name: str = ""
) -> tuple[int, str] | None:
    """The first field of an instance in which ``ours`` is not what was recorded: when, and in words."""
    prefix = f"{name}, " if name else ""
    for expected, actual in zip(recorded["iterations"], ours["iterations"], strict=False):
        for field in iteration_fields:
            if expected.get(field) != actual.get(field):
                at_ns = expected["t_schedule_ns"]
                return at_ns, (
                    f"{prefix}iteration {expected['iter']} (t={at_ns} ns): {field}: "
                    f"recorded {short(expected.get(field))}, ours {short(actual.get(field))}"
                )
    counts = len(recorded["iterations"]), len(ours["iterations"])
    if counts[0] != counts[1]:
        longer = max(recorded["iterations"], ours["iterations"], key=len)
        at_ns = longer[min(counts)]["t_schedule_ns"]
        return at_ns, f"{prefix}iterations: recorded {counts[0]}, ours {counts[1]}, first extra at {at_ns} ns"
    difference = table_difference(
        f"{prefix}request", recorded["per_request"], ours["per_request"], ("req_id",), REQUEST_FIELDS
    )
    return None if difference is None else (recorded["end_ns"], difference)


def table_difference(
    kind: str,
    recorded: Sequence[Mapping[str, Any]],
    ours: Sequence[Mapping[str, Any]],
    key: Sequence[str],
    fields: Sequence[str] | None,
) -> str | None:
    """The first row, found by ``key``, and field of it (``fields``: all of the row's) that differ."""
    actual = {tuple(row[name] for name in key): row for row in ours}
    for row in recorded:
        place = tuple(row[name] for name in key)
        other = actual.pop(place, None)
        label = f"{kind} {' '.join(map(str, place))}"
        if other is None:
            return f"{label}: missing"
        for field in fields or sorted({*row, *other}):
            if row.get(field) != other.get(field):
                return f"{label}: {field}: recorded {short(row.get(field))}, ours {short(other.get(field))}"
    return f"{kind} {' '.join(map(str, next(iter(actual))))}: not recorded" if actual else None


def short(value: Any, limit: int = 160) -> str:
    """A value as text of at most ``limit`` characters."""
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
