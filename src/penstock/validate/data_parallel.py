"""Recordings of vLLM's data-parallel engines: reading them, and comparing a run with them in every list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from penstock.cost.linear import linear_hop
from penstock.cost.step_cost import HopCost, StepLoad
from penstock.engine.replay_group import ArrivingRequest, GroupTrace, replay_group
from penstock.spec.data_parallel import DataParallelOptions, MessageLatencies
from penstock.spec.options import SchedulerOptions
from penstock.validate.derive import complete
from penstock.validate.recordings import Recording
from penstock.validate.schedule import short, unequal_field
from penstock.workload.request import Request

LISTS = (
    "routing",
    "iterations",
    "dummies",
    "forwards",
    "syncs",
    "engine_messages",
    "start_waves",
    "publishes",
    "per_request",
)
"""The lists of a recording, causes before what follows from them."""

TOTALS = (
    "num_iterations",
    "num_forwards",
    "num_dummies",
    "num_empty_schedules",
    "num_idle_sleeps",
    "end_ns",
    "free_blocks_end",
    "final_wave",
    "unfinished",
)


@dataclass(frozen=True, slots=True)
class GroupStage:
    """``base_ns + per_token_ns * (most tokens of a rank) + per_sum_ns * (tokens of all ranks) + per_context_ns *
    (longest context of a rank)``, where a rank's context is the sum of its tokens computed before."""

    base_ns: int
    per_token_ns: int
    per_sum_ns: int
    per_context_ns: int


@dataclass(frozen=True, slots=True)
class RecordedGroupCost:
    """The recordings' own cost of a forward of all ranks: straight lines, in integers."""

    lines: tuple[GroupStage, ...]
    hop_base_ns: int
    hop_per_token_ns: int
    tail_base_ns: int
    tail_per_request_ns: int

    @property
    def stages(self) -> int:
        """Stages of each rank's pipeline."""
        return len(self.lines)

    def stage_ns(self, tokens: Sequence[int], contexts: Sequence[int]) -> list[int]:
        """Per stage, from new tokens and tokens computed before, per rank."""
        most, total, longest = max(tokens), sum(tokens), max(contexts)
        return [
            line.base_ns + line.per_token_ns * most + line.per_sum_ns * total + line.per_context_ns * longest
            for line in self.lines
        ]

    def forward_ns(self, loads: Sequence[StepLoad | None]) -> list[int]:
        """See :class:`~penstock.cost.group_cost.GroupCost`."""
        tokens = [1 if load is None else load.prefill_tokens + load.decodes for load in loads]
        contexts = [0 if load is None else load.prefill_context + load.decode_context for load in loads]
        return self.stage_ns(tokens, contexts)

    def padded_tokens(self, loads: Sequence[StepLoad | None]) -> int:
        """The recordings know no padding."""
        return 0

    def notes(self) -> tuple[str, ...]:
        """A straight line holds everywhere: nothing to note."""
        return ()

    def hop_ns(self, tokens: int) -> int:
        """From one stage to the next, for a rank's own tokens."""
        return self.hop_base_ns + self.hop_per_token_ns * tokens

    def hop(self, max_tokens: int) -> HopCost:
        """The same for up to ``max_tokens`` tokens; the link is never taken."""
        return linear_hop(self.hop_base_ns, self.hop_per_token_ns, max_tokens)

    def tail_ns(self, requests: int) -> int:
        """How much longer a rank's last stage is busy with a real forward of so many requests."""
        return self.tail_base_ns + self.tail_per_request_ns * requests


def is_data_parallel(recording: Recording) -> bool:
    """Whether the recording is one of ranks in lock-step."""
    return "dp_size" in recording.data["config"]


def data_parallel_options(recording: Recording) -> DataParallelOptions:
    """The group's options."""
    config = recording.data["config"]
    latency = config["latency"]
    return DataParallelOptions(
        size=config["dp_size"],
        sync_interval=config["dp_sync_interval"],
        sync_ns=config["sync_ns"],
        prefill_schedule_interval=config["prefill_schedule_interval"],
        load_balancing=config["lb"],
        front_ends=config["client_count"],
        nodes=config["hybrid_nodes"],
        stats_interval_ms=config["stats_interval_ms"],
        latencies=MessageLatencies(
            front_end_to_engine_ns=latency["client_engine"],
            engine_to_front_end_ns=latency["engine_client"],
            front_end_to_coordinator_ns=latency["client_coord"],
            coordinator_to_front_end_ns=latency["coord_client"],
            engine_to_coordinator_ns=latency["engine_coord"],
            coordinator_to_engine_ns=latency["coord_engine"],
        ),
    )


def group_cost(recording: Recording) -> RecordedGroupCost:
    """The virtual executor's cost."""
    config = recording.data["config"]
    hop, tail = config.get("hop", {}), config.get("tail", {})
    return RecordedGroupCost(
        tuple(GroupStage(each["a"], each["b"], each.get("m", 0), each["c"]) for each in config["stages"]),
        hop.get("d", 0),
        hop.get("e", 0),
        tail.get("f", 0),
        tail.get("g", 0),
    )


def arriving_requests(recording: Recording) -> list[ArrivingRequest]:
    """The requests in file order. With external balancing the front-end is that of the rank; with hybrid they
    are numbered through over the nodes."""
    return [
        ArrivingRequest(request, entry.get("dp_rank", entry.get("client", 0)), entry.get("dp_rank"))
        for request, entry in zip(recording.requests(), recording.data["requests"], strict=True)
    ]


