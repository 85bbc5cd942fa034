"""The only wiring: replicas behind a router, requests as they arrive, and the agenda of who acts next."""

from __future__ import annotations

import gc
import heapq
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from penstock.engine.admission import reason_to_reject
from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.data_parallel import DataParallelDeployment
from penstock.engine.fleet import watch
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.kv_paths import ClusterPaths
from penstock.engine.lockstep_build import LockstepGroups
from penstock.engine.lockstep_replica import lockstep_notes
from penstock.engine.models import cluster_router, model_mistake, model_problems
from penstock.engine.observer import Observer, StepObservers, view_of_request
from penstock.engine.proxy import Proxy
from penstock.engine.replica import Replica
from penstock.engine.replica_build import make_replica
from penstock.engine.router import make_router
from penstock.engine.sides import Side
from penstock.errors import Problem, UserError
from penstock.kv_transfer.copy_workers import CopyWorkers
from penstock.kv_transfer.pull import PullConnector, PullOptions
from penstock.kv_transfer.pull_workers import PullWorkers, PullWorld
from penstock.network.links import Network
from penstock.recording.records import (
    Abortion,
    InstanceTotals,
    Rejection,
    RequestLog,
    Role,
    RunRecord,
    TierTotals,
    Transfer,
    TurnChunk,
    TurnSink,
)
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.spec.cluster import ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.options import RunOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request
from penstock.workload.workload import Workload


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: simulated time, and requests finished or rejected out of all."""

    simulated_ns: int
    finished: int
    total: int


class Simulation:
    """A cluster that serves a workload, and whatever is submitted besides.

    Everything that can be wrong with the inputs is found when it is made. :meth:`run` serves the workload to the
    end, once; or a program moves the simulation on by itself with :meth:`advance`, submits requests, aborts some,
    and takes the :meth:`record` when it likes. ``sinks`` receive every instance's turns. ``observers`` are shown
    what happens while it happens. ``progress`` is called now and then while the run goes on. ``built`` are the
    cluster's instances, where they are built already: runs may share them, one after another. ``connector_for`` makes
    the KV connector of an instance, ``scheduler_for`` a scheduler in place of vLLM's; None is what the cluster says.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        workload: Workload | None = None,
        options: RunOptions | None = None,
        *,
        sinks: Sequence[TurnSink] = (),
        observers: Sequence[Observer] = (),
        progress: Callable[[Progress], None] | None = None,
        built: Sequence[BuiltInstance] | None = None,
        connector_for: Callable[[BuiltInstance], KVConnector | None] | None = None,
        scheduler_for: Callable[[BuiltInstance], EngineScheduler | None] | None = None,
    ) -> None:
        self.cluster = cluster
        self.workload = workload if workload is not None else Workload.empty()
        self.options = options or RunOptions()
        self.now_ns = 0
        problems = model_problems(cluster, self.workload)
        if problems:
            raise UserError(problems)
        profile_root = Path(self.options.profile_root) if self.options.profile_root else None
        self._built = build_instances(cluster, profile_root) if built is None else list(built)
        self._way_in_ns = [_way_in_ns(one) for one in self._built]
        self._router = cluster_router(cluster, partial(make_router, self.options.router, self.options.seed))
        self._log = RequestLog(keep_token_times=self.options.keep_token_times)
        self._rejections: list[Rejection] = []
        self._abortions: list[Abortion] = []
        self._arrivals: Iterator[Request] = self.workload.requests()
        self._upcoming: Request | None = next(self._arrivals, None)
        self._submitted: list[tuple[int, int, Request]] = []
        self._next_index = len(self.workload)
        # The closed loop: requests of the workload (sessions as a whole) that are open, and since when one more may be.
        self._max_open = self.options.max_concurrency or NEVER_NS
        self._open = 0
        self._may_open_ns = 0
        self._first_arrival_ns: int | None = None
        self._end_ns = 0
        self._progress = progress
        self._observers = list(observers)
        self._agenda = Agenda()
        self._network = Network(self._wake_network)
        self._agenda.add(self._network, Phase.LINK, 0)
        self._groups = LockstepGroups(self._agenda, self._built)
        all_sinks = (*sinks, _ProgressSink(self._report)) if progress else tuple(sinks)
        self._transfers: list[Transfer] = []
        self._kv_bytes: dict[int, int] = {}
        self._prompts: dict[int, tuple[Replica, RequestState, int]] = {}
        self._pulls: dict[int, PullConnector] = {}
        self._proxy: Proxy | None = None
        self._world = self._make_world()
        self.instances = [
            self._make_replica(
                one,
                all_sinks,
                connector_for(one) if connector_for is not None else None,
                scheduler_for(one) if scheduler_for is not None else None,
            )
            for one in self._built
        ]
        self._routes = len(self.instances) > 1 and not self._groups.take_all(len(self.instances))
        self._fleet, self._fleet_columns = watch(self.instances)
        self._start_disaggregation()
        self._listen()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Each instance as it will run: layers, memory, and what each cost rests on."""
        return tuple(built.deployment for built in self._built)

    @property
    def next_index(self) -> int:
        """A number that no request has yet."""
        return self._next_index

    def _make_replica(
        self,
        built: BuiltInstance,
        sinks: Sequence[TurnSink],
        connector: KVConnector | None,
        scheduler: EngineScheduler | None,
    ) -> Replica:
        if built.group_cost is not None:
            rank = self._groups.make_rank(
                built, options=self.options, sinks=sinks, on_end=self._ended, connector=connector
            )
            self._agenda.add(rank, Phase.ENGINE, built.spec.index)
            return rank
        workers = None
        role = built.spec.pd_type
        if role is not None and connector is None and scheduler is None:
            transfer = self.cluster.kv_transfer
            connector = pull = PullConnector(
                PullOptions(
                    "kv_producer" if role == "prefill" else "kv_consumer",
                    lease_s=transfer.lease_s,
                    looks_at_end=transfer.looks_at_end,
                )
            )
            self._pulls[built.spec.index] = pull
            workers = PullWorkers(
                built.spec.index,
                built.spec.pp_size,
                pull,
                self._world,
                lambda at_ns: replica.expect(at_ns),
            )
        replica = make_replica(
            built,
            options=self.options,
            network=self._network,
            agenda=self._agenda,
            sinks=sinks,
            on_end=self._ended,
            connector=connector,
            scheduler=scheduler,
            workers=workers,
        )
        self._agenda.add(replica, Phase.ENGINE, built.spec.index)
        return replica

    def _make_world(self) -> PullWorld:
        transfer = self.cluster.kv_transfer
        return PullWorld(
            self._network,
            ClusterPaths(self.cluster, self._built, self._network),
            notify_ns=transfer.notify_ns,
            handshake_ns=transfer.handshake_ns,
            on_transfer=self._note_transfer,
        )

    def _start_disaggregation(self) -> None:
        """Where instances serve parts of requests, a proxy and a router for each side."""
        if not self._pulls:
            return
        decode_router = self.cluster.kv_transfer.decode_router or self.options.router
        where = "kv_transfer.decode_router" if self.cluster.kv_transfer.decode_router else "--router"
        self._sides = {
            role: Side(
                [replica for replica, built in self._pairs() if built.spec.pd_type == role], router, name
            )
            for role, router, name in (
                ("prefill", self._router, "--router"),
                ("decode", make_router(decode_router, self.options.seed, where), where),
            )
        }
        self._proxy = proxy = Proxy(
            choose_prefill=self._sides["prefill"].choose,
            choose_decode=self._sides["decode"].choose,
            deliver=self._deliver,
            connectors=self._pulls,
            delay_ns=self.cluster.kv_transfer.proxy_ns,
            wake=lambda at_ns: self._agenda.wake(proxy, at_ns),
        )
        self._agenda.add(proxy, Phase.CONTROL, 0)

    def _wake_network(self, at_ns: int) -> None:
        self._agenda.wake(self._network, at_ns)

    # --- from outside ---------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Let a request arrive, at ``request.arrival_ns``, which must not have passed. Its ``index`` must be one
        that no other request has: :attr:`next_index` is.

        Raises:
            ValueError: it comes too late, its index is taken, or it does not say which of the cluster's models.
        """
        if request.arrival_ns < self.now_ns:
            raise ValueError(
                f"request {request.index} arrives at {request.arrival_ns} ns, it is {self.now_ns} ns"
            )
        if request.index < self._next_index:
            raise ValueError(f"there is a request {request.index} already, the next is {self._next_index}")
        mistake = model_mistake(self.cluster, request.model)
        if mistake is not None:
            raise ValueError(f"request {request.index} {mistake}")
        self._next_index = request.index + 1
        heapq.heappush(self._submitted, (request.arrival_ns, request.index, request))
        self._agenda.stop_at(request.arrival_ns)

    def abort(self, request_index: int) -> bool:
        """The client of a request leaves. The engine takes note when it reads its messages next; a token that is
        computed already may still come. False if no such request is being served."""
        for replica in self.instances:
            state = replica.find(request_index)
            if state is not None:
                replica.abort(state, self.now_ns)
                self._rewake(replica)
                return True
        return False

    def next_event_ns(self) -> int:
        """When something happens next, as far as is known; NEVER_NS if nothing does until somebody submits or
        aborts. :meth:`advance` up to then changes nothing."""
        return min(self._next_arrival_ns(), self._agenda.next_ns())

    def forget(self) -> None:
        """Drop the record of what has ended, so that a run without an end stays small: a later :meth:`record` holds
        what comes from here on. Turns go to the sinks first."""
        for replica in self.instances:
            replica.log.flush()
            del replica.scheduler.token_gaps[:]
        self._log = RequestLog(keep_token_times=self.options.keep_token_times)
        self._rejections.clear()
        self._abortions.clear()
        self._transfers.clear()

    def observe(self, observer: Observer) -> None:
        """Show ``observer`` what happens from here on."""
        self._observers.append(observer)
        self._listen()

    def _listen(self) -> None:
        """Let replicas stop where somebody outside may act on what they did, and take turns in the order of time
        where they concern each other."""
        self._reacts = reacts = (
            self.workload.has_sessions or bool(self._observers) or self._max_open < NEVER_NS
        )
        self._is_coupled = len(self.instances) > 1 and (reacts or bool(self._network.links))
        self._is_coupled |= bool(self._network.links) or bool(self._groups) or self._proxy is not None
        for replica in self.instances:
            replica.stops_on_end = reacts
            replica.agenda = self._agenda if self._is_coupled or self._observers else None
            replica.watcher = (
                StepObservers(replica.index, self._observers, self._stand_at) if self._observers else None
            )

    def _stand_at(self, now_ns: int) -> None:
        self.now_ns = now_ns

    # --- the run --------------------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Serve every request of the workload, and what is submitted meanwhile.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        with _no_collection(unless=bool(self._observers)):
            self.advance(NEVER_NS)
        return self.record()

    def advance(self, until_ns: int) -> None:
        """Let everything happen that happens before ``until_ns``; it is then ``until_ns``.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        while True:
            arrival_ns = self._next_arrival_ns()
            limit_ns = min(arrival_ns, until_ns)
            self._act_before(limit_ns)
            if self._next_arrival_ns() < limit_ns:
                continue  # the end of a request has released an earlier one
            if arrival_ns >= until_ns:
                break
            self.now_ns = arrival_ns
            self._arrive(self._next_arrival())
        if until_ns < NEVER_NS:
            self.now_ns = max(self.now_ns, until_ns)

    def _next_arrival_ns(self) -> int:
        first = self._upcoming_ns()
        return min(first, self._submitted[0][0]) if self._submitted else first

    def _upcoming_ns(self) -> int:
        """When the workload's next request is sent, as far as is known."""
        if self._upcoming is None or self._open >= self._max_open:
            return NEVER_NS
        return max(self._upcoming.arrival_ns, self._may_open_ns)

    def _next_arrival(self) -> Request:
        """Who arrives next: of those at one time the workload's own first."""
        upcoming, at_ns = self._upcoming, self._upcoming_ns()
        if upcoming is None or (self._submitted and self._submitted[0][0] < at_ns):
            return heapq.heappop(self._submitted)[2]
        self._upcoming = next(self._arrivals, None)
        self._open += 1
        return upcoming if upcoming.arrival_ns == at_ns else replace(upcoming, arrival_ns=at_ns)

    def _act_before(self, limit_ns: int) -> None:
        """Let everyone act who acts before ``limit_ns``, unless a request is released that arrives earlier."""
        agenda = self._agenda
        routes = self._routes
        while (at_ns := agenda.next_ns()) < limit_ns:
            self.now_ns = at_ns
            actor = agenda.run_next(limit_ns, alone=not self._is_coupled)
            if routes and isinstance(actor, Replica):
                self._show(actor)
            if self._reacts and self._next_arrival_ns() < limit_ns:
                return

    def _arrive(self, request: Request) -> None:
        if self._first_arrival_ns is None:
            self._first_arrival_ns = request.arrival_ns
        if self._proxy is not None:
            reason = self._reason_on_both_sides(request)
            if reason is None:
                self._proxy.arrive(request)
            else:
                self._reject(request, *reason)
            return
        if self._groups:
            self._deliver_messages(request.arrival_ns)
        routes = self._routes
        index = self._router.route(request, self._fleet)[0] if routes else 0
        if not 0 <= index < len(self.instances):
            raise UserError([Problem("--router", f"returned instance {index} of {len(self.instances)}")])
        replica = self.instances[index]
        reason = reason_to_reject(request, replica.options, replica.scheduler.status().usable_blocks)
        if reason is not None:
            self._reject(request, index, reason)
            return
        self._deliver(index, request, request.arrival_ns + self._way_in_ns[index])

    def _deliver(self, index: int, request: Request, at_ns: int) -> None:
        """A request comes to an instance."""
        replica = self.instances[index]
        state = RequestState(request, replica.options.max_model_len, at_ns)
        group = self._groups.deployment_of(index)
        if group is not None:
            self._send_to_group(group, state, index)
            return
        replica.deliver(state)
        if len(self.instances) > 1:
            self._show(replica)
        self._rewake(replica)

    def _reason_on_both_sides(self, request: Request) -> tuple[int, str] | None:
        """The first instance that could never run the request's part, and why: any may be asked to."""
        for replica in self.instances:
            role = self._built[replica.index].spec.pd_type
            part = replace(request, output_tokens=1) if role == "prefill" else request
            reason = reason_to_reject(part, replica.options, replica.scheduler.status().usable_blocks)
            if reason is not None:
                return replica.index, f"{role} instance {replica.index}: {reason}"
        return None

    def _note_transfer(self, transfer: Transfer) -> None:
        self._kv_bytes[transfer.request] = self._kv_bytes.get(transfer.request, 0) + transfer.size_bytes
        self._transfers.append(transfer)

    def _show(self, replica: Replica) -> None:
        """Let routers see how a replica stands."""
        status = replica.scheduler.status()
        waiting = status.waiting + len(replica.inbox)
        self._fleet_columns.set(replica.index, status.running, waiting, replica.outstanding_tokens)
        if self._proxy is not None:
            for side in self._sides.values():
                side.refresh(replica)

    def _send_to_group(self, group: DataParallelDeployment, state: RequestState, instance: int) -> None:
        """To the rank that the router chose or, where a front-end does the balancing, to the one that it chooses."""
        is_external = group.options.load_balancing == "external"
        rank = self._built[instance].spec.dp_rank if is_external else None
        group.route(self.now_ns, state, group.choose_front_end(rank), rank)
        self._deliver_messages(self.now_ns)
        if self._routes:
            for replica in group.ranks:
                self._show(replica)

    def _deliver_messages(self, now: int) -> None:
        """What arrives at one instant arrives before what happens then."""
        while self._agenda.next_ns() <= now and self._agenda.next_is(Phase.MESSAGE):
            self._agenda.run_next(now + 1, alone=False)

    def _rewake(self, replica: Replica) -> None:
        """A replica that had nothing to do may have now."""
        if replica.next_ns is not None:
            self._agenda.wake(replica, replica.next_ns)

    def _reject(self, request: Request, instance: int, reason: str) -> None:
        rejection = Rejection(
            request.index,
            instance,
            request.arrival_ns,
            request.input_tokens,
            request.output_tokens,
            reason,
        )
        self._rejections.append(rejection)
        for observer in self._observers:
            observer.request_rejected(rejection)
        self._end_ns = max(self._end_ns, request.arrival_ns)
        self._release_next_call(request, request.arrival_ns)

    def _ended(self, replica: Replica, state: RequestState, at_ns: int) -> None:
        request = state.request
        if (
            self._proxy is not None
            and state.outcome is Outcome.FINISHED
            and self._built[replica.index].spec.pd_type == "prefill"
        ):
            self._prompts[request.index] = replica, state, at_ns
            self._proxy.answered(state, at_ns)
            return
        if state.outcome is Outcome.ABORTED:
            generated = state.num_tokens - request.input_tokens
            self._abortions.append(
                Abortion(
                    request.index, replica.index, request.arrival_ns, at_ns, request.input_tokens, generated
                )
            )
        else:
            assert state.first_scheduled_ns is not None
            assert state.first_token_ns is not None
            began = self._prompts[request.index][1] if request.index in self._prompts else state
            legs = self._legs(replica, state, at_ns)
            self._log.append(
                (
                    request.index,
                    replica.index,
                    request.input_tokens,
                    state.num_tokens - request.input_tokens,
                    request.arrival_ns,
                    began.first_scheduled_ns or 0,
                    state.first_token_ns,
                    at_ns,
                    state.preemptions + (began.preemptions if began is not state else 0),
                    began.cached_tokens or 0,
                ),
                tuple(state.segments),
                legs,
            )
            self._prompts.pop(request.index, None)
        self._end_ns = max(self._end_ns, at_ns)
        self._release_next_call(request, at_ns)
        if self._observers:
            self.now_ns = at_ns
            view = view_of_request(replica.index, state, at_ns)
            for observer in self._observers:
                observer.request_ended(view)

    def _legs(self, replica: Replica, state: RequestState, at_ns: int) -> tuple[tuple[int, ...], ...]:
        """The request's stays at instances, where one came later than its user sent it."""
        request = state.request
        if request.index in self._prompts:
            prefill, prompt, prompt_end_ns = self._prompts[request.index]
            kv_bytes = self._kv_bytes.pop(request.index, 0)
            return (
                _leg(request, 0, prefill, Role.PREFILL, prompt, prompt_end_ns, 0),
                _leg(request, 1, replica, Role.DECODE, state, at_ns, kv_bytes),
            )
        if state.arrived_ns == request.arrival_ns:
            return ()
        return (_leg(request, 0, replica, Role.WHOLE, state, at_ns, 0),)

    def _release_next_call(self, request: Request, at_ns: int) -> None:
        """A request has ended: its session's next call may come, or, in a closed loop, the workload's next request."""
        call = None if request.session is None else self.workload.next_call(request.index, at_ns)
        if call is not None:
            heapq.heappush(self._submitted, (call.arrival_ns, call.index, call))
        elif self._max_open < NEVER_NS and request.index < len(self.workload):
            if self._open == self._max_open:
                self._may_open_ns = at_ns
            self._open -= 1

    # --- the record -----------------------------------------------------------------------------------------

    def record(self) -> RunRecord:
        """All that has happened so far beside the turns, which are handed on to the sinks."""
        for replica in self.instances:
            replica.log.flush()
        gaps = [np.frombuffer(replica.scheduler.token_gaps, dtype=np.int64) for replica in self.instances]
        pairs = np.concatenate(gaps).reshape(-1, 2)
        return RunRecord(
            deployments=self.deployments,
            requests=self._log,
            rejections=tuple(self._rejections),
            abortions=tuple(self._abortions),
            totals=tuple(_totals(replica, built) for replica, built in self._pairs()),
            token_gaps=(pairs[:, 0], pairs[:, 1]),
            first_arrival_ns=self._first_arrival_ns or 0,
            transfers=tuple(self._transfers),
            end_ns=max(self._end_ns, *(max(replica.executor.stage_free_ns) for replica in self.instances)),
        )

    def _pairs(self) -> Iterator[tuple[Replica, BuiltInstance]]:
        return zip(self.instances, self._built, strict=True)

    def _report(self, simulated_ns: int) -> None:
        if self._progress is not None:
            done = len(self._log) + len(self._rejections)
            self._progress(Progress(simulated_ns, done, len(self.workload)))


