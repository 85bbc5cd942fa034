"""The only wiring: replicas behind a router, requests as they arrive, and the agenda of who acts next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.engine.admission import reason_to_reject
from penstock.engine.arrivals import Arrivals
from penstock.engine.build import BuiltInstance, build_instances
from penstock.engine.dispatch import Dispatch
from penstock.engine.instance import Instance
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.lockstep_build import LockstepGroups
from penstock.engine.models import cluster_router, model_mistake, model_problems
from penstock.engine.native import reason_against
from penstock.engine.native_fleet import NativeFleet, can_all_run
from penstock.engine.native_replica import NativeReplica, Segments
from penstock.engine.native_run import serve_at_once
from penstock.engine.outcomes import Outcomes
from penstock.engine.progress import Progress, ProgressSink, no_collection
from penstock.engine.replica import Replica
from penstock.engine.replica_build import make_replica
from penstock.engine.router import foreseen, make_router
from penstock.engine.tiers import Tiers
from penstock.engine.totals import instance_totals
from penstock.engine.users import Users
from penstock.errors import Problem, UserError
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.machine_code import core
from penstock.network.links import Network
from penstock.recording.records import REQUEST_COLUMNS, InstanceTotals, RunRecord, TurnSink
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.spec.cluster import ClusterSpec
from penstock.spec.deployment import Deployment
from penstock.spec.options import RunOptions
from penstock.units import NEVER_NS, Int64Array
from penstock.workload.request import Request
from penstock.workload.workload import Workload

if TYPE_CHECKING:
    from penstock.engine.autoscaler import Autoscaler
    from penstock.engine.disaggregation import Disaggregation
    from penstock.engine.native_lockstep import NativeLockstep
    from penstock.engine.observer import Observer
    from penstock.scheduler.kv_connector import KVConnector

_INSTANCE = REQUEST_COLUMNS.index("instance")
_FINISH = REQUEST_COLUMNS.index("finish_ns")


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
        limit, think_s = self.options.max_concurrency, self.options.think_time_s
        users = Users(limit, think_s, self.options.seed, len(self.workload))
        self._arrivals = Arrivals(self.workload, users)
        self._outcomes = Outcomes(keep_token_times=self.options.keep_token_times)
        self._first_arrival_ns: int | None = None
        self._progress = progress
        self._observers = list(observers)
        self._agenda = Agenda()
        self._network = Network(self._wake_network)
        self._agenda.add(self._network, Phase.LINK, 0)
        self._tiers = Tiers(self._network)
        self._groups = LockstepGroups(self._agenda, self._built)
        self._disaggregation: Disaggregation | None = None
        if any(one.spec.pd_type is not None for one in self._built):
            from penstock.engine.disaggregation import Disaggregation

            self._disaggregation = Disaggregation(
                cluster, self._built, self._network, self._agenda, self._outcomes.moved, self.options.seed
            )
        self._sinks = (*sinks, ProgressSink(self._report)) if progress else tuple(sinks)
        self.instances = [
            self._make_replica(
                one,
                connector_for(one) if connector_for is not None else None,
                scheduler_for(one) if scheduler_for is not None else None,
            )
            for one in self._built
        ]
        router = cluster_router(cluster, partial(make_router, self.options.router, self.options.seed))
        self.serving: list[Instance] = list(self.instances)
        self._is_plain = connector_for is None and scheduler_for is None
        self._fleet: NativeFleet | None = None
        self._lockstep: NativeLockstep | None = None
        scaling = cluster.autoscaling
        self._scaler: Autoscaler | None = None
        if scaling is not None:
            from penstock.engine.autoscaler import Autoscaler

            self._scaler = Autoscaler(scaling, self.instances)
        self._dispatch = Dispatch(self._built, self.serving, self._groups, self._agenda, router, self._scaler)
        if self._disaggregation is not None:
            self._dispatch.routes = True
            moved = self._dispatch.moved
            self._disaggregation.start(
                self.instances, self._agenda, router, self.options, moved, self._deliver_part
            )
        self._listen()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Each instance as it will run: layers, memory, and what each cost rests on."""
        return tuple(built.deployment for built in self._built)

    @property
    def next_index(self) -> int:
        """A number that no request has yet."""
        return self._arrivals.next_index

    def _make_replica(
        self, built: BuiltInstance, connector: KVConnector | None, scheduler: EngineScheduler | None
    ) -> Replica:
        spec = built.spec
        workers: StepWorkers | None = None
        if self._disaggregation is not None:
            if connector is not None or scheduler is not None:
                message = "takes no connector or scheduler of another: its KV goes the cluster's way"
                raise UserError([Problem(f"{spec.where}.pd_type", message)])

            def expect(at_ns: int, by: int = -1) -> None:
                self.serving[spec.index].expect(at_ns, by)

            connector, workers = self._disaggregation.connect(built, expect)
        if built.group_cost is not None:
            replica: Replica = self._groups.make_rank(
                built,
                options=self.options,
                sinks=self._sinks,
                on_end=self._ended,
                connector=connector,
                scheduler=scheduler,
                workers=workers,
                tiers=self._tiers,
            )
        else:
            replica = make_replica(
                built,
                options=self.options,
                network=self._network,
                agenda=self._agenda,
                sinks=self._sinks,
                on_end=self._ended,
                connector=connector,
                scheduler=scheduler,
                workers=workers,
                tiers=self._tiers,
            )
        self._agenda.add(replica, Phase.ENGINE, spec.index)
        return replica

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
        if request.index < self.next_index:
            raise ValueError(f"there is a request {request.index} already, the next is {self.next_index}")
        mistake = model_mistake(self.cluster, request.model)
        if mistake is not None:
            raise ValueError(f"request {request.index} {mistake}")
        self._arrivals.submit(request)
        self._agenda.stop_at(request.arrival_ns)

    def abort(self, request_index: int) -> bool:
        """The client of a request leaves. The engine takes note when it reads its messages next; a token that is
        computed already may still come. Between prefill and decode it ends at once: nobody goes on with it. False if
        no such request is being served."""
        found = False
        for one in self.serving:
            if one.cancel(request_index, self.now_ns):
                self._dispatch.rewake(one)
                found = True
        if found:
            return True
        given_up = None if self._disaggregation is None else self._disaggregation.proxy.give_up(request_index)
        if given_up is None:
            return False
        request, instance = given_up
        self._outcomes.left(instance, request, self.now_ns, 0)
        self._arrivals.ended(request, self.now_ns)
        return True

    def next_event_ns(self) -> int:
        """When something happens next, as far as is known; NEVER_NS if nothing does until somebody submits or
        aborts. :meth:`advance` up to then changes nothing."""
        return min(self._arrivals.next_ns(), self._agenda.next_ns())

    def known_until_ns(self, instance: int) -> int:
        """Before when an instance has no turns but those that the sinks have; what is complete goes to them first.
        To be asked from within a sink, of another instance: what that one's last turn does may concern this one."""
        one = self.serving[instance]
        one.catch_up(self.now_ns)
        one.flush()
        next_ns = NEVER_NS if one.next_ns is None else one.next_ns
        arrival_ns = self._arrivals.next_ns() if self._fleet is None else self._fleet.next_arrival_ns
        if self._lockstep is not None:
            arrival_ns = min(arrival_ns, self._lockstep.next_arrival_ns)
        return min(one.open_since_ns, next_ns, arrival_ns)

    def forget(self) -> None:
        """Drop the record of what has ended, so that a run without an end stays small: a later :meth:`record` holds
        what comes from here on. Turns go to the sinks first."""
        for one in self.serving:
            one.flush()
            one.forget_gaps()
        self._outcomes.forget()

    def observe(self, observer: Observer) -> None:
        """Show ``observer`` what happens from here on."""
        self._observers.append(observer)
        self._listen()

    def _listen(self) -> None:
        """Let replicas stop where somebody outside may act on what they did, and take turns in the order of time
        where they concern each other."""
        self._reacts = reacts = self._arrivals.are_released or bool(self._observers)
        self._is_coupled = len(self.instances) > 1 and reacts
        shares = bool(self._network.links or self._groups or self._tiers.are_shared)
        self._is_coupled |= shares or self._disaggregation is not None
        for one in self.serving:
            one.stops_on_end = reacts
        self._lookahead = None
        if self._disaggregation is not None and not (
            reacts or self._groups or self._tiers.are_shared or self.options.exact_only
        ):
            self._lookahead = self._disaggregation.lookahead(self._network)
        for replica in self.instances:
            replica.agenda = self._agenda if self._is_coupled or self._observers else None
            replica.watcher = None
            if self._observers:
                from penstock.engine.observer import StepObservers

                replica.watcher = StepObservers(replica.index, self._observers, self._stand_at)

    def _stand_at(self, now_ns: int) -> None:
        self.now_ns = now_ns

    # --- the run --------------------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Serve every request of the workload, and what is submitted meanwhile.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        with no_collection(unless=bool(self._observers)):
            self._go_native()
            self.advance(NEVER_NS)
        return self.record()

    def _go_native(self) -> None:
        """Let the engine in machine code take the turns of those instances that it can serve, where nothing has
        happened yet and nobody looks on or reaches into the scheduler."""
        engine = core()
        is_fresh = self._first_arrival_ns is None and not self.now_ns and not self._arrivals.are_submitted
        if (
            engine is None
            or self._network.links
            or self._scaler is not None
            or self._observers
            or not (is_fresh and self._is_plain)
        ):
            return
        if self._groups:
            if self._disaggregation is None:
                self._groups_go_native(engine)
            return
        for place, built in enumerate(self._built):
            if reason_against(built) is None:
                one = self._native(engine, built, self.instances[place])
                if one is not None:
                    self._agenda.replace(self.instances[place], one)
                    self.serving[place] = one
        self._listen()
        natives = [one for one in self.serving if isinstance(one, NativeReplica)]
        if self._reacts or self._disaggregation is not None or len(natives) != len(self.serving):
            return
        if len(natives) == 1:
            self._serve_all(natives[0])
        else:
            self._serve_fleet(engine, natives)

    def _groups_go_native(self, engine: Any) -> None:
        """The same for groups in lock-step, if there is nothing else: they share an order of who acts."""
        if any(built.group_cost is None or reason_against(built) is not None for built in self._built):
            return
        from penstock.engine.native_lockstep import NativeLockstep

        self._lockstep = NativeLockstep(
            engine,
            self._built,
            options=self.options,
            sinks=self._sinks,
            on_end=self._ended_in_lockstep,
            agenda=self._agenda,
        )
        self._agenda.replace(self.instances[0], self._lockstep)
        self.serving[:] = self._lockstep.ranks
        self._groups.go_native(self._lockstep)
        self._listen()
        self._lockstep.stops_on_end = self._reacts
        if self._groups.take_all(len(self._built)) and self._lockstep.can_serve(self.workload):
            workload = self._arrivals.take_all()
            self._first_arrival_ns = workload.first_arrival_ns
            self.now_ns = self._lockstep.serve(workload)

    def _ended_in_lockstep(self, rows: bytes, segments: Sequence[Segments]) -> None:
        """Requests have left ranks that the core serves; see :data:`EndedOfRanks`."""
        values = np.frombuffer(rows, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS))
        ways_in = [one.spec.data_parallel.latencies.front_end_to_engine_ns for one in self._built]
        self._outcomes.finished_rows(rows, segments, np.array(ways_in)[values[:, _INSTANCE]])
        if self._reacts and self._lockstep is not None:
            for row in values.tolist():
                self._arrivals.ended(self._lockstep.forget(row[0]), row[_FINISH])

    def _native(self, engine: Any, built: BuiltInstance, replica: Replica) -> NativeReplica | None:
        """What takes the place of ``replica``; None where somebody reaches into its scheduler."""
        apart = self._disaggregation
        if apart is None:
            return NativeReplica(
                engine,
                built,
                options=self.options,
                sinks=self._sinks,
                on_end=self._ended_natively,
            )
        if apart.looks_into_instances:
            return None
        from penstock.engine.native_connected import ConnectedReplica

        one = ConnectedReplica(
            engine,
            built,
            replica,
            options=self.options,
            sinks=self._sinks,
            on_end=self._ended,
            agenda=self._agenda,
        )
        apart.replace(one)
        return one

    def _serve_all(self, one: NativeReplica) -> None:
        """One instance serves a workload of which nothing depends on what becomes of it."""
        workload = self._arrivals.take_all()
        if not len(workload):
            return
        self._first_arrival_ns = workload.first_arrival_ns
        self.now_ns = serve_at_once(workload, one, self._outcomes, self._way_in_ns[0])
        self._dispatch.rewake(one)

    def _serve_fleet(self, engine: Any, instances: list[NativeReplica]) -> None:
        """The same by several, where the router is one that the core has and no request is refused."""
        if not len(self.workload) or not can_all_run(self.workload, instances):
            return
        choices = foreseen(self._dispatch.router, len(self.workload), len(instances))
        if choices is None:
            return
        workload = self._arrivals.take_all()
        self._first_arrival_ns = workload.first_arrival_ns
        self._fleet = NativeFleet(
            engine,
            instances,
            self._outcomes,
            self._way_in_ns,
            keep_token_times=self.options.keep_token_times,
        )
        self.now_ns = self._fleet.serve(workload, choices)
        self._fleet = None
        for one in instances:
            self._dispatch.rewake(one)

    def _ended_natively(self, one: NativeReplica, rows: bytes, times: bytes, aborted: bytes) -> None:
        """Requests have left an instance that the core serves; see :data:`EndedRows`."""
        segments = one.segments(rows, times) if self.options.keep_token_times else ()
        self._outcomes.finished_rows(rows, segments, self._way_in_ns[one.index])
        for request, generated, at_ns in np.frombuffer(aborted, dtype=np.int64).reshape(-1, 3).tolist():
            self._outcomes.left(one.index, one.request(request), at_ns, generated)
            self._arrivals.ended(one.forget(request), at_ns)
        if self._reacts:
            for row in np.frombuffer(rows, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS)).tolist():
                self._arrivals.ended(one.forget(row[0]), row[_FINISH])

    def advance(self, until_ns: int) -> None:
        """Let everything happen that happens before ``until_ns``; it is then ``until_ns``.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        arrivals = self._arrivals
        while True:
            arrival_ns = arrivals.next_ns()
            look_ns = self._next_look_ns()
            limit_ns = min(arrival_ns, until_ns, look_ns)
            self._act_before(limit_ns)
            if arrivals.next_ns() < limit_ns:
                continue  # the end of a request has released an earlier one
            if self._scaler is not None and limit_ns == look_ns < until_ns:
                self._scaler.look()
                continue
            if arrival_ns >= until_ns:
                break
            self.now_ns = arrival_ns
            self._arrive(arrivals.take())
        if until_ns < NEVER_NS:
            self.now_ns = max(self.now_ns, until_ns)
            for one in self.serving:
                one.catch_up(until_ns)

    def _next_look_ns(self) -> int:
        """When the autoscaler looks next; it does not while there is nothing to come."""
        if self._scaler is None or self.next_event_ns() == NEVER_NS:
            return NEVER_NS
        if self._first_arrival_ns is None:
            self._scaler.begin(self._arrivals.next_ns())
        return self._scaler.next_look_ns

    def _act_before(self, limit_ns: int) -> None:
        """Let everyone act who acts before ``limit_ns``, unless a request is released that arrives earlier."""
        agenda = self._agenda
        dispatch = self._dispatch
        moved = dispatch.moved
        while (at_ns := agenda.next_ns()) < limit_ns:
            self.now_ns = at_ns
            actor = agenda.run_next(limit_ns, alone=not self._is_coupled, lookahead=self._lookahead)
            if dispatch.routes and isinstance(actor, Replica | NativeReplica):
                moved[actor] = None
            elif dispatch.routes and self._lockstep is not None:
                moved.update(dict.fromkeys(self._lockstep.ranks))
            if self._reacts and self._arrivals.next_ns() < limit_ns:
                return

    def _arrive(self, request: Request) -> None:
        if self._first_arrival_ns is None:
            self._first_arrival_ns = request.arrival_ns
        self._dispatch.deliver_messages(request.arrival_ns)
        index, refusal = self._send(request)
        if refusal is not None:
            rejection = self._outcomes.rejected(request, index, refusal)
            for observer in self._observers:
                observer.request_rejected(rejection)
            self._arrivals.ended(request, request.arrival_ns)
            return
        self._dispatch.deliver_messages(self.now_ns)
        self._dispatch.group_moved(index)

    def _send(self, request: Request) -> tuple[int, str | None]:
        """A request comes: the instance that gets it, or the one that could never run it and why."""
        if self._disaggregation is not None:
            refused = self._disaggregation.reason_to_reject(request)
            return refused or (self._disaggregation.proxy.arrive(request), None)
        index = self._dispatch.choose(request)
        one = self.serving[index]
        reason = reason_to_reject(request, one.options, one.usable_blocks)
        if reason is not None:
            return index, reason
        at_ns = request.arrival_ns + self._way_in_ns[index]
        return self._dispatch.deliver(index, request, self.now_ns, at_ns), None

    def _deliver_part(self, index: int, request: Request, at_ns: int, by: int = -1) -> int:
        """A request comes to an instance that serves a part of it."""
        return self._dispatch.deliver(index, request, self.now_ns, at_ns, by)

    def _ended(self, replica: Instance, state: RequestState, at_ns: int) -> None:
        apart = self._disaggregation
        if apart is not None and apart.computes_prompts(replica) and apart.proxy.takes_over(state, at_ns):
            if state.outcome is Outcome.FINISHED:
                self._outcomes.computed(replica, state, at_ns)
            return
        if apart is not None:
            apart.proxy.ended(state)
        self._outcomes.ended(replica, state, at_ns)
        self._arrivals.ended(state.request, at_ns)
        if self._observers:
            self.now_ns = at_ns
            from penstock.engine.observer import view_of_request

            view = view_of_request(replica.index, state, at_ns)
            for observer in self._observers:
                observer.request_ended(view)

    # --- the record -----------------------------------------------------------------------------------------

    def record(self) -> RunRecord:
        """All that has happened so far beside the turns, which are handed on to the sinks."""
        for one in self.serving:
            one.flush()
        pairs = _joined([one.token_gaps for one in self.serving])
        outcomes = self._outcomes
        end_ns = max(outcomes.end_ns, *(one.last_stage_ns for one in self.serving))
        return RunRecord(
            deployments=self.deployments,
            requests=outcomes.log,
            rejections=tuple(outcomes.rejections),
            abortions=tuple(outcomes.abortions),
            totals=tuple(self._totals()),
            token_gaps=(pairs[:, 0], pairs[:, 1]),
            first_arrival_ns=self._first_arrival_ns or 0,
            transfers=tuple(outcomes.transfers),
            end_ns=end_ns,
            replica_times=() if self._scaler is None else self._scaler.times(end_ns),
        )

    def _totals(self) -> Iterator[InstanceTotals]:
        for one, replica, built in zip(self.serving, self.instances, self._built, strict=True):
            yield one.totals() if isinstance(one, NativeReplica) else instance_totals(replica, built)

    def _report(self, simulated_ns: int) -> None:
        if self._progress is not None:
            done = len(self._outcomes.log) + len(self._outcomes.rejections)
            self._progress(Progress(simulated_ns, done, len(self.workload)))


def _joined(parts: Sequence[Callable[[], Int64Array]]) -> Int64Array:
    """The rows of all parts, each let go before the next is made: a copy of one at a time."""
    if len(parts) == 1:
        return parts[0]()
    found = np.zeros((0, 2), dtype=np.int64)
    for part in parts:
        rows = part()
        if not len(found):
            found = np.array(rows)
            continue
        start = len(found)
        found.resize((start + len(rows), 2), refcheck=False)
        found[start:] = rows
    return found


def _way_in_ns(built: BuiltInstance) -> int:
    """What passes between a user's sending a request and the engine's having it, where a calibration says."""
    calibration = built.spec.calibration
    return 0 if calibration is None else calibration.request_ns
