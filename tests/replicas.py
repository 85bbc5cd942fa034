"""A replica on stages of its own, without a cluster around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.cost.step_cost import PipelineCost
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replica import Replica
from penstock.recording.records import TurnSink
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.workload.request import Request


def local_replica(
    options: SchedulerOptions,
    cost: PipelineCost,
    *,
    blocks: int = 10_000,
    blocking_sends: bool = False,
    overhead: EngineOverhead | None = None,
    sinks: Sequence[TurnSink] = (),
    on_end: Callable[[Replica, RequestState, int], None] | None = None,
) -> Replica:
    stages = len(cost.hops) + 1
    back_ns = overhead.ipc_from_last_stage_ns if overhead else 0
    return Replica(
        0,
        make_scheduler(options, stages, blocks),
        LocalPipeline(cost, stages, blocking_sends=blocking_sends, back_ns=back_ns),
        options,
        TurnLog(0, stages, sinks),
        overhead=overhead,
        on_end=on_end,
    )


def serve_all(replica: Replica, requests: Sequence[Request], way_in_ns: int = 0) -> None:
    """Deliver every request at its arrival and let the replica work to the end. The engine gets each of them
    ``way_in_ns`` later."""
    for request in sorted(requests, key=lambda request: request.arrival_ns):
        replica.run_until(request.arrival_ns)
        arrived_ns = request.arrival_ns + way_in_ns
        replica.deliver(RequestState(request, replica.options.max_model_len, arrived_ns))
    replica.run_until(10**18)
    replica.log.flush()
