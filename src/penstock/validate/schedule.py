"""Running an engine on recorded cases and comparing every field with what the real scheduler did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.cost.step_cost import PipelineCost
from penstock.engine.replay import replay
from penstock.spec.options import SchedulerOptions
from penstock.units import NEVER_NS
from penstock.validate.derive import complete
from penstock.validate.recordings import NamedTrace, Recording
from penstock.workload.request import Request

COUNTERS = ("num_empty_schedules", "num_idle_sleeps", "num_engine_turns", "end_ns", "free_blocks_end")
"""Totals of a run. In a deadlock the recorder gave up after a number of idle turns of its own choosing, so
only ``free_blocks_end`` is compared there."""

_ABSENT_WHEN_EMPTY: Mapping[str, Any] = {"partial_prefill": [], "preempted_detail": [], "stage_ns": None}


class Trace(Protocol):
    """What an engine wrote down, with request indices for names (``penstock.engine.replay.ReplayTrace``)."""

    iterations: list[dict[str, Any]]
    requests: dict[int, dict[str, Any]]
    rejected: dict[int, str]
    deadlock: bool


class Engine(Protocol):
    """Anything that serves requests on one instance and writes down what it did."""

    def __call__(
        self,
        config: SchedulerOptions,
        num_gpu_blocks: int,
        cost: PipelineCost,
        requests: Sequence[Request],
        *,
        reject_oversized: bool,
        until_ns: int = NEVER_NS,
    ) -> Trace: ...


def penstock_engine(*, exact_only: bool = False) -> Engine:
    """The simulator's own engine; ``exact_only`` keeps it on its per-request path."""

    def run(
        config: SchedulerOptions,
        num_gpu_blocks: int,
        cost: PipelineCost,
        requests: Sequence[Request],
        *,
        reject_oversized: bool,
        until_ns: int = NEVER_NS,
    ) -> Trace:
        return replay(
            config,
            num_gpu_blocks,
            cost,
            requests,
            exact_only=exact_only,
            reject_oversized=reject_oversized,
            until_ns=until_ns,
        )

    return run


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case, compared. ``difference`` is the first one, or None; ``trace`` is what ``--dump`` writes.

    Where requests were refused up front, ``difference`` is that of a second run with them let in, as
    recorded, and ``trace`` the run that refused them.
    """

    case: str
    difference: str | None
    trace: NamedTrace

    def dumped(self) -> dict[str, Any]:
        """What we did, in the recording's schema."""
        return self.trace.as_recording(self.case)

    @property
    def line(self) -> str:
        """The report's line of this case."""
        if self.difference is not None:
            return f"{self.case}: DIFFERENT {self.difference}"
        if self.trace.rejected:
            refusals = "; ".join(f"{name}: {reason}" for name, reason in self.trace.rejected)
            served = sum(row["finish_ns"] is not None for row in self.trace.per_request)
            return f"{self.case}: equal as recorded; by default refuses up front {refusals}; {served} others finish"
        note = (
            f", deadlock as recorded ({', '.join(self.trace.unfinished)} unfinished)"
            if self.trace.deadlock
            else ""
        )
        size = f"{len(self.trace.iterations)} iterations, {len(self.trace.per_request)} requests"
        return f"{self.case}: equal ({size}{note})"


def validate_case(recording: Recording, engine: Engine, *, as_recorded: bool) -> CaseResult:
    """Run one recording and compare. ``as_recorded`` lets in what the real server refuses up front. A recording of
    an engine that spins for ever has an end all the same: ours is stopped there."""
    options, cost, requests = recording.options(), recording.cost(), recording.requests()
    until_ns = int(recording.data["end_ns"]) + 1 if recording.data.get("livelock") else NEVER_NS

    def run(*, reject_oversized: bool) -> NamedTrace:
        trace = engine(
            options,
            recording.num_gpu_blocks,
            cost,
            requests,
            reject_oversized=reject_oversized,
            until_ns=until_ns,
        )
        return name_trace(trace, recording.request_ids, requests)

    ours = run(reject_oversized=not as_recorded)
    compared = run(reject_oversized=False) if ours.rejected else ours
    return CaseResult(recording.case, first_difference(recording.data, compared), ours)


def name_trace(trace: Trace, names: Sequence[str], requests: Sequence[Request]) -> NamedTrace:
    """A trace in the recordings' schema: names for indices, and the fields that follow from the others."""
    rows = [_named_iteration(row, names) for row in trace.iterations]
    per_request = [
        {"req_id": names[request.index], **trace.requests[request.index]}
        for request in requests
        if request.index in trace.requests
    ]
    complete(rows, per_request, {names[request.index]: request.input_tokens for request in requests})
    return NamedTrace(
        iterations=rows,
        per_request=per_request,
        rejected=[(names[index], reason) for index, reason in sorted(trace.rejected.items())],
        counters={name: getattr(trace, name) for name in COUNTERS},
        deadlock=trace.deadlock,
    )


