"""A whole workload through one instance in machine code, requests handed over by the thousand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from penstock.engine.admission import reason_to_reject
from penstock.engine.native_replica import NativeReplica
from penstock.engine.outcomes import Outcomes
from penstock.scheduler.request_state import RequestState
from penstock.workload.request import Request
from penstock.workload.workload import Workload

AT_ONCE = 4096


def serve_at_once(workload: Workload, one: NativeReplica, outcomes: Outcomes, way_in_ns: int) -> int:
    """Serve all of a workload whose requests arrive whatever becomes of others, up to the last arrival; returns that.

    Raises:
        NoProgressError: the instance has work that can never run.
    """
    last_ns = 0
    for batch in _batches(workload.requests()):
        one.run_until(batch[0].arrival_ns)
        for request in batch:
            reason = reason_to_reject(request, one.options, one.usable_blocks)
            if reason is None:
                at_ns = request.arrival_ns + way_in_ns
                one.deliver(RequestState(request, one.options.max_model_len, at_ns))
            else:
                outcomes.rejected(request, one.index, reason)
        last_ns = batch[-1].arrival_ns
    return last_ns


def _batches(requests: Iterator[Request]) -> Iterator[list[Request]]:
    while batch := list(islice(requests, AT_ONCE)):
        yield batch
