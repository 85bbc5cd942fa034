"""vLLM's offloading connector (``kv_connector/v1/offloading``): both sides, and one instance that has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.spec.kv_tier import TierOptions
from penstock.validate.offloading import OffloadingSetup

from .connected import ConnectedScheduler, WorkerReport
from .cpu_tier import CPUTier
from .kv_cache import Block
from .replica import DELIVERY, Agenda, Replica, StageClocks
from .scheduler import RequestState, Schedule

NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Job:
    """A copy. ``keys`` are the chunks', ``blocks`` the GPU blocks, the first of which is the request's number
    ``first_block``. ``stages`` gets submission, start and end on each stage, ``waits_for`` counts those that have
    not reported it."""

    number: int
    store: bool
    request: int
    scheduled_ns: int
    iteration: int
    keys: tuple[int, ...]
    chunks: tuple[int, ...]
    blocks: tuple[int, ...]
    first_block: int
    waits_for: int
    stages: list[list[int]] = field(default_factory=list)
    reported_ns: int | None = None

    def row(self) -> dict[str, Any]:
        """In the schema of the recordings."""
        return {
            "kind": "store" if self.store else "load",
            "req_id": self.request,
            "t_schedule_ns": self.scheduled_ns,
            "iter": self.iteration,
            "gpu_blocks": len(self.blocks),
            "first_block": self.first_block,
            "cpu_chunks": list(self.chunks),
            "stages": self.stages,
            "reported_ns": self.reported_ns,
        }


@dataclass(frozen=True, slots=True)
class OffloadMetadata:
    """What a step tells the workers."""

    loads: tuple[Job, ...] = ()
    stores: tuple[Job, ...] = ()
    flush: frozenset[int] = frozenset()


@dataclass(slots=True)
class Offered:
    """A request as the connector knows it: its blocks, how many of its chunks were dealt with, its copies."""

    state: RequestState
    blocks: list[int] = field(default_factory=list)
    next_chunk: int = 0
    jobs: set[int] = field(default_factory=set)
    finished: bool = False


class OffloadingConnector:
    """The scheduler's side. ``replica`` is told where and when things happen."""

    consumes = True
    hands_over = False

    def __init__(self, options: TierOptions, block_size: int, pp_size: int, *, gpu_caching: bool) -> None:
        self.options = options
        self.tier = CPUTier(options)
        self.block_size = block_size
        self.pp_size = pp_size
        self.chunk_tokens = block_size * options.blocks_per_chunk
        self.gpu_caching = gpu_caching
        self.scheduler: ConnectedScheduler
        self.replica: Replica
        self.requests: dict[int, Offered] = {}
        self.ended: list[int] = []
        self.jobs: dict[int, Job] = {}
        self.all_jobs: list[Job] = []
        self.being_loaded: set[int] = set()
        self.guarded: dict[int, set[int]] = defaultdict(set)
        self._loads: list[Job] = []
        self._handed_out: set[int] = set()
        self._local: dict[int, int] = {}

    def added(self, state: RequestState) -> None:
        """A request arrives."""
        self.requests[state.request.index] = Offered(state)

    def matched_tokens(self, state: RequestState, local: int) -> int | None:
        """Whole chunks beyond the local hit that can be read now."""
        index = state.request.index
        offered = self.requests[index]
        offered.blocks.clear()
        self._local[index] = local
        if offered.jobs:
            return None
        return self._look_up(self._keys(state), local)

    def _look_up(self, keys: Sequence[int], local: int) -> int | None:
        size = self.chunk_tokens
        if len(keys) * size - local < size:
            return 0
        first = local // size
        hits = 0
        pending = False
        for key in keys[first:]:
            found = self.tier.state(key)
            if found == "miss":
                break
            pending |= found == "pending"
            hits += 1
        if pending:
            return None
        gain = (first + hits) * size - local
        if gain < size:
            return 0
        if self.being_loaded.intersection(keys[first : first + hits]):
            return None
        return gain

    def _keys(self, state: RequestState) -> list[int]:
        """The contents of the full chunks known so far."""
        per_chunk = self.options.blocks_per_chunk
        return state.contents[per_chunk - 1 :: per_chunk]

    def allocated(self, state: RequestState, blocks: Sequence[Block], local_blocks: int, loaded: int) -> None:
        """Read into the blocks behind the local hit."""
        if not loaded:
            return
        index = state.request.index
        offered = self.requests[index]
        self.hand_out(blocks)
        end = self._local[index] + loaded
        first_chunk, end_chunk = local_blocks // self.options.blocks_per_chunk, -(-end // self.chunk_tokens)
        keys = self._keys(state)[first_chunk:end_chunk]
        targets = blocks[local_blocks : -(-end // self.block_size)]
        job = self._job(
            state,
            tuple(keys),
            self.tier.begin_load(index, keys, first_chunk),
            [block.number for block in targets],
            local_blocks,
            store=False,
        )
        offered.next_chunk = end_chunk
        self._loads.append(job)
        if self.gpu_caching:
            self.being_loaded.update(keys)

    def hand_out(self, blocks: Sequence[Block]) -> None:
        """Blocks are about to be filled: what is still copied from them is to be out before."""
        self._handed_out.update(block.number for block in blocks)

    def _job(
        self,
        state: RequestState,
        keys: tuple[int, ...],
        chunks: tuple[int, ...],
        blocks: Sequence[int],
        first_block: int,
        *,
        store: bool,
    ) -> Job:
        replica = self.replica
        job = Job(
            len(self.all_jobs),
            store,
            state.request.index,
            replica.now,
            len(replica.trace.iterations),
            keys,
            chunks,
            tuple(blocks),
            first_block,
            self.pp_size,
        )
        self.all_jobs.append(job)
        self.jobs[job.number] = job
        self.requests[state.request.index].jobs.add(job.number)
        return job

    def scheduled(self, schedule: Schedule) -> OffloadMetadata:
        """Offer what the step fills; find out which copies must be out before its forward."""
        for chunk in schedule.chunks:
            index = chunk.state.request.index
            offered = self.requests[index]
            new = [block.number for block in self.scheduler.kv.blocks_of(index)[len(offered.blocks) :]]
            offered.blocks += new
            self._handed_out.update(new)
        flush: set[int] = set()
        for preemption in schedule.preemptions:
            flush |= self.requests[preemption.state.request.index].jobs
        for number in self._handed_out & self.guarded.keys():
            flush |= self.guarded[number]
        stores: list[Job] = []
        for chunk in schedule.chunks:
            self._offer(chunk.state, chunk.computed + chunk.new, stores)
        ended, self.ended = sorted(self.ended), []
        for index in ended:
            state = self.requests[index].state
            computed = state.computed
            if state.status == "finished":
                computed = max(state.request.input_tokens, state.num_tokens - 1)
            for job in self._offer(state, computed, stores):
                self._guard(job)
                if self._handed_out.intersection(job.blocks):
                    flush.add(job.number)
        for index in ended:
            self.tier.finished(index)
            self.requests[index].finished = True
            self._forget(index)
        metadata = OffloadMetadata(tuple(self._loads), tuple(stores), frozenset(flush))
        self._loads = []
        self._handed_out = set()
        return metadata

    def _offer(self, state: RequestState, computed: int, stores: list[Job]) -> list[Job]:
        index = state.request.index
        offered = self.requests[index]
        tokens = min(computed, state.num_tokens)
        if self.options.offload_prompt_only:
            tokens = min(tokens, state.request.input_tokens)
        per_chunk = self.options.blocks_per_chunk
        keys = self._keys(state)
        end = min(tokens // self.chunk_tokens, len(offered.blocks) // per_chunk, len(keys))
        first = offered.next_chunk
        if end <= first:
            return []
        stored = self.tier.begin_store(index, keys[first:end], first)
        if stored is None:
            self.replica.note("store_no_room", index, chunks=end - first)
            return []
        offered.next_chunk = end
        if stored.evicted:
            self.replica.note("cpu_evicted", index, cpu_chunks=list(stored.evicted))
        if not stored.keys:
            return []
        places = [place for place in range(first, end) if keys[place] in stored.keys]
        blocks = [
            number
            for place in places
            for number in offered.blocks[place * per_chunk : (place + 1) * per_chunk]
        ]
        job = self._job(state, stored.keys, stored.chunks, blocks, places[0] * per_chunk, store=True)
        stores.append(job)
        return [job]

    def _guard(self, job: Job) -> None:
        """The job's blocks are free: whoever gets one must wait for the copy."""
        for number in job.blocks:
            self.guarded[number].add(job.number)

    def finished(self, state: RequestState) -> bool:
        """Blocks are free at once; what is still to be copied from them is remembered."""
        index = state.request.index
        self.ended.append(index)
        for number in self.requests[index].jobs:
            if self.jobs[number].store:
                self._guard(self.jobs[number])
        return False

    def reported(self, report: WorkerReport) -> None:
        """A copy is done when every stage has said so."""
        for number in report.jobs:
            job = self.jobs[number]
            job.waits_for -= 1
            if job.waits_for:
                continue
            job.reported_ns = self.replica.now
            if job.store:
                self.tier.end_store(job.keys)
            else:
                self.tier.end_load(job.keys)
                self.being_loaded.difference_update(job.keys)
            for block in job.blocks:
                self.guarded[block].discard(number)
                if not self.guarded[block]:
                    del self.guarded[block]
            del self.jobs[number]
            self.requests[job.request].jobs.remove(number)
            self._forget(job.request)

    def _forget(self, index: int) -> None:
        if self.requests[index].finished and not self.requests[index].jobs:
            del self.requests[index]

    def has_pending_work(self) -> bool:
        """The engine steps until all copies are reported."""
        return bool(self.jobs)


class CopyEngine:
    """One stage's copies: one store and one load at a time, in order."""

    def __init__(self, options: TierOptions, block_size: int, pp_size: int) -> None:
        self.options, self.block_size, self.pp_size = options, block_size, pp_size
        self._free = {True: 0, False: 0}

    def submit(self, job: Job, stage: int, now: int, compute_end: int) -> int:
        """A copy starts behind the compute work launched so far and the copies before it: its end."""
        options = self.options
        size = len(job.blocks) * self.block_size * options.kv_bytes_per_token // self.pp_size
        latency, speed = (
            (options.d2h_latency_ns, options.d2h_bytes_per_s)
            if job.store
            else (options.h2d_latency_ns, options.h2d_bytes_per_s)
        )
        start = max(now, compute_end, self._free[job.store])
        end = start + latency - -size * NS_PER_S // speed
        self._free[job.store] = end
        job.stages.append([stage, now, start, end])
        return end


class OffloadWorker:
    """One stage's side of the connector."""

    def __init__(self, stage: int, engine: CopyEngine) -> None:
        self.stage = stage
        self.engine = engine
        self.kept: list[Job] = []
        self.running: list[tuple[Job, int]] = []
        self.new_ends: list[int] = []

    def before_forward(self, now: int, compute_end: int, metadata: OffloadMetadata) -> int:
        """Submit what earlier steps left, and what must be out: when it is."""
        flushed = [job for job in metadata.stores if job.number in metadata.flush]
        for job in self.kept + flushed:
            self._submit(job, now, compute_end)
        self.kept = [job for job in metadata.stores if job.number not in metadata.flush]
        return max([now, *(end for job, end in self.running if job.number in metadata.flush)])

    def after_launch(self, now: int, compute_end: int, metadata: OffloadMetadata) -> None:
        """The step's loads."""
        for job in metadata.loads:
            self._submit(job, now, compute_end)

    def _submit(self, job: Job, now: int, compute_end: int) -> None:
        end = self.engine.submit(job, self.stage, now, compute_end)
        self.running.append((job, end))
        self.new_ends.append(end)

    def moment(self, now: int, metadata: OffloadMetadata) -> WorkerReport:
        """Which copies have ended."""
        del metadata
        done = [job for job, end in self.running if end <= now]
        self.running = [(job, end) for job, end in self.running if end > now]
        return WorkerReport(
            received={job.request for job in done if not job.store}, jobs=[job.number for job in done]
        )


class OffloadingPipeline(StageClocks):
    """Stages that can be held up by copies."""

    def __init__(self, cost: PipelineCost, workers: Sequence[OffloadWorker]) -> None:
        super().__init__(cost)
        self.workers = workers
        self.stalls: list[int] = []

    def enter(self, stage: int, arrival: int, schedule: Schedule) -> int:
        """Copies that must be out come first."""
        if stage == 0:
            self.stalls = []
        start = self.workers[stage].before_forward(arrival, self.stage_free[stage], schedule.metadata)
        self.stalls.append(start - arrival)
        return start

    def leave(self, stage: int, start: int, schedule: Schedule) -> None:
        """Loads wait for the forward."""
        self.workers[stage].after_launch(start, self.stage_free[stage], schedule.metadata)

    def pass_through(self, now: int, schedule: Schedule) -> int:
        """A step without tokens waits for copies too."""
        for stage in range(self.stages):
            start = self.enter(stage, max(now, self.stage_free[stage]), schedule)
            self.stage_free[stage] = max(self.stage_free[stage], start)
            self.leave(stage, start, schedule)
        return max(now, *self.stage_free)


class OffloadingReplica(Replica):
    """An instance with a CPU tier."""

    pipeline: OffloadingPipeline

    def _launch(self) -> Any:
        live = super()._launch()
        if live.step.row is not None and any(self.pipeline.stalls):
            live.step.row["stall_ns"] = self.pipeline.stalls
        for worker in self.pipeline.workers:
            for end in worker.new_ends:
                self.agenda.at(end, DELIVERY, (), self.wake)
            worker.new_ends.clear()
        return live


@dataclass(slots=True)
class OffloadingTrace:
    """What happened, with request indices for names."""

    iterations: list[dict[str, Any]]
    requests: dict[int, dict[str, Any]]
    kv_events: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    free_blocks_end: int
    end_ns: int


def replay_offloading(setup: OffloadingSetup) -> OffloadingTrace:
    """Serve the requests of ``setup`` on its instance."""
    pp_size = len(setup.cost.hops) + 1
    options = setup.options
    agenda = Agenda()
    connector = OffloadingConnector(
        setup.tier, options.block_size, pp_size, gpu_caching=options.enable_prefix_caching
    )
    scheduler = ConnectedScheduler(
        options,
        setup.num_gpu_blocks,
        pp_size,
        connector,
        lambda kind, index, **more: replica.note(kind, index, **more),
    )
    scheduler.hashes_blocks = True
    workers = [
        OffloadWorker(stage, CopyEngine(setup.tier, options.block_size, pp_size)) for stage in range(pp_size)
    ]
    replica = OffloadingReplica(
        0, "0", scheduler, setup.cost, workers, agenda, looks_at_end=setup.looks_at_end
    )
    replica.pipeline = OffloadingPipeline(setup.cost, workers)
    connector.scheduler, connector.replica = scheduler, replica
    for request in setup.requests:
        agenda.at(request.arrival_ns, DELIVERY, (), partial(replica.deliver, "add", request))
    agenda.run()
    return OffloadingTrace(
        replica.trace.iterations,
        replica.trace.requests,
        replica.kv_events,
        [job.row() for job in connector.all_jobs],
        len(scheduler.kv.free),
        replica.now,
    )
