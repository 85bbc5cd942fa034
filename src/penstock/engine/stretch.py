"""A replica with one step in flight takes stretches of like turns in one vectorised jump.

While nobody joins or finishes and no request waits, every turn is the one before it with each context a token
longer: schedule, compute, update. The times of such turns are a running sum, and numpy makes it faster than the
engine loop from about a dozen turns on. With several steps in flight the turns of different micro-batches depend
on each other, and no sum gives their times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from penstock.cost.step_cost import PipelineCost
from penstock.engine.decode_runs import DecodeRuns
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replica import Replica
from penstock.recording.records import TURN_COLUMNS, Cause
from penstock.scheduler.stretch import take_alike, turns_alike
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.options import EngineOverhead
from penstock.units import Int64Array

SHORTEST = 24
LONGEST = 1024

DecodeTurns = Callable[[int, int, int, int, int], Int64Array | None]
_DONE = TURN_COLUMNS.index("done_ns")
_FREE_BLOCKS = TURN_COLUMNS.index("free_blocks")


def can_stretch(cost: PipelineCost, max_in_flight: int) -> bool:
    """Whether stretches have a closed form: one step in flight, and a cost model with ``decode_turns_ns``."""
    return max_in_flight == 1 and hasattr(cost.stage, "decode_turns_ns")


class DecodeStretches:
    """An :class:`~penstock.engine.replica.Accelerator` of replicas with a :class:`VllmScheduler` that decides
    synchronously, one step in flight, and a :class:`LocalPipeline`."""

    def __init__(self, scheduler: VllmScheduler, pipeline: LocalPipeline, overhead: EngineOverhead) -> None:
        self._scheduler = scheduler
        self._runs = DecodeRuns(scheduler, pipeline, overhead)
        self._pipeline = pipeline
        self._overhead = overhead
        self._decode_turns_ns = cast("DecodeTurns", pipeline.cost.stage.decode_turns_ns)  # type: ignore[attr-defined]
        self._last_now_ns = 0

    def take_turns(self, replica: Replica, limit_ns: int) -> bool:
        """See :class:`~penstock.engine.replica.Accelerator`. Stretches too short are left to ``DecodeRuns``."""
        self._stretch(replica, limit_ns)
        return self._runs.take_turns(replica, limit_ns)

    def _stretch(self, replica: Replica, limit_ns: int) -> None:
        scheduler = self._scheduler
        if replica.has_news:
            return
        most = turns_alike(scheduler)
        if most < SHORTEST:
            return
        now = replica.now_ns
        turn_ns = max(now - self._last_now_ns, 1)
        self._last_now_ns = now
        turns = min(most, LONGEST, (limit_ns - now) // turn_ns + 1)
        if turns < SHORTEST:
            return
        cohort = scheduler.ready
        assert cohort is not None
        size, computed = cohort.size, cohort.turn - 1
        context = cohort.offset_sum + size * computed
        compute = self._decode_turns_ns(
            size, context, cohort.offsets[0] + computed, cohort.offsets[-1] + computed, turns
        )
        if compute is None:
            return
        rows = self._lay_out(compute, size, context, now)
        taken = int(np.searchsorted(rows[:, _DONE], limit_ns))
        if taken < SHORTEST:
            return
        needs = take_alike(scheduler, rows[:taken, _DONE])
        rows = rows[: len(needs)]
        if not len(rows):
            return
        rows[:, _FREE_BLOCKS] = scheduler.kv.free + needs.sum() - np.cumsum(needs)
        self._write(replica, rows)

    def _lay_out(self, compute: Int64Array, size: int, context: int, now: int) -> Int64Array:
        """One row of the turn log per turn, shape (turns, columns); free blocks are still missing."""
        stages, turns = compute.shape
        overhead = self._overhead
        cost = self._pipeline.cost
        hops = [int(hop.arrival_ns[size]) for hop in cost.hops]
        entry = overhead.schedule_ns + overhead.ipc_to_first_stage_ns
        back = int(cost.token_return_ns[size]) + self._pipeline.back_ns
        done_after = entry + compute.sum(axis=0) + sum(hops) + back
        turn_ns = done_after + overhead.update_ns
        schedule = now + np.cumsum(turn_ns) - turn_ns
        rows = np.zeros((turns, len(TURN_COLUMNS) + 3 * stages), dtype=np.int64)
        constant = {
            "cause_after": int(Cause.DEPENDENCY),
            "tokens": size,
            "sampled": size,
            "decodes": size,
            "running": size,
        }
        for name, value in constant.items():
            rows[:, TURN_COLUMNS.index(name)] = value
        rows[:, TURN_COLUMNS.index("schedule_ns")] = schedule
        rows[:, TURN_COLUMNS.index("first_arrival_ns")] = schedule
        rows[:, TURN_COLUMNS.index("context_tokens")] = context + size * np.arange(turns)
        rows[:, _DONE] = schedule + done_after
        arrive = schedule + entry
        for stage in range(stages):
            place = len(TURN_COLUMNS) + 3 * stage
            end = arrive + compute[stage]
            rows[:, place] = rows[:, place + 1] = arrive
            rows[:, place + 2] = end
            if stage < stages - 1:
                arrive = end + hops[stage]
        return rows

    def _write(self, replica: Replica, rows: Int64Array) -> None:
        """The turns have happened."""
        last = rows[-1]
        for stage in range(self._pipeline.pp_size):
            self._pipeline.stage_free_ns[stage] = int(last[len(TURN_COLUMNS) + 3 * stage + 2])
        self._last_now_ns = int(last[0])
        replica.skip_turns(rows, int(last[_DONE]) + self._overhead.update_ns)
