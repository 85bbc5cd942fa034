"""Whose energy it was: each request's share of what its instance and its host draw.

A step's own energy (its NPUs above idle, the bytes it moves) is split by its tokens into that of prompts and that of
decodes. The former is shared equally by the requests whose prompts are being computed when it ends (first scheduled,
no token yet), the latter by those that have a token; where there is none of the one kind, by all that are running.
What is drawn in any case (idle and standby NPUs, the instance's part of its host) is shared at every moment by the
requests that are running then. What nobody ran for belongs to no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from penstock.recording.records import LEG_COLUMNS, REQUEST_COLUMNS, Role, RunRecord
from penstock.units import NS_PER_S, Int64Array

Float64Array = npt.NDArray[np.float64]
Span = tuple[Int64Array, Int64Array, float]
"""Begins, ends, and W in them."""


class StepEnergies:
    """``(at_ns, J, share of prompts)`` of an instance's steps."""

    def __init__(self) -> None:
        self._parts: list[tuple[Int64Array, Float64Array, Float64Array]] = []

    def add(self, at_ns: Int64Array, joules: Float64Array, prompt_share: Float64Array) -> None:
        """Keep them."""
        self._parts.append((at_ns.copy(), joules, prompt_share))

    def columns(self) -> tuple[Int64Array, Float64Array, Float64Array]:
        """All, by time."""
        if not self._parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
        at_ns, joules, share = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.argsort(at_ns, kind="stable")
        return at_ns[order], joules[order], share[order]


@dataclass(frozen=True, slots=True)
class InstancePower:
    """An instance with its part of its host: ``constant_w`` all the time, ``spans`` on top, and its steps."""

    instance: int
    constant_w: float
    spans: Sequence[Span]
    steps: StepEnergies = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Stays:
    """Requests at one instance: rows of the record, and when their prompt was begun and done, and their end."""

    row: Int64Array
    begin_ns: Int64Array
    token_ns: Int64Array
    end_ns: Int64Array


def merged(parts: Sequence[tuple[Int64Array, Int64Array]]) -> tuple[Int64Array, Int64Array]:
    """The union of spans [begin, end), by time, none touching the next."""
    begin = np.concatenate([part[0] for part in parts])
    end = np.concatenate([part[1] for part in parts])
    if not len(begin):
        return begin, end
    order = np.argsort(begin, kind="stable")
    begin, reach = begin[order], np.maximum.accumulate(end[order])
    first = np.concatenate([[True], begin[1:] > reach[:-1]])
    return begin[first], reach[np.append(np.flatnonzero(first)[1:] - 1, len(reach) - 1)]


def shares(
    record: RunRecord, powers: Sequence[InstancePower], begin_ns: int, end_ns: int
) -> tuple[Float64Array, float]:
    """J of each finished request, in the order of the record, and of none."""
    joules = np.zeros(len(record.requests))
    unassigned = 0.0
    stays = _stays(record)
    for power in powers:
        here = stays.get(power.instance, _NO_STAYS)
        unassigned += _share_steps(power, here, joules)
        unassigned += _share_rest(power, here, joules, (begin_ns, end_ns))
    return joules, unassigned


def _stays(record: RunRecord) -> dict[int, _Stays]:
    if record.requests.has_legs:
        table, names = record.requests.legs(), LEG_COLUMNS
        rows = {request: row for row, request in enumerate(record.requests.values()[:, 0].tolist())}
        row = np.array([rows[request] for request in table[:, 0].tolist()], dtype=np.int64)
        end = table[:, names.index("end_ns")]
    else:
        table, names = record.requests.values(), REQUEST_COLUMNS
        row, end = np.arange(len(table), dtype=np.int64), table[:, names.index("finish_ns")]
    begin = table[:, names.index("first_scheduled_ns")]
    token = table[:, names.index("first_token_ns")]
    if record.requests.has_legs:
        role = table[:, names.index("role")]
        token = np.where(role == Role.PREFILL, end, np.where(role == Role.DECODE, begin, token))
    instance = table[:, names.index("instance")]
    found: dict[int, _Stays] = {}
    for one in np.unique(instance).tolist():
        chosen = instance == one
        found[one] = _Stays(row[chosen], begin[chosen], token[chosen], end[chosen])
    return found


_NONE = np.zeros(0, dtype=np.int64)
_NO_STAYS = _Stays(_NONE, _NONE, _NONE, _NONE)


def _share_steps(power: InstancePower, stays: _Stays, joules: Float64Array) -> float:
    """Give each step's energy to whom it was for; returns what nobody takes."""
    at_ns, energy, prompt_share = power.steps.columns()
    prompts = _present(stays.begin_ns, stays.token_ns, at_ns)
    decodes = _present(stays.token_ns, stays.end_ns, at_ns)
    for_prompts, for_decodes = energy * prompt_share, energy * (1 - prompt_share)
    for_all = np.where(prompts == 0, for_prompts, 0) + np.where(decodes == 0, for_decodes, 0)
    everyone = prompts + decodes
    for amount, count, begin, end in (
        (np.where(prompts > 0, for_prompts, 0), prompts, stays.begin_ns, stays.token_ns),
        (np.where(decodes > 0, for_decodes, 0), decodes, stays.token_ns, stays.end_ns),
        (for_all, everyone, stays.begin_ns, stays.end_ns),
    ):
        each = np.concatenate([[0.0], np.cumsum(amount / np.maximum(count, 1) * (count > 0))])
        first, last = np.searchsorted(at_ns, begin, side="right"), np.searchsorted(at_ns, end, side="right")
        np.add.at(joules, stays.row, each[np.maximum(last, first)] - each[first])
    return float(for_all[everyone == 0].sum())


def _present(begin_ns: Int64Array, end_ns: Int64Array, at_ns: Int64Array) -> Int64Array:
    """How many spans (begin, end] hold each point."""
    begun = np.searchsorted(np.sort(begin_ns), at_ns, side="left")
    ended = np.searchsorted(np.sort(end_ns), at_ns, side="left")
    return begun - ended


def _share_rest(
    power: InstancePower, stays: _Stays, joules: Float64Array, window_ns: tuple[int, int]
) -> float:
    """Share what is drawn at every moment among those that are running; returns what nobody takes."""
    begin_ns, end_ns = window_ns
    edges = [np.array(window_ns, dtype=np.int64), stays.begin_ns, stays.end_ns]
    edges += [np.concatenate([begin, end]) for begin, end, _ in power.spans]
    times = np.unique(np.clip(np.concatenate(edges), begin_ns, end_ns))
    if len(times) < 2:
        return 0.0
    watts = np.zeros(len(times))
    running = np.zeros(len(times), dtype=np.int64)
    for begin, end, above_w in power.spans:
        np.add.at(watts, np.searchsorted(times, np.clip(begin, begin_ns, end_ns)), above_w)
        np.add.at(watts, np.searchsorted(times, np.clip(end, begin_ns, end_ns)), -above_w)
    begun, ended = np.searchsorted(times, stays.begin_ns), np.searchsorted(times, stays.end_ns)
    np.add.at(running, begun, 1)
    np.add.at(running, ended, -1)
    watts, running = np.cumsum(watts)[:-1] + power.constant_w, np.cumsum(running)[:-1]
    energy = watts * np.diff(times) / NS_PER_S
    each = np.concatenate([[0.0], np.cumsum(energy / np.maximum(running, 1) * (running > 0))])
    np.add.at(joules, stays.row, each[ended] - each[begun])
    return float(energy[running == 0].sum())
