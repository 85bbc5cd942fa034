"""What an instance has done in sum."""

from __future__ import annotations

from penstock.engine.build import BuiltInstance
from penstock.engine.lockstep_replica import lockstep_notes
from penstock.engine.replica import Replica
from penstock.kv_transfer.copy_workers import CopyWorkers
from penstock.kv_transfer.pull_workers import PullWorkers
from penstock.kv_transfer.stacked import find_workers
from penstock.recording.records import InstanceTotals, TierTotals


def instance_totals(replica: Replica, built: BuiltInstance) -> InstanceTotals:
    """The counters of an instance so far."""
    scheduler, log = replica.scheduler, replica.log
    copies, reads = find_workers(replica.workers, CopyWorkers), find_workers(replica.workers, PullWorkers)
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
        tier=None if copies is None else _tier_totals(copies),
        late_reads=0 if reads is None else reads.late_reads,
        expired_leases=0 if reads is None else len(reads.lease_ends),
        end_ns=replica.now_ns,
        notes=built.cost.stage.notes()
        if built.group_cost is None
        else (*built.group_cost.notes(), *lockstep_notes(replica)),
    )


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
