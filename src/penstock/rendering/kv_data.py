"""KV on the move, as plain values for the report: what was under way, over which ways, and who found what where."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from penstock.recording.records import LEG_COLUMNS, REQUEST_COLUMNS, Role, RunRecord
from penstock.units import GIB, NS_PER_MS, NS_PER_S

TIME_POINTS = 400
MOST_LIVES = 200
"""Requests whose legs are shown, spread evenly over the run."""


def kv_data(record: RunRecord) -> dict[str, Any]:
    """Empty where no KV moved. Else, of those there is something to say of:

    ``in_flight``: GiB under way (``y``) at times in s from the first arrival (``x``). ``ways``: from and to which
    instance and stage, transfers, GiB, mean ms waited for the links, and the share of the time with a transfer on the
    way. ``lives``: requests and their legs, each [instance, role, arrived, first scheduled, end] in ms from the first
    arrival. ``hits``: by instance, the share of prompt tokens found in the GPU's cache, and of those looked up in the
    tier below.
    """
    found: dict[str, Any] = {}
    if record.transfers:
        found |= {"in_flight": _in_flight(record), "ways": _ways(record)}
    if record.requests.has_legs:
        found["lives"] = _lives(record)
    if found or any(one.tier is not None for one in record.totals):
        found["hits"] = _hits(record)
    return found


def _in_flight(record: RunRecord) -> dict[str, list[float]]:
    posts = np.array([one.post_ns for one in record.transfers], dtype=np.int64)
    ends = np.array([one.end_ns for one in record.transfers], dtype=np.int64)
    sizes = np.array([one.size_bytes for one in record.transfers], dtype=np.int64)
    times = np.concatenate([posts, ends])
    order = np.argsort(times, kind="stable")
    level = np.cumsum(np.concatenate([sizes, -sizes])[order])
    moments = np.linspace(record.first_arrival_ns, record.end_ns, TIME_POINTS)
    place = np.searchsorted(times[order], moments, side="right") - 1
    under_way = np.where(place >= 0, level[np.maximum(place, 0)], 0) / GIB
    return {
        "x": np.round((moments - record.first_arrival_ns) / NS_PER_S, 6).tolist(),
        "y": np.round(under_way, 6).tolist(),
    }


def _ways(record: RunRecord) -> list[dict[str, Any]]:
    by_way: defaultdict[tuple[int, int, int], list[tuple[int, int, int, int]]] = defaultdict(list)
    for one in record.transfers:
        by_way[one.source, one.target, one.stage].append(
            (one.size_bytes, one.start_ns - one.post_ns, one.start_ns, one.end_ns)
        )
    length_ns = max(record.end_ns - record.first_arrival_ns, 1)
    return [
        {
            "source": source,
            "target": target,
            "stage": stage,
            "transfers": len(rows),
            "gib": round(sum(row[0] for row in rows) / GIB, 6),
            "waited_ms": round(sum(row[1] for row in rows) / len(rows) / NS_PER_MS, 4),
            "busy": round(_covered_ns([row[2:] for row in rows]) / length_ns, 6),
        }
        for (source, target, stage), rows in sorted(by_way.items())
    ]


def _covered_ns(spans: list[tuple[int, ...]]) -> int:
    """How long at least one of the spans lasts."""
    covered = until = 0
    for start, end in sorted(spans):
        covered += max(end - max(start, until), 0)
        until = max(until, end)
    return covered


def _lives(record: RunRecord) -> list[dict[str, Any]]:
    legs = record.requests.legs()
    place = {name: number for number, name in enumerate(LEG_COLUMNS)}
    requests = np.unique(legs[:, place["request"]])
    shown = set(requests[:: max(1, -(-len(requests) // MOST_LIVES))].tolist())
    lives: defaultdict[int, list[list[Any]]] = defaultdict(list)
    for row in legs.tolist():
        if row[0] in shown:
            times = (row[place[name]] for name in ("arrived_ns", "first_scheduled_ns", "end_ns"))
            moments = [round((at_ns - record.first_arrival_ns) / NS_PER_MS, 4) for at_ns in times]
            role = Role(row[place["role"]]).name.lower()
            lives[row[0]].append([row[place["instance"]], role, *moments])
    return [{"request": request, "legs": lives[request]} for request in sorted(lives)]


def _hits(record: RunRecord) -> list[dict[str, Any]]:
    rows = record.requests.values()
    instance, prompt, cached = (
        rows[:, REQUEST_COLUMNS.index(name)] for name in ("instance", "input_tokens", "cached_tokens")
    )
    found: list[dict[str, Any]] = []
    for place, totals in enumerate(record.totals):
        ours = instance == place
        tier = totals.tier
        asked = int(prompt[ours].sum())
        found.append(
            {
                "instance": place,
                "gpu": round(int(cached[ours].sum()) / asked, 6) if asked else None,
                "tier": round(tier.hit_tokens / tier.looked_up_tokens, 6)
                if tier is not None and tier.looked_up_tokens
                else None,
                "loads": 0 if tier is None else tier.loads,
                "stores": 0 if tier is None else tier.stores,
                "stall_ms": 0.0 if tier is None else round(tier.stall_ns / NS_PER_MS, 4),
            }
        )
    return found
