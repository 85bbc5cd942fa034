"""One instance with a CPU tier over a list of requests, watched turn by turn, in the schema of the recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replay import Recorder
from penstock.engine.replica import Replica
from penstock.kv_transfer.copy_workers import CopyWorkers
from penstock.kv_transfer.offloading import CopyJob, OffloadingConnector
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.guarded_kv_cache import GuardedKVCache
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.kv_tier import TierOptions
from penstock.spec.options import SchedulerOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request


@dataclass(slots=True)
class OffloadingReplay:
    """What happened, with request indices for names, in the schema of the recordings."""

    iterations: list[dict[str, Any]]
    requests: dict[int, dict[str, Any]]
    jobs: list[dict[str, Any]]
    free_blocks_end: int
    end_ns: int
    kv_events: list[dict[str, Any]] = field(default_factory=list)


class StallRecorder(Recorder):
    """Also how long copies held a step back."""

    workers: CopyWorkers

    def scheduled(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.replica.Watcher`."""
        rows = len(self.steps.iterations)
        super().scheduled(step, now)
        if len(self.steps.iterations) > rows and any(self.workers.stalls_ns):
            self.steps.iterations[-1]["stall_ns"] = list(self.workers.stalls_ns)


def replay_offloading(
    config: SchedulerOptions,
    num_gpu_blocks: int,
    cost: PipelineCost,
    tier: TierOptions,
    requests: Sequence[Request],
    *,
    looks_at_end: bool = False,
    exact_only: bool = False,
) -> OffloadingReplay:
    """Serve ``requests`` on one instance with a CPU tier and write everything down."""
    recorder = StallRecorder(times_empty_steps=True)
    pp_size = len(cost.hops) + 1
    kv = GuardedKVCache(
        num_gpu_blocks,
        config.block_size,
        prefix_caching=config.enable_prefix_caching,
        notes_all_fills=not tier.offload_prompt_only,
    )
    connector = OffloadingConnector(tier, kv, pp_size, keep_jobs=True)
    scheduler = make_scheduler(
        config, pp_size, num_gpu_blocks, connector=connector, kv=kv, exact_only=exact_only
    )
    pipeline = LocalPipeline(cost, pp_size)

    def concern(at_ns: int) -> None:
        replica.expect(at_ns)

    workers = CopyWorkers(connector, concern, looks_at_end=looks_at_end)
    pipeline.when_started(workers.started)
    pipeline.ask_before_start(workers.hold_back)
    replica = Replica(0, scheduler, pipeline, config, TurnLog(0, pp_size), watcher=recorder, workers=workers)
    recorder.replica, recorder.pipeline, recorder.workers = replica, pipeline, workers
    recorder.steps.free_before = kv.free
    states = [RequestState(request, config.max_model_len) for request in requests]
    for state in sorted(states, key=lambda state: state.arrived_ns):
        recorder.requests.expect(state)
        replica.run_until(state.arrived_ns)
        replica.deliver(state)
    replica.run_until(NEVER_NS)
    while replica.next_ns is not None:
        replica.run_until(NEVER_NS)
    recorder.requests.close(states)
    return OffloadingReplay(
        recorder.steps.iterations,
        recorder.requests.rows,
        [job_row(job) for job in connector.all_jobs],
        kv.free,
        replica.now_ns,
    )


def job_row(job: CopyJob) -> dict[str, Any]:
    """A copy in the schema of the recordings."""
    return {
        "kind": "store" if job.is_store else "load",
        "req_id": job.request,
        "t_schedule_ns": job.scheduled_ns,
        "gpu_blocks": job.blocks,
        "first_block": job.first_block,
        "cpu_chunks": list(job.chunks),
        "stages": [list(each) for each in job.stages],
        "reported_ns": job.reported_ns,
    }