def _way_in_ns(built: BuiltInstance) -> int:
    """What passes between a user's sending a request and the engine's having it, where a calibration says."""
    calibration = built.spec.calibration
    return 0 if calibration is None else calibration.request_ns


class _ProgressSink:
    """Turns come by in chunks all through a run: a good moment to say how far it is."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def accept(self, chunk: TurnChunk) -> None:
        self._report(int(chunk.column("update_ns")[-1]))


@contextmanager
def _no_collection(*, unless: bool) -> Generator[None]:
    """Without the search for cycles: nothing that a run lets go of is in one, and to look for them among a million
    live requests again and again takes a good part of its time. Not where code of others runs meanwhile."""
    if unless or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _leg(
    request: Request,
    number: int,
    replica: Replica,
    role: Role,
    state: RequestState,
    end_ns: int,
    kv_bytes: int,
) -> tuple[int, ...]:
    """A row of LEG_COLUMNS."""
    times = (state.arrived_ns, state.first_scheduled_ns or 0, state.first_token_ns or 0, end_ns)
    return (request.index, number, replica.index, int(role), *times, kv_bytes)


def _tier_totals(replica: Replica) -> TierTotals | None:
    workers = replica.workers
    if not isinstance(workers, CopyWorkers):
        return None
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


def _totals(replica: Replica, built: BuiltInstance) -> InstanceTotals:
    scheduler, log, workers = replica.scheduler, replica.log, replica.workers
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
        tier=_tier_totals(replica),
        late_reads=workers.late_reads if isinstance(workers, PullWorkers) else 0,
        expired_leases=len(workers.lease_ends) if isinstance(workers, PullWorkers) else 0,
        end_ns=replica.now_ns,
        notes=built.cost.stage.notes()
        if built.group_cost is None
        else (*built.group_cost.notes(), *lockstep_notes(replica)),
    )
