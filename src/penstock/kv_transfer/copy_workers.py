"""The workers of an instance with a CPU tier, and their copy engines (``kv_connector/v1/offloading/worker.py``,
``v1/kv_offload/cpu/gpu_worker.py``).

Each stage copies one store and one load at a time, in the order in which they were submitted, the two directions
independent of each other; a copy starts behind the compute work that the stage was given before it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from penstock.kv_transfer.offloading import CopyJob, CopyOrders, OffloadingConnector
from penstock.kv_transfer.step_workers import pass_moments
from penstock.network.links import Link, Network
from penstock.scheduler.step import Step
from penstock.units import NEVER_NS, NS_PER_S

_NOTHING = CopyOrders((), (), frozenset())


@dataclass(frozen=True, slots=True)
class StoreLink:
    """The way from host memory to a store, over a ``link`` of ``network`` that all of its users share. An instance's
    copies move the bytes of its ``ranks`` NPUs; ``place`` orders those asked for at one time."""

    network: Network
    link: Link
    bytes_per_s: int
    latency_ns: int
    ranks: int
    place: int

    def send(self, size_bytes: int, at_ns: int, arrived: Callable[[int, int], None]) -> None:
        """Move what an NPU of a stage copies, and its peers beside it."""
        occupancy_ns = self.occupancy_ns(size_bytes)
        self.network.transfer(
            (self.link,),
            occupancy_ns=occupancy_ns,
            arrival_ns=self.latency_ns + occupancy_ns,
            at_ns=at_ns,
            arrived=arrived,
            rank=self.place,
        )

    def fetch_now(self, size_bytes: int, at_ns: int) -> int:
        """The same for a step that waits: it takes the link as it finds it; returns when it has arrived."""
        start_ns = max(at_ns, self.link.free_ns)
        self.link.free_ns = start_ns + self.occupancy_ns(size_bytes)
        return self.link.free_ns + self.latency_ns

    def occupancy_ns(self, size_bytes: int) -> int:
        """How long the link is taken."""
        return -(-size_bytes * self.ranks * NS_PER_S // self.bytes_per_s)


@dataclass(slots=True)
class _Stage:
    """One worker. ``orders`` of steps that have not come here; ``kept`` are stores left for the next step; ``ends``
    of copies under way, ``free_ns`` per direction (store or not)."""

    moments: deque[int] = field(default_factory=deque)
    orders: deque[tuple[int, CopyOrders]] = field(default_factory=deque)
    kept: list[CopyJob] = field(default_factory=list)
    ends: list[tuple[int, int, CopyJob]] = field(default_factory=list)
    end_of: dict[CopyJob, int] = field(default_factory=dict)
    free_ns: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})


class CopyWorkers:
    """A :class:`~penstock.kv_transfer.step_workers.StepWorkers`. ``concerns`` is told when copies end. ``stalls_ns``
    is how long the latest step's forward was held back on each stage. With a ``store`` what is copied out goes on to
    there, and what is copied back comes from there first. ``busy_ns`` of copies, by direction (store or
    not), over all stages."""

    def __init__(
        self,
        connector: OffloadingConnector,
        concerns: Callable[[int], None],
        *,
        looks_at_end: bool = False,
        store: StoreLink | None = None,
    ) -> None:
        self.connector = connector
        self._store = store
        self._loads_first = connector.options.loads_first
        self.stalls_ns = [0] * connector.pp_size
        self.total_stall_ns = 0
        self.busy_ns = {True: 0, False: 0}
        self._concerns = concerns
        self._looks_at_end = looks_at_end
        self._stages = [_Stage() for _ in range(connector.pp_size)]
        self._number = 0

    def hold_back(self, step: Step, stage: int, ready_ns: int) -> int:
        """A stage could start a step at ``ready_ns``: submit what earlier steps left to be stored, and what must be
        out, or in, first; returns when that is."""
        if stage == 0:
            for entry in self.connector.latest:
                for each in self._stages:
                    each.orders.append(entry)
            self.connector.latest.clear()
        worker = self._stages[stage]
        orders = self._orders(worker, step)
        self.stalls_ns[stage] = 0
        loads = orders.loads if self._loads_first else ()
        if not worker.kept and not orders.flush and not loads:
            return ready_ns
        flushed = [job for job in orders.stores if job in orders.flush]
        for job in (*worker.kept, *flushed):
            self._submit(worker, job, stage, ready_ns, 0)
        worker.kept = []
        for job in loads:
            self._submit(worker, job, stage, ready_ns, 0)
        start_ns = max([ready_ns, *(worker.end_of.get(job, 0) for job in (*orders.flush, *loads))])
        self.stalls_ns[stage] = start_ns - ready_ns
        self.total_stall_ns += start_ns - ready_ns
        return start_ns

    @staticmethod
    def _orders(worker: _Stage, step: Step) -> CopyOrders:
        orders = worker.orders
        return orders[0][1] if orders and orders[0][0] == step.number else _NOTHING

    def started(self, step: Step, stage: int, start_ns: int, end_ns: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`. Loads wait for the forward."""
        worker = self._stages[stage]
        orders = self._orders(worker, step)
        if orders is not _NOTHING:
            worker.orders.popleft()
            worker.kept += [job for job in orders.stores if job not in orders.flush]
            if not self._loads_first:
                for job in orders.loads:
                    self._submit(worker, job, stage, start_ns, end_ns)
        worker.moments.append(end_ns if self._looks_at_end else start_ns)

    def passed(self, step: Step, now: int, stage_free_ns: list[int]) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`. A step without tokens waits for copies too."""
        for stage, free_ns in enumerate(stage_free_ns):
            start_ns = self.hold_back(step, stage, max(now, free_ns))
            if start_ns > max(now, free_ns):
                stage_free_ns[stage] = start_ns
            self.started(step, stage, start_ns, start_ns)
        return max(now, *stage_free_ns)

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        busy = any(worker.orders or worker.kept or worker.ends for worker in self._stages)
        return 0 if busy else NEVER_NS

    def went_by(self, older: int, times: Sequence[Sequence[int]]) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`. None of those steps was held back."""
        for stage, worker in enumerate(self._stages):
            pass_moments(worker.moments, older, times, stage, at_end=self._looks_at_end)
            if times:
                self.stalls_ns[stage] = 0

    def _submit(self, worker: _Stage, job: CopyJob, stage: int, now: int, compute_end_ns: int) -> None:
        options = self.connector.options
        tokens = job.blocks * self.connector.kv.block_size
        size = tokens * options.kv_bytes_per_token // self.connector.pp_size
        latency_ns, bytes_per_s = (
            (options.d2h_latency_ns, options.d2h_bytes_per_s)
            if job.is_store
            else (options.h2d_latency_ns, options.h2d_bytes_per_s)
        )
        copy_ns = latency_ns - -size * NS_PER_S // bytes_per_s
        store = self._store
        if job.is_store or store is None:
            end_ns = self._copy(worker, job, max(now, compute_end_ns), copy_ns)
            worker.end_of[job] = end_ns
            if store is None:
                self._ends(worker, job, stage, now, end_ns - copy_ns, end_ns)
            else:
                stored = partial(self._stored, worker, job, stage, now, end_ns - copy_ns)
                store.send(size, end_ns, stored)
        elif self._loads_first:
            end_ns = self._copy(worker, job, store.fetch_now(size, now), copy_ns)
            worker.end_of[job] = end_ns
            self._ends(worker, job, stage, now, end_ns - copy_ns, end_ns)
        else:
            fetched = partial(self._fetched, worker, job, stage, now, compute_end_ns, copy_ns)
            store.send(size, now, fetched)

    def _copy(self, worker: _Stage, job: CopyJob, ready_ns: int, copy_ns: int) -> int:
        """Take the copy engine of the job's direction for ``copy_ns``; returns when it is through."""
        end_ns = max(ready_ns, worker.free_ns[job.is_store]) + copy_ns
        worker.free_ns[job.is_store] = end_ns
        self.busy_ns[job.is_store] += copy_ns
        return end_ns

    def _stored(
        self, worker: _Stage, job: CopyJob, stage: int, now: int, start_ns: int, _: int, end_ns: int
    ) -> None:
        """What was copied out is in the store."""
        self._ends(worker, job, stage, now, start_ns, end_ns)

    def _fetched(
        self,
        worker: _Stage,
        job: CopyJob,
        stage: int,
        now: int,
        compute_end_ns: int,
        copy_ns: int,
        start_ns: int,
        arrived_ns: int,
    ) -> None:
        """What is to be copied back has come from the store."""
        end_ns = self._copy(worker, job, max(arrived_ns, compute_end_ns), copy_ns)
        worker.end_of[job] = end_ns
        self._ends(worker, job, stage, now, start_ns, end_ns)

    def _ends(self, worker: _Stage, job: CopyJob, stage: int, now: int, start_ns: int, end_ns: int) -> None:
        """The end of a copy is known."""
        self._number += 1
        heapq.heappush(worker.ends, (end_ns, self._number, job))
        job.stages.append((stage, now, start_ns, end_ns))
        self._concerns(end_ns)

    def collect(self, now: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        for worker in self._stages:
            moment = worker.moments.popleft()
            ends = worker.ends
            done: list[CopyJob] = []
            while ends and ends[0][0] <= moment:
                job = heapq.heappop(ends)[2]
                del worker.end_of[job]
                done.append(job)
            if done:
                self.connector.bring(done)
