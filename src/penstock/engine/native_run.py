"""A whole workload through one instance in machine code, requests handed over by the thousand."""

from __future__ import annotations

from penstock.engine.admission import can_run, reason_to_reject
from penstock.engine.native_replica import NativeReplica
from penstock.engine.outcomes import Outcomes
from penstock.units import Int64Array
from penstock.workload.workload import Workload

AT_ONCE = 4096


def serve_at_once(workload: Workload, one: NativeReplica, outcomes: Outcomes, way_in_ns: int) -> int:
    """Serve a workload whose requests arrive whatever becomes of others, up to the last arrival; returns that.

    Raises:
        NoProgressError: the instance has work that can never run.
    """
    rows, arrivals, inputs, outputs = workload.in_order()
    good = can_run(inputs, outputs, one.options, one.usable_blocks)
    for begin in range(0, len(rows), AT_ONCE):
        batch = slice(begin, begin + AT_ONCE)
        one.run_until(int(arrivals[begin]))
        kept = good[batch]
        for row in rows[batch][~kept].tolist():
            request = workload.request(row)
            reason = reason_to_reject(request, one.options, one.usable_blocks)
            assert reason is not None
            outcomes.rejected(request, one.index, reason)
        columns = [column[batch][kept] for column in (rows, arrivals, inputs, outputs)]
        if workload.has_token_ids or workload.has_priorities:
            _deliver_each(workload, one, columns, way_in_ns)
        else:
            one.deliver_all(columns, way_in_ns)
    return int(arrivals[-1])


def _deliver_each(workload: Workload, one: NativeReplica, columns: list[Int64Array], way_in_ns: int) -> None:
    priorities = workload.priority[columns[0]].tolist()
    rows = zip(*(column.tolist() for column in columns), priorities, strict=True)
    for row, arrival_ns, input_tokens, output_tokens, priority in rows:
        ids = workload.ids_at(row)
        one.deliver_row(row, arrival_ns, arrival_ns + way_in_ns, input_tokens, output_tokens, priority, *ids)
