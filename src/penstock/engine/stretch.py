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

from penstock.engine.instance import CHUNK_TURNS, DONE_COLUMN, Instance
from penstock.recording.records import TURN_COLUMNS, Cause, Int64Array
from penstock.scheduler.stretch import take_alike, turns_alike

SHORTEST = 24
LONGEST = 1024

DecodeTurns = Callable[[int, int, int, int, int], Int64Array | None]


class StretchingInstance(Instance):
    """Same turns, same records, fewer of them one by one. For ``max_in_flight`` 1 and a cost model that has
    ``decode_turns_ns``."""

    stretches = True
    _last_now_ns = 0

    def _between_turns(self, limit_ns: int) -> None:
        scheduler = self.scheduler
        if self.inbox:
            return
        most = turns_alike(scheduler)
        if most < SHORTEST:
            return
        now = self.now_ns
        turn_ns = max(now - self._last_now_ns, 1)
        self._last_now_ns = now
        turns = min(most, LONGEST, (limit_ns - now) // turn_ns + 1)
        if turns < SHORTEST:
            return
        cohort = scheduler.ready
        assert cohort is not None
        size, computed = cohort.size, cohort.turn - 1
        context = cohort.offset_sum + size * computed
        decode_turns_ns = cast("DecodeTurns", self._cost.stage.decode_turns_ns)  # type: ignore[attr-defined]
        compute = decode_turns_ns(
            size, context, cohort.offsets[0] + computed, cohort.offsets[-1] + computed, turns
        )
        if compute is None:
            return
        rows = self._lay_out(compute, size, context)
        taken = int(np.searchsorted(rows[:, DONE_COLUMN], limit_ns))
        if taken < SHORTEST:
            return
        needs = take_alike(scheduler, rows[:taken, DONE_COLUMN])
        rows = rows[: len(needs)]
        if not len(rows):
            return
        rows[:, _FREE_BLOCKS] = scheduler.kv.free + needs.sum() - np.cumsum(needs)
        self._write(rows)

    def _lay_out(self, compute: Int64Array, size: int, context: int) -> Int64Array:
        """One row of the turn log per turn, shape (turns, columns); free blocks are still missing."""
        stages, turns = compute.shape
        overhead = self._overhead
        hops = [int(hop.arrival_ns[size]) for hop in self._cost.hops]
        entry = overhead.schedule_ns + overhead.ipc_to_first_stage_ns
        back = int(self._cost.token_return_ns[size]) + overhead.ipc_from_last_stage_ns
        done_after = entry + compute.sum(axis=0) + sum(hops) + back
        turn_ns = done_after + overhead.update_ns
        schedule = self.now_ns + np.cumsum(turn_ns) - turn_ns
        rows = np.zeros((turns, self._width), dtype=np.int64)
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
        rows[:, DONE_COLUMN] = schedule + done_after
        arrive = schedule + entry
        for stage in range(stages):
            place = len(TURN_COLUMNS) + 3 * stage
            end = arrive + compute[stage]
            rows[:, place] = rows[:, place + 1] = arrive
            rows[:, place + 2] = end
            if stage < stages - 1:
                arrive = end + hops[stage]
        return rows

    def _write(self, rows: Int64Array) -> None:
        """The turns have happened."""
        turns = len(rows)
        last = rows[-1]
        done = rows[:, DONE_COLUMN]
        for stage in range(self.pipeline.pp_size):
            self.pipeline.stage_free_ns[stage] = int(last[len(TURN_COLUMNS) + 3 * stage + 2])
        self._trace += rows.ravel().tolist()
        self._updates += done.tolist()
        self._last_now_ns = int(last[0])
        self.now_ns = int(done[-1]) + self._overhead.update_ns
        self.iterations += turns
        self.turns += turns
        self.generated_tokens += turns * int(last[TURN_COLUMNS.index("sampled")])
        if len(self._updates) >= CHUNK_TURNS:
            self.flush()


_FREE_BLOCKS = TURN_COLUMNS.index("free_blocks")
