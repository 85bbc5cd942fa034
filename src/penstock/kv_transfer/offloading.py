"""vLLM's offloading connector, scheduler side (``kv_connector/v1/offloading/scheduler.py``).

What steps compute is copied to host memory chunk by chunk; what requests find there is copied back before they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from penstock.kv_transfer.cpu_tier import CPUTier, Found
from penstock.scheduler.guarded_kv_cache import Guard, GuardedKVCache
from penstock.scheduler.kv_connector import NO_MATCH, Match, TransferReport
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.spec.kv_tier import TierOptions
from penstock.units import NEVER_NS

_by_order = attrgetter("order")


@dataclass(slots=True, eq=False)
class CopyJob:
    """A copy of ``blocks`` GPU blocks, the first of which is the request's number ``first_block``, to (``is_store``)
    or from the tier's places ``chunks``. ``stages`` gets (stage, submission, start, end), in ns; ``waits_for`` are
    the stages that have not reported it."""

    is_store: bool
    request: int
    scheduled_ns: int
    keys: tuple[int, ...]
    chunks: tuple[int, ...]
    blocks: int
    first_block: int
    waits_for: int
    guard: Guard = field(default_factory=Guard)
    stages: list[tuple[int, int, int, int]] = field(default_factory=list)
    reported_ns: int | None = None


@dataclass(frozen=True, slots=True)
class CopyOrders:
    """What a step tells the workers: its loads, its stores, and which copies must be out before its forward."""

    loads: tuple[CopyJob, ...]
    stores: tuple[CopyJob, ...]
    flush: frozenset[CopyJob]


@dataclass(slots=True)
class _Offered:
    """A request, as far as the tier goes: chunks up to ``next_chunk`` were dealt with. ``has_blocks``: it was
    scheduled since it was last looked up. ``guards`` watch what it may still offer after its end, by chunk."""

    state: RequestState
    next_chunk: int = 0
    has_blocks: bool = False
    jobs: set[CopyJob] = field(default_factory=set)
    guards: dict[int, Guard] = field(default_factory=dict)
    has_ended: bool = False


class OffloadingConnector:
    """A :class:`~penstock.scheduler.kv_connector.KVConnector` of a scheduler whose pool is ``kv``. ``tier`` is its own
    unless given: others may share it, whose pools then name blocks alike; ``user`` is its number among them.
    ``latest`` are steps with something to tell the workers, by number, that those have not taken; ``all_jobs`` all
    copies so far where ``keep_jobs``."""

    writes_blocks = True
    must_deliver = False

    def __init__(
        self,
        options: TierOptions,
        kv: GuardedKVCache,
        pp_size: int,
        *,
        tier: CPUTier | None = None,
        user: int = 0,
        keep_jobs: bool = False,
    ) -> None:
        self.options = options
        self.kv = kv
        self.pp_size = pp_size
        self.tier = tier or CPUTier(options)
        self.latest: list[tuple[int, CopyOrders]] = []
        self.all_jobs: list[CopyJob] = []
        self.hit_tokens = 0
        self.looked_up_tokens = 0
        self.refused_stores = 0
        self.stores = self.loads = 0
        self._user = user
        self._keep_jobs = keep_jobs
        self._per_chunk = options.blocks_per_chunk
        self._chunk_tokens = kv.block_size * options.blocks_per_chunk
        self._offered: dict[int, _Offered] = {}
        # Requests that were refused room: they offer again at every step.
        self._refused: dict[int, _Offered] = {}
        self._ended: list[int] = []
        self._pending: set[CopyJob] = set()
        self._being_loaded: set[int] = set()
        self._loads: list[CopyJob] = []
        self._done: list[CopyJob] = []
        self._local = 0
        self._now = 0
        # Whether the latest schedule() asked for something that is not known yet.
        self._defers = self._deferred = False

    def added(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        self._offered[state.request.index] = _Offered(state)

    # --- loading --------------------------------------------------------------------------------------------

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """Whole chunks beyond the local hit; None while one of them is written or loaded for another request, or
        while the request's own chunks are still copied."""
        offered = self._offered[state.request.index]
        offered.has_blocks = False
        self._local = computed
        if offered.jobs:
            return None
        size = self._chunk_tokens
        last = state.num_tokens // size
        first = computed // size
        if last * size - computed < size:
            return NO_MATCH
        hits: list[int] = []
        is_pending = False
        for chunk in range(first, last):
            key = self._key(state, chunk)
            found = self.tier.find(key)
            if found is Found.MISS:
                break
            is_pending |= found is Found.PENDING
            hits.append(key)
        if is_pending:
            self._defers = True
            return None
        gain = (first + len(hits)) * size - computed
        if gain < size:
            return NO_MATCH
        if self._being_loaded and not self._being_loaded.isdisjoint(hits):
            return None
        if self.options.loads_first:
            # LMCache takes one token less of a prompt that is all there: the step needs something to compute.
            return Match(min(gain, state.num_tokens - 1 - computed))
        return Match(gain, loads=True)

    def _key(self, state: RequestState, chunk: int) -> int:
        return self.kv.key(state, (chunk + 1) * self._per_chunk - 1)

    def _keys(self, state: RequestState, first: int, end: int) -> tuple[int, ...]:
        """Those of the request's chunks from ``first`` up to ``end``, which are some."""
        self._key(state, end - 1)
        step = self._per_chunk
        return tuple(state.keys[(first + 1) * step - 1 : end * step : step])

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        """Copy into the blocks behind the local hit."""
        self.looked_up_tokens += state.num_tokens - hit_blocks * self.kv.block_size
        if not external_tokens:
            return
        self.hit_tokens += external_tokens
        index = state.request.index
        offered = self._offered[index]
        end = hit_blocks * self.kv.block_size + external_tokens
        first_chunk, end_chunk = hit_blocks // self._per_chunk, -(-end // self._chunk_tokens)
        keys = self._keys(state, first_chunk, end_chunk)
        blocks = self.kv.blocks_for(end) - hit_blocks
        chunks = self.tier.begin_load(index, keys, first_chunk)
        job = self._job(offered, keys, chunks, blocks, hit_blocks, is_store=False)
        offered.next_chunk = end_chunk
        self._loads.append(job)
        if self.kv.prefix_caching:
            self._being_loaded.update(keys)

    def _job(
        self,
        offered: _Offered,
        keys: tuple[int, ...],
        chunks: tuple[int, ...],
        blocks: int,
        first_block: int,
        *,
        is_store: bool,
    ) -> CopyJob:
        index = offered.state.request.index
        self.stores += is_store
        self.loads += not is_store
        job = CopyJob(is_store, index, self._now, keys, chunks, blocks, first_block, self.pp_size)
        job.guard.owner = job
        offered.jobs.add(job)
        self._pending.add(job)
        if self._keep_jobs:
            self.all_jobs.append(job)
        return job

    # --- storing --------------------------------------------------------------------------------------------

    def scheduled(self, step: Step, now: int) -> None:
        """Offer what the step fills, and find out which copies must be out before its forward."""
        self._now = now
        self._deferred, self._defers = self._defers, False
        for job in self._loads:
            job.scheduled_ns = now
        if self.kv.has_guards:
            for state, _, _ in step.chunks:
                if not self._offered[state.request.index].has_blocks:
                    self.kv.come_up(state)
        flush = self._disturbed()
        for victim in step.preempted:
            flush |= self._offered[victim.request.index].jobs
        stores: list[CopyJob] = []
        for state, tokens in self._filling(step):
            offered = self._offered[state.request.index]
            offered.has_blocks = True
            self._offer(offered, tokens, stores)
        if self._ended:
            self._offer_ended(stores, flush)
        if stores or flush or self._loads:
            self.latest.append((step.number, CopyOrders(tuple(self._loads), tuple(stores), frozenset(flush))))
            self._loads = []

    def _disturbed(self) -> set[CopyJob]:
        """The copies whose blocks were handed out by this schedule()."""
        disturbed = self.kv.disturbed
        if not disturbed:
            return set()
        jobs = {guard.owner for guard in disturbed if isinstance(guard.owner, CopyJob)}
        disturbed.clear()
        return jobs & self._pending

    def _filling(self, step: Step) -> list[tuple[RequestState, int]]:
        """Requests of the step that may have new chunks, with the tokens computed after it, in the step's order."""
        # Under async scheduling a step may compute a token that is not known yet.
        found = [(state, min(computed + new, state.num_tokens)) for state, new, computed in step.chunks]
        cohort = step.cohort
        if cohort is None or not step.members:
            return found
        if not self.options.offload_prompt_only:
            filled = cohort.block_fills.get(cohort.turn % cohort.block_size, ())
            found += [(state, state.offset + cohort.turn) for state in filled]
        for offered in self._refused.values():
            state = offered.state
            if state.cohort is cohort and not any(state is other for other, _ in found):
                found.append((state, state.offset + cohort.turn))
        found.sort(key=_order_of_entry)
        return found

    def _offer(self, offered: _Offered, computed: int, stores: list[CopyJob]) -> CopyJob | None:
        """Offer the request's chunks that are full with ``computed`` tokens."""
        state = offered.state
        tokens = computed
        if self.options.offload_prompt_only:
            tokens = min(tokens, state.request.input_tokens)
        index = state.request.index
        first, end = offered.next_chunk, tokens // self._chunk_tokens
        if end <= first or not offered.has_blocks:
            self._refused.pop(index, None)
            return None
        keys = self._keys(state, first, end)
        stored = self.tier.begin_store(index, keys, first)
        if stored is None:
            self.refused_stores += 1
            self._refused[index] = offered
            return None
        self._refused.pop(index, None)
        offered.next_chunk = end
        if not stored.keys:
            return None
        first_block = (first + keys.index(stored.keys[0])) * self._per_chunk
        blocks = len(stored.keys) * self._per_chunk
        job = self._job(offered, stored.keys, stored.chunks, blocks, first_block, is_store=True)
        stores.append(job)
        return job

    def _offer_ended(self, stores: list[CopyJob], flush: set[CopyJob]) -> None:
        """Requests that have ended since the last step: what is left of theirs, out of blocks that may have been
        handed out by now."""
        ended, self._ended = sorted(self._ended), []
        for index in ended:
            offered = self._offered[index]
            state = offered.state
            computed = state.num_computed
            if state.outcome is Outcome.FINISHED:
                computed = max(state.request.input_tokens, state.num_tokens - 1)
            first = offered.next_chunk
            keys = {chunk: self._key(state, chunk) for chunk in offered.guards}
            job = self._offer(offered, computed, stores)
            self._refused.pop(index, None)
            for chunk, guard in offered.guards.items():
                if job is None or chunk < first or keys[chunk] not in job.keys:
                    self.kv.unguard(guard)
                elif guard.is_disturbed:
                    flush.add(job)
                else:
                    guard.owner = job
            offered.guards = {}
        for index in ended:
            self.tier.finished(index)
            self._offered[index].has_ended = True
            self._forget(index)

    def finished(self, state: RequestState, now: int) -> bool:
        """Its blocks are free at once; those that are still copied, or will be, are watched."""
        index = state.request.index
        offered = self._offered[index]
        self._ended.append(index)
        guards: dict[int, Guard] = {}
        for job in offered.jobs:
            if job.is_store:
                for key_place in self._places(job, offered):
                    guards.update(dict.fromkeys(self._blocks_of(key_place), job.guard))
        computed = state.num_computed
        if state.outcome is Outcome.FINISHED:
            computed = max(state.request.input_tokens, state.num_tokens - 1)
        if self.options.offload_prompt_only:
            computed = min(computed, state.request.input_tokens)
        if offered.has_blocks:
            for chunk in range(offered.next_chunk, computed // self._chunk_tokens):
                offered.guards[chunk] = guard = Guard()
                guards.update(dict.fromkeys(self._blocks_of(chunk), guard))
        if guards:
            self.kv.guard(state, guards)
        return any(not job.is_store for job in offered.jobs)

    def _places(self, job: CopyJob, offered: _Offered) -> list[int]:
        """Which of the request's chunks a store copies."""
        first = job.first_block // self._per_chunk
        keys = set(job.keys)
        found: list[int] = []
        chunk = first
        while len(found) < len(keys):
            if self._key(offered.state, chunk) in keys:
                found.append(chunk)
            chunk += 1
        return found

    def _blocks_of(self, chunk: int) -> range:
        return range(chunk * self._per_chunk, (chunk + 1) * self._per_chunk)

    # --- what the workers tell ------------------------------------------------------------------------------

    def bring(self, done: Sequence[CopyJob]) -> None:
        """Copies that a stage has reported."""
        self._done += done

    def reported(self, now: int) -> TransferReport | None:
        """A copy is done when every stage has said so."""
        if not self._done:
            return None
        report = TransferReport()
        for job in self._done:
            job.waits_for -= 1
            if job.waits_for:
                continue
            job.reported_ns = now
            offered = self._offered[job.request]
            self._pending.discard(job)
            offered.jobs.discard(job)
            if job.is_store:
                self.tier.end_store(job.keys)
                self.tier.changed(self._user, now)
                self.kv.unguard(job.guard)
            else:
                self.tier.end_load(job.keys)
                self._being_loaded.difference_update(job.keys)
                ended = offered.has_ended or offered.state.outcome is not Outcome.FINISHED
                if ended:
                    report.released.append(offered.state)
                elif not self.options.loads_first:
                    report.loaded.append(offered.state)
            self._forget(job.request)
        self._done = []
        return report

    def _forget(self, index: int) -> None:
        offered = self._offered[index]
        if offered.has_ended and not offered.jobs:
            del self._offered[index]

    def quiet_until_ns(self) -> int:
        """While nothing is copied, is to be, is waited for, or was refused room, decodes alone change nothing: outputs
        that are stored are noted by their cohort."""
        busy = self._pending or self._done or self._ended or self._refused or self._loads or self.latest
        return 0 if busy or self._deferred or self.kv.disturbed else NEVER_NS

    def has_work(self) -> bool:
        """The engine goes on until all copies are reported."""
        return bool(self._pending)


def _order_of_entry(entry: tuple[RequestState, int]) -> int:
    return _by_order(entry[0])