def _named_iteration(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    named = dict(row)
    named["scheduled"] = [[names[index], new, computed] for index, new, computed in row["scheduled"]]
    named["preempted"] = [names[index] for index in row["preempted"]]
    if "partial_prefill" in row:
        named["partial_prefill"] = [names[index] for index in row["partial_prefill"]]
    return named


def first_difference(recorded: Mapping[str, Any], ours: NamedTrace) -> str | None:
    """The first field in which ``ours`` is not what was recorded, in words with its context, or None."""
    for expected, actual in zip(recorded["iterations"], ours.iterations, strict=False):
        field = unequal_field(expected, actual)
        if field is not None:
            return _in_iteration(field, expected, actual)
    if len(recorded["iterations"]) != len(ours.iterations):
        return _length_difference(recorded["iterations"], ours.iterations)
    by_name = {row["req_id"]: row for row in ours.per_request}
    for expected in recorded["per_request"]:
        actual = by_name.get(expected["req_id"])
        if actual is None:
            return f"request {expected['req_id']} is missing"
        field = unequal_field(expected, actual)
        if field is not None:
            return _in_request(field, expected, actual)
    return _total_difference(recorded, ours)


def unequal_field(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str | None:
    """The first field, in the order of the schema, in which the two are not equal."""
    for name in [*expected, *(_ABSENT_WHEN_EMPTY.keys() & actual.keys())]:
        default = _ABSENT_WHEN_EMPTY.get(name)
        if expected.get(name, default) != actual.get(name, default):
            return name
    return None


def _in_iteration(field: str, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    text = (
        f"at iteration {expected['iter']} (t={expected['t_schedule_ns']} ns): {field}: "
        f"recorded {short(expected.get(field))}, ours {short(actual.get(field))}"
    )
    if field != "scheduled":
        text += f"; recorded scheduled {short(expected['scheduled'])}"
        if expected["scheduled"] != actual["scheduled"]:
            text += f", ours {short(actual['scheduled'])}"
    return text + f"; preempted {short(expected['preempted'])}"


def _in_request(field: str, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    recorded, ours = expected.get(field), actual.get(field)
    where = field
    if isinstance(recorded, list) and isinstance(ours, list):
        for position, (left, right) in enumerate(zip(recorded, ours, strict=False)):
            if left != right:
                where, recorded, ours = f"{field}[{position}]", left, right
                break
        else:
            where, recorded, ours = f"length of {field}", len(recorded), len(ours)
    return f"in request {expected['req_id']}: {where}: recorded {short(recorded)}, ours {short(ours)}"


def _length_difference(recorded: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> str:
    longer, whose = (recorded, "recorded") if len(recorded) > len(ours) else (ours, "ours")
    extra = longer[min(len(recorded), len(ours))]
    return (
        f"in the number of iterations: recorded {len(recorded)}, ours {len(ours)}; the first extra one ({whose}) "
        f"at t={extra['t_schedule_ns']} ns schedules {short(extra['scheduled'])}"
    )


def _total_difference(recorded: Mapping[str, Any], ours: NamedTrace) -> str | None:
    deadlock = bool(recorded.get("deadlock", False))
    expected: dict[str, Any] = {"deadlock": deadlock, "unfinished": recorded.get("unfinished", [])}
    actual: dict[str, Any] = {"deadlock": ours.deadlock, "unfinished": ours.unfinished}
    for name in COUNTERS:
        if name in recorded and (not deadlock or name == "free_blocks_end"):
            expected[name], actual[name] = recorded[name], ours.counters[name]
    for name, value in expected.items():
        if value != actual[name]:
            return f"in total: {name}: recorded {short(value)}, ours {short(actual[name])}"
    return None


def short(value: Any, limit: int = 160) -> str:
    """A value as text of at most ``limit`` characters."""
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


class Result(Protocol):
    """A recording, compared."""

    @property
    def difference(self) -> str | None:
        """The first difference, or None."""
        ...

    @property
    def line(self) -> str:
        """The report's line."""
        ...

    def dumped(self) -> dict[str, Any]:
        """What we did, in the recording's schema."""
        ...


def report(results: Sequence[Result], write: Callable[[str], object]) -> int:
    """Write the last line; the exit code: 1 if any case differs."""
    equal = sum(result.difference is None for result in results)
    write(f"{equal} of {len(results)} equal")
    return 0 if equal == len(results) else 1
