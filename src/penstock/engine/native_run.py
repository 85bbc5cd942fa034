"""A whole workload through one instance in machine code, requests handed over by the thousand."""

from __future__ import annotations

from itertools import islice

from penstock.engine.admission import can_run, reason_to_reject
from penstock.engine.native_replica import NativeReplica
from penstock.engine.outcomes import Outcomes
from penstock.scheduler.request_state import RequestState
from penstock.workload.workload import Workload

AT_ONCE = 4096


def serve_at_once(workload: Workload, one: NativeReplica, outcomes: Outcomes, way_in_ns: int) -> int:
    """Serve a workload whose requests arrive whatever becomes of others, up to the last arrival; returns that.

    Raises:
        NoProgressError: the instance has work that can never run.
    """
    if workload.is_plain:
        return _serve_plain(workload, one, outcomes, way_in_ns)
    last_ns = 0
    requests = workload.requests()
    while batch := list(islice(requests, AT_ONCE)):
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


def _serve_plain(workload: Workload, one: NativeReplica, outcomes: Outcomes, way_in_ns: int) -> int:
    rows, arrivals, inputs, outputs = workload.in_order()
    good = can_run(inputs, outputs, one.options, one.usable_blocks)
    for begin in range(0, len(rows), AT_ONCE):
        batch = slice(begin, begin + AT_ONCE)
        one.run_until(int(arrivals[begin]))
        kept = good[batch]
        if not kept.all():
            for row in rows[batch][~kept].tolist():
                request = workload.request(row)
                reason = reason_to_reject(request, one.options, one.usable_blocks)
                assert reason is not None
                outcomes.rejected(request, one.index, reason)
        one.deliver_all(
            rows[batch][kept], arrivals[batch][kept], way_in_ns, inputs[batch][kept], outputs[batch][kept]
        )
    return int(arrivals[-1])
