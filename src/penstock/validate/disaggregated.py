"""Recordings of prefill and decode apart: an engine's run beside one, in every field that the page they come with
names, and written in their schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from penstock.validate.differences import (
    ITERATION_FIELDS,
    instance_difference,
    named_iteration,
    named_requests,
    table_difference,
)
from penstock.validate.disaggregated_setup import DisaggregatedSetup, InstanceSetup, read_setup
from penstock.validate.recordings import Recording

TRANSFER_FIELDS = (
    "req_id",
    "prefill",
    "decode",
    "decode_stage",
    "blocks",
    "bytes",
    "post_ns",
    "start_ns",
    "end_ns",
    "ok",
)


class InstanceTrace(Protocol):
    """What one instance did, with request indices for names. ``kv_events`` as in the recordings."""

    @property
    def iterations(self) -> list[dict[str, Any]]: ...

    @property
    def requests(self) -> dict[int, dict[str, Any]]: ...

    @property
    def kv_events(self) -> list[dict[str, Any]]: ...

    @property
    def free_blocks_end(self) -> int: ...

    @property
    def end_ns(self) -> int: ...


class DisaggregatedTrace(Protocol):
    """What happened, with request indices for names. ``requests``: where the proxy sent each, and when on to its
    decode instance; ``aborted`` names the side that was told of its end."""

    @property
    def instances(self) -> Mapping[str, InstanceTrace]: ...

    @property
    def requests(self) -> dict[int, dict[str, Any]]: ...

    @property
    def transfers(self) -> list[dict[str, Any]]: ...

    @property
    def heartbeats(self) -> list[tuple[int, str, str, tuple[int, ...]]]: ...

    @property
    def lease_expired(self) -> list[tuple[int, str, int, int]]: ...

    @property
    def end_ns(self) -> int: ...


class DisaggregatedEngine(Protocol):
    """Anything that serves requests on prefill and decode instances and writes down what it did."""

    def __call__(self, setup: DisaggregatedSetup, /) -> DisaggregatedTrace: ...


def run_disaggregated(recording: Recording, engine: DisaggregatedEngine) -> dict[str, Any]:
    """An engine's run of a recording's requests, in the recording's schema."""
    setup = read_setup(recording)
    return as_recording(recording, setup, engine(setup))


def as_recording(
    recording: Recording, setup: DisaggregatedSetup, trace: DisaggregatedTrace
) -> dict[str, Any]:
    """A trace in the schema of the recordings."""
    names = recording.request_ids
    instances = [_instance(setup_of, trace.instances[setup_of.name], names) for setup_of in setup.instances]
    transfers = [{**row, "req_id": names[row["req_id"]]} for row in trace.transfers]
    rows = {
        name: _life(trace, index, [row for row in transfers if row["req_id"] == name])
        for index, name in enumerate(names)
    }
    return {
        "case": recording.case,
        "end_ns": trace.end_ns,
        "unfinished": [name for name, row in rows.items() if _is_open(row)],
        "lease_expired": [
            [at_ns, name, stage, names[index]] for at_ns, name, stage, index in trace.lease_expired
        ],
        "heartbeats": [
            [at_ns, source, target, [names[index] for index in indices]]
            for at_ns, source, target, indices in trace.heartbeats
        ],
        "aborts": recording.data.get("aborts", []),
        "transfers": sorted(transfers, key=_posted),
        "pd_requests": [{"req_id": name, **row} for name, row in rows.items()],
        "instances": instances,
    }


def _posted(row: Mapping[str, Any]) -> tuple[int, str, int]:
    return row["post_ns"], row["decode"], row["decode_stage"]


def _is_open(row: Mapping[str, Any]) -> bool:
    return row["finish_ns"] is None and "aborted" not in row


def _instance(setup: InstanceSetup, trace: InstanceTrace, names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": setup.name,
        "role": "prefill" if setup.prefills else "decode",
        "kv_role": setup.kv_role,
        "num_iterations": len(trace.iterations),
        "end_ns": trace.end_ns,
        "free_blocks_end": trace.free_blocks_end,
        "iterations": [named_iteration(row, names, ITERATION_FIELDS) for row in trace.iterations],
        "per_request": named_requests(trace.requests, names),
        "kv_events": [{**event, "req_id": names[event["req_id"]]} for event in trace.kv_events],
    }


def _life(trace: DisaggregatedTrace, index: int, transfers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of ``pd_requests``: one request across its instances."""
    sent = trace.requests[index]
    row: dict[str, Any] = {"prefill": sent["prefill"], "decode": sent["decode"]}
    prefill = _on_instance(trace, sent["prefill"], index)
    decode = _on_instance(trace, sent["decode"], index)
    row["prefill_added_ns"] = prefill.get("added_ns")
    row["prefill_done_ns"] = prefill.get("finish_ns")
    row["decode_sent_ns"] = sent["decode_sent_ns"]
    if "aborted" in sent:
        row["aborted"] = sent["aborted"]
    row["prefill_released_ns"] = prefill.get("blocks_freed", {}).get("t_ns")
    row["decode_added_ns"] = decode.get("added_ns")
    admitted = decode.get("load_admitted", {})
    row["load_admitted_ns"] = admitted.get("t_ns")
    row["external_tokens"] = admitted.get("external_tokens")
    row["transfer_start_ns"] = min((each["start_ns"] for each in transfers), default=None)
    row["transfer_end_ns"] = max((each["end_ns"] for each in transfers), default=None)
    row["load_reported_ns"] = decode.get("recv_reported", {}).get("t_ns")
    row["load_promoted_ns"] = decode.get("load_promoted", {}).get("t_ns")
    row["decode_first_scheduled_ns"] = decode.get("first_scheduled_ns")
    for name in ("first_token_ns", "finish_ns", "finish_reason"):
        row[name] = decode.get(name)
    return row


def _on_instance(trace: DisaggregatedTrace, name: str | None, index: int) -> dict[str, Any]:
    """A request's times on one instance, and the first event of each kind there."""
    if name is None or index not in trace.instances[name].requests:
        return {}
    instance = trace.instances[name]
    found: dict[str, Any] = dict(instance.requests[index])
    for event in instance.kv_events:
        if event["req_id"] == index:
            found.setdefault(event["kind"], event)
    return found


def first_difference(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first field, in time, in which ``ours`` is not what was recorded, in words; None if none is."""
    found = [
        difference
        for expected, actual in zip(recorded["instances"], ours["instances"], strict=True)
        for difference in [instance_difference(expected, actual, ITERATION_FIELDS, expected["name"])]
        if difference is not None
    ]
    if found:
        return min(found)[1]
    for kind, key, fields in (
        ("transfer", ("req_id", "decode_stage"), TRANSFER_FIELDS),
        ("pd_requests row", ("req_id",), None),
    ):
        table = "transfers" if kind == "transfer" else "pd_requests"
        difference = table_difference(kind, recorded[table], ours[table], key, fields)
        if difference is not None:
            return difference
    return None
