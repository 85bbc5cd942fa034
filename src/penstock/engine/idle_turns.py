"""Turns of an engine that polls: nothing is in flight, and nothing can be scheduled until something comes from outside.

An instance that waits for KV, or keeps blocks for a reader, calls schedule() again and again, a short sleep apart, and
finds the same every time. Those turns concern nobody, so they are taken at once when something comes; they leave the
records that they would have left one by one.
"""

from __future__ import annotations

from penstock.engine.executor import Executor
from penstock.engine.replica import Replica
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.options import EngineOverhead, SchedulerOptions

_AT_ONCE = 1024
_WORTH_TURNS = 3
"""To fall asleep and to wake up costs as much as so many turns."""


class IdleTurns:
    """A :class:`~penstock.engine.replica.Naps` of replicas with a :class:`VllmScheduler` and workers."""

    def __init__(
        self,
        scheduler: VllmScheduler,
        workers: StepWorkers,
        executor: Executor,
        options: SchedulerOptions,
        overhead: EngineOverhead,
    ) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._executor = executor
        self._ahead = options.max_in_flight - 1
        self._schedule_ns = overhead.schedule_ns
        self._turn_ns = overhead.schedule_ns + overhead.update_ns + options.engine_idle_sleep_ns

    def until_ns(self, replica: Replica) -> int | None:
        """See :class:`~penstock.engine.replica.Naps`."""
        scheduler = self._scheduler
        steps = replica.steps
        if len(steps) != self._ahead or not scheduler.repeats_itself():
            return None
        now = replica.now_ns
        if any(step.tokens or step.done_ns > now for step in steps):
            return None
        if max(self._executor.stage_free_ns) > now or not scheduler.has_work():
            return None
        status = scheduler.status()
        if (status.running or status.waiting) and not status.transferring:
            return None
        until_ns = self._workers.quiet_until_ns()
        if scheduler.connector is not None:
            until_ns = min(until_ns, scheduler.connector.quiet_until_ns())
        return until_ns if until_ns > now + _WORTH_TURNS * self._turn_ns else None

    def take(self, replica: Replica, before_ns: int) -> None:
        """See :class:`~penstock.engine.replica.Naps`."""
        left = -(-(before_ns - replica.now_ns) // self._turn_ns)
        while left > 0:
            turns = min(left, _AT_ONCE)
            self._take(replica, turns)
            left -= turns

    def _take(self, replica: Replica, turns: int) -> None:
        status = self._scheduler.status()
        cause, running, waiting, free = status.cause, status.running, status.waiting, status.free_blocks
        ahead, schedule_ns, turn_ns = self._ahead, self._schedule_ns, self._turn_ns
        width = 3 * self._executor.pp_size
        begin = replica.now_ns
        end = begin + turns * turn_ns
        cells: list[int] = []
        for now in range(begin, end, turn_ns):
            # In the order of TURN_COLUMNS.
            cells += (now, now, cause, 0, 0, 0, 0, 0, 0, free, running, waiting, ahead, now, 0)
            cells += (now,) * width
        updates = list(range(begin + schedule_ns, end, turn_ns))
        self._scheduler.pass_by(turns)
        recent = range(max(begin, end - ahead * turn_ns), end, turn_ns)
        steps = replica.steps
        for number, now in enumerate(recent, self._scheduler.scheduled - len(recent) + 1):
            step = steps.popleft()
            step.number = number
            step.done_ns = now
            steps.append(step)
        self._workers.went_by(ahead - len(recent), [(now,) * width for now in recent])
        replica.idle_until(turns, end, cells, updates)