def as_recording(
    trace: GroupTrace, case: str, names: Sequence[str], requests: Sequence[Request]
) -> dict[str, Any]:
    """The JSON object of one case, with ``names`` for the requests and the fields that follow from the others."""
    iterations = [_named_iteration(row, names, trace.forwards) for row in trace.iterations]
    per_request = [{"req_id": names[request.index], **trace.requests[request.index]} for request in requests]
    prompts = {names[request.index]: request.input_tokens for request in requests}
    for rank in range(len(trace.final_wave)):
        complete(_of_rank(iterations, rank), _of_rank(per_request, rank), prompts)
    return {
        "case": case,
        "num_iterations": len(iterations),
        "num_forwards": len(trace.forwards),
        "num_dummies": len(trace.dummies),
        "num_empty_schedules": trace.num_empty_schedules,
        "num_idle_sleeps": trace.num_idle_sleeps,
        "end_ns": trace.end_ns,
        "free_blocks_end": trace.free_blocks_end,
        "final_wave": trace.final_wave,
        "unfinished": [row["req_id"] for row in per_request if row["finish_ns"] is None],
        "iterations": iterations,
        "dummies": trace.dummies,
        "forwards": trace.forwards,
        "syncs": trace.syncs,
        "routing": [{**row, "req_id": names[row["req_id"]]} for row in trace.routing],
        "publishes": trace.publishes,
        "start_waves": trace.start_waves,
        "engine_messages": trace.engine_messages,
        "per_request": per_request,
    }


def _named_iteration(
    row: Mapping[str, Any], names: Sequence[str], forwards: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    named = dict(row)
    named["scheduled"] = [[names[index], new, computed] for index, new, computed in row["scheduled"]]
    named["preempted"] = [names[index] for index in row["preempted"]]
    if "partial_prefill" in row:
        named["partial_prefill"] = [names[index] for index in row["partial_prefill"]]
    if "fwd" in row:
        named["stage_ns"] = forwards[row["fwd"]]["stage_ns"]
    return named


def _of_rank(rows: Sequence[dict[str, Any]], rank: int) -> list[dict[str, Any]]:
    return [row for row in rows if row["rank"] == rank]


class Group(Protocol):
    """Anything that serves requests on ranks in lock-step and writes down what it did."""

    def __call__(
        self,
        options: DataParallelOptions,
        scheduler: SchedulerOptions,
        num_gpu_blocks: int,
        cost: RecordedGroupCost,
        arriving: Sequence[ArrivingRequest],
    ) -> GroupTrace: ...


def penstock_group(*, exact_only: bool = False) -> Group:
    """The simulator's own ranks; ``exact_only`` keeps their schedulers on the per-request path."""
    return partial(replay_group, exact_only=exact_only)


@dataclass(frozen=True, slots=True)
class GroupResult:
    """One case, compared. ``difference`` is the first one, or None; ``ours`` is what ``--dump`` writes."""

    case: str
    difference: str | None
    ours: dict[str, Any]

    def dumped(self) -> dict[str, Any]:
        """What we did, in the recording's schema."""
        return self.ours

    @property
    def line(self) -> str:
        """The report's line of this case."""
        if self.difference is not None:
            return f"{self.case}: DIFFERENT {self.difference}"
        ours = self.ours
        return (
            f"{self.case}: equal ({len(ours['final_wave'])} ranks, {ours['num_iterations']} iterations, "
            f"{ours['num_forwards']} forwards, {ours['num_dummies']} dummies, {len(ours['per_request'])} requests)"
        )


def validate_group(recording: Recording, group: Group) -> GroupResult:
    """Run one recording of ranks in lock-step and compare all its lists and totals."""
    arriving = arriving_requests(recording)
    trace = group(
        data_parallel_options(recording),
        recording.options(),
        recording.num_gpu_blocks,
        group_cost(recording),
        arriving,
    )
    requests = [each.request for each in arriving]
    ours = as_recording(trace, recording.case, recording.request_ids, requests)
    return GroupResult(recording.case, first_group_difference(recording.data, ours), ours)


def first_group_difference(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first row that is not as recorded, by its time, over all lists; else the first total; else None."""
    differences = [found for name in LISTS if (found := _list_difference(name, recorded[name], ours[name]))]
    if differences:
        return min(differences, key=lambda found: found[0])[1]
    for name in TOTALS:
        if recorded[name] != ours[name]:
            return f"in total: {name}: recorded {short(recorded[name])}, ours {short(ours[name])}"
    return None


def _list_difference(name: str, recorded: Sequence[Any], ours: Sequence[Any]) -> tuple[int, str] | None:
    for place, (expected, actual) in enumerate(zip(recorded, ours, strict=False)):
        if expected == actual:
            continue
        where = f"in {name}[{place}] (t={_time_of(expected)} ns): "
        if isinstance(expected, Mapping):
            field = unequal_field(expected, actual)
            if field is None:
                continue
            text = f"{field}: recorded {short(expected.get(field))}, ours {short(actual.get(field))}"
            return _time_of(expected), f"{where}{text}; recorded {short(expected)}"
        return _time_of(expected), f"{where}recorded {short(expected)}, ours {short(actual)}"
    if len(recorded) != len(ours):
        longer, whose = (recorded, "recorded") if len(recorded) > len(ours) else (ours, "ours")
        extra = longer[min(len(recorded), len(ours))]
        text = f"recorded {len(recorded)}, ours {len(ours)}; the first extra one ({whose}): {short(extra)}"
        return _time_of(extra), f"in the number of {name}: {text}"
    return None


def _time_of(row: Any) -> int:
    """When the row begins, for whichever list it is of."""
    if not isinstance(row, Mapping):
        return row[0]
    for name in ("t_schedule_ns", "t_submit_ns", "t_ns", "added_ns"):
        if row.get(name) is not None:
            return max(row[name]) if isinstance(row[name], list) else row[name]
    return 0
