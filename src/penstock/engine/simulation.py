"""The only wiring: instances behind a router, arrivals in order, and a heap of who acts next."""

from __future__ import annotations

import gc
import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from penstock.engine.admission import reason_to_reject
from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.contended import ContendedInstance
from penstock.engine.fleet import watch
from penstock.engine.instance import Instance
from penstock.engine.router import Router, make_router
from penstock.engine.stretch import StretchingInstance
from penstock.errors import Problem, UserError
from penstock.pipeline.contended import ContendedPipeline, SharedLink
from penstock.pipeline.pipeline import Pipeline
from penstock.recording.records import InstanceTotals, Rejection, RequestLog, RunRecord, TurnChunk, TurnSink
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.spec.cluster import ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.options import RunOptions
from penstock.workload.request import Request
from penstock.workload.workload import Workload

NEVER_NS = sys.maxsize


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: simulated time, and requests finished or rejected out of all."""

    simulated_ns: int
    finished: int
    total: int


class Simulation:
    """One run of a workload on a cluster.

    Everything that can be wrong with the inputs is found when it is made; :meth:`run` can be called once.
    ``sinks`` receive every instance's turns. ``progress`` is called now and then while the run goes on.
    ``built`` are the cluster's instances, where they are built already: runs may share them, one after another.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        workload: Workload,
        options: RunOptions | None = None,
        *,
        sinks: Sequence[TurnSink] = (),
        progress: Callable[[Progress], None] | None = None,
        built: Sequence[BuiltInstance] | None = None,
    ) -> None:
        self.cluster = cluster
        self.workload = workload
        self.options = options or RunOptions()
        profile_root = Path(self.options.profile_root) if self.options.profile_root else None
        self._built = build_instances(cluster, profile_root) if built is None else list(built)
        self._router: Router = make_router(self.options.router, self.options.seed)
        self._log = RequestLog(keep_token_times=self.options.keep_token_times)
        self._rejections: list[Rejection] = []
        self._released: list[tuple[int, int, Request]] = []
        self._first_arrival_ns: int | None = None
        self._end_ns = 0
        self._progress = progress
        self._shared_links: dict[str, SharedLink] = {}
        all_sinks = (*sinks, _ProgressSink(self._report)) if progress else tuple(sinks)
        self.instances = [self._make_instance(built, all_sinks) for built in self._built]
        self._fleet, self._fleet_columns = watch(self.instances)

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Each instance as it will run: layers, memory, and what each cost rests on."""
        return tuple(built.deployment for built in self._built)

    def _make_instance(self, built: BuiltInstance, sinks: Sequence[TurnSink]) -> Instance:
        spec = built.spec
        # Without token ids nothing ever hits, so the order of the free blocks does not matter.
        caches = spec.scheduler.enable_prefix_caching and self.workload.has_token_ids
        scheduler = make_scheduler(
            replace(spec.scheduler, enable_prefix_caching=caches),
            spec.pp_size,
            built.deployment.memory.num_gpu_blocks,
            prefill_ns=lambda tokens, context: max(built.cost.stage.stage_ns(tokens, context, 0, 0, 0, 0, 0)),
            keep_token_times=self.options.keep_token_times,
            exact_only=self.options.exact_only,
        )
        kind, pipeline = self._make_pipeline(built)
        instance = kind(
            spec.index,
            scheduler,
            built.cost,
            pipeline,
            overhead=spec.overhead,
            sinks=sinks,
            on_finish=self._finished,
        )
        instance.stops_on_finish = self.workload.has_sessions
        return instance

    def _make_pipeline(self, built: BuiltInstance) -> tuple[type[Instance], Pipeline]:
        """The pipeline, and the kind of instance that can drive it."""
        spec, cost = built.spec, built.cost
        names = [hop.shared_link for hop in cost.hops]
        if not any(names):
            alone = spec.scheduler.max_in_flight == 1 and hasattr(cost.stage, "decode_turns_ns")
            kind = StretchingInstance if alone and not spec.scheduler.async_scheduling else Instance
            return kind, Pipeline(cost, spec.pp_size, blocking_sends=spec.blocking_sends)
        for option in ("blocking_sends", "async_scheduling"):
            if getattr(spec, option, False) or getattr(spec.scheduler, option, False):
                where = f"{spec.where}.{option}" if spec.where else option
                raise UserError([Problem(where, "is not simulated together with shared_node_links")])
        links = [self._shared_links.setdefault(name, SharedLink(name)) if name else None for name in names]
        return ContendedInstance, ContendedPipeline(cost, spec.pp_size, links)

    # --- the run --------------------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Serve every request of the workload.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        # Nothing that the run lets go of is in a cycle, and to look for cycles among a million live requests
        # again and again takes a good part of its time.
        collects = gc.isenabled()
        gc.disable()
        try:
            self._serve_all()
        finally:
            if collects:
                gc.enable()
        return self._record()

    def _serve_all(self) -> None:
        arrivals = self.workload.requests()
        upcoming = next(arrivals, None)
        agenda: list[tuple[int, int]] = []
        while True:
            arrival_ns = self._next_arrival_ns(upcoming)
            self._advance(agenda, arrival_ns)
            if self._next_arrival_ns(upcoming) < arrival_ns:
                continue  # the end of a request has released an earlier one
            if arrival_ns == NEVER_NS:
                break
            if (
                self._released
                and self._released[0][0] == arrival_ns
                and not (upcoming is not None and upcoming.arrival_ns == arrival_ns)
            ):
                request = heapq.heappop(self._released)[2]
            else:
                assert upcoming is not None
                request = upcoming
                upcoming = next(arrivals, None)
            self._arrive(request, agenda)

    def _next_arrival_ns(self, upcoming: Request | None) -> int:
        first = upcoming.arrival_ns if upcoming is not None else NEVER_NS
        return min(first, self._released[0][0]) if self._released else first

    def _advance(self, agenda: list[tuple[int, int]], limit_ns: int) -> None:
        """Let every instance act that acts before ``limit_ns``. Where the end of a request can release another,
        or links are shared, they take turns in the order of time."""
        in_step = (self.workload.has_sessions or self._shared_links) and len(self.instances) > 1
        routes = len(self.instances) > 1
        while agenda and agenda[0][0] < limit_ns:
            _, index = heapq.heappop(agenda)
            instance = self.instances[index]
            until = min(limit_ns, agenda[0][0] + 1) if in_step and agenda else limit_ns
            instance.run_until(until)
            if routes:
                self._fleet_columns.refresh(index, instance)
            if instance.next_ns is not None:
                heapq.heappush(agenda, (instance.next_ns, index))
            if self._released and self._released[0][0] < limit_ns:
                return

    def _arrive(self, request: Request, agenda: list[tuple[int, int]]) -> None:
        if self._first_arrival_ns is None:
            self._first_arrival_ns = request.arrival_ns
        routes = len(self.instances) > 1
        index = self._router.route(request, self._fleet)[0] if routes else 0
        if not 0 <= index < len(self.instances):
            raise UserError([Problem("--router", f"returned instance {index} of {len(self.instances)}")])
        instance = self.instances[index]
        reason = reason_to_reject(request, instance.options, instance.scheduler.kv.usable)
        if reason is not None:
            self._reject(request, index, reason)
            return
        idle = instance.next_ns is None
        instance.deliver(RequestState(request, instance.options.max_model_len))
        if routes:
            self._fleet_columns.refresh(index, instance)
        if idle and instance.next_ns is not None:
            heapq.heappush(agenda, (instance.next_ns, index))

    def _reject(self, request: Request, instance: int, reason: str) -> None:
        self._rejections.append(
            Rejection(
                request.index,
                instance,
                request.arrival_ns,
                request.input_tokens,
                request.output_tokens,
                reason,
            )
        )
        self._end_ns = max(self._end_ns, request.arrival_ns)
        self._release_next_call(request, request.arrival_ns)

    def _finished(self, instance: Instance, state: RequestState, at_ns: int) -> None:
        request = state.request
        assert state.first_scheduled_ns is not None
        assert state.first_token_ns is not None
        self._log.append(
            (
                request.index,
                instance.index,
                request.input_tokens,
                state.num_tokens - request.input_tokens,
                request.arrival_ns,
                state.first_scheduled_ns,
                state.first_token_ns,
                at_ns,
                state.preemptions,
                state.cached_tokens or 0,
            ),
            tuple(state.segments),
        )
        self._end_ns = max(self._end_ns, at_ns)
        self._release_next_call(request, at_ns)

    def _release_next_call(self, request: Request, at_ns: int) -> None:
        if request.session is None:
            return
        call = self.workload.next_call(request.index, at_ns)
        if call is not None:
            heapq.heappush(self._released, (call.arrival_ns, call.index, call))

    # --- the record -----------------------------------------------------------------------------------------

    def _record(self) -> RunRecord:
        for instance in self.instances:
            instance.flush()
        gaps = [np.frombuffer(instance.scheduler.token_gaps, dtype=np.int64) for instance in self.instances]
        pairs = np.concatenate(gaps).reshape(-1, 2)
        return RunRecord(
            deployments=self.deployments,
            requests=self._log,
            rejections=tuple(self._rejections),
            totals=tuple(_totals(instance, built) for instance, built in self._pairs()),
            token_gaps=(pairs[:, 0], pairs[:, 1]),
            first_arrival_ns=self._first_arrival_ns or 0,
            end_ns=max(self._end_ns, *(max(i.pipeline.stage_free_ns) for i in self.instances)),
        )

    def _pairs(self) -> Iterator[tuple[Instance, BuiltInstance]]:
        return zip(self.instances, self._built, strict=True)

    def _report(self, simulated_ns: int) -> None:
        if self._progress is not None:
            done = len(self._log) + len(self._rejections)
            self._progress(Progress(simulated_ns, done, len(self.workload)))


class _ProgressSink:
    """Turns come by in chunks all through a run: a good moment to say how far it is."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def accept(self, chunk: TurnChunk) -> None:
        self._report(int(chunk.column("update_ns")[-1]))


def _totals(instance: Instance, built: BuiltInstance) -> InstanceTotals:
    scheduler = instance.scheduler
    return InstanceTotals(
        iterations=instance.iterations,
        empty_schedules=instance.empty_schedules,
        idle_sleeps=instance.idle_sleeps,
        preemptions=scheduler.preemptions,
        prompt_tokens=instance.prompt_tokens,
        generated_tokens=instance.generated_tokens,
        cohort_turns=scheduler.cohort_turns,
        exact_turns=scheduler.exact_turns,
        busy_ns=instance.busy_ns(),
        end_ns=instance.now_ns,
        notes=built.cost.stage.notes(),
    )
