"""What an instance has done in sum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.engine.build import BuiltInstance
from penstock.engine.replica import Replica
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.recording.records import InstanceTotals, TierTotals

if TYPE_CHECKING:
    from penstock.kv_transfer.copy_workers import CopyWorkers


def instance_totals(replica: Replica, built: BuiltInstance) -> InstanceTotals:
    """The counters of an instance so far."""
    scheduler, log = replica.scheduler, replica.log
    tier, late_reads, expired_leases = _of_workers(replica.workers)
    return InstanceTotals(
        iterations=log.iterations,
        empty_schedules=log.empty_schedules,
        idle_sleeps=replica.idle_sleeps,
        preemptions=scheduler.preemptions,
        prompt_tokens=log.prompt_tokens,
        generated_tokens=log.generated_tokens,
        cohort_turns=scheduler.cohort_turns,
        exact_turns=scheduler.exact_turns,
        busy_ns=log.busy_ns(),
        tier=tier,
        late_reads=late_reads,
        expired_leases=expired_leases,
        end_ns=replica.now_ns,
        notes=_notes(replica, built),
    )


def with_workers(totals: InstanceTotals, workers: StepWorkers) -> InstanceTotals:
    """The counters of an instance, with those of its workers."""
    tier, late_reads, expired_leases = _of_workers(workers)
    return replace(totals, tier=tier, late_reads=late_reads, expired_leases=expired_leases)


def _notes(replica: Replica, built: BuiltInstance) -> tuple[str, ...]:
    if built.group_cost is None:
        return built.cost.stage.notes()
    from penstock.engine.lockstep_replica import lockstep_notes

    return (*built.group_cost.notes(), *lockstep_notes(replica))


def _of_workers(workers: StepWorkers | None) -> tuple[TierTotals | None, int, int]:
    """The tier, late reads and leases that ran out, of those that move KV."""
    if workers is None:
        return None, 0, 0
    from penstock.kv_transfer.copy_workers import CopyWorkers
    from penstock.kv_transfer.pull_workers import PullWorkers
    from penstock.kv_transfer.stacked import find_workers

    copies, reads = find_workers(workers, CopyWorkers), find_workers(workers, PullWorkers)
    tier = None if copies is None else _tier_totals(copies)
    return (tier, 0, 0) if reads is None else (tier, reads.late_reads, len(reads.lease_ends))


def _tier_totals(workers: CopyWorkers) -> TierTotals:
    connector = workers.connector
    return TierTotals(
        chunks=connector.options.cpu_chunks,
        looked_up_tokens=connector.looked_up_tokens,
        hit_tokens=connector.hit_tokens,
        stores=connector.stores,
        loads=connector.loads,
        store_ns=workers.busy_ns[True],
        load_ns=workers.busy_ns[False],
        refused_stores=connector.refused_stores,
        stall_ns=workers.total_stall_ns,
    )
