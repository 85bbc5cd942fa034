"""From built instances to data-parallel groups that can run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from penstock.engine.build import BuiltInstance
from penstock.engine.kernel import Agenda
from penstock.engine.replica import Replica
from penstock.engine.tiers import Tiers
from penstock.errors import Problem, UserError
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.recording.records import TurnSink
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.options import RunOptions

if TYPE_CHECKING:
    from penstock.engine.data_parallel import DataParallelDeployment
    from penstock.engine.lockstep import LockstepGroup
    from penstock.engine.lockstep_replica import LockstepReplica
    from penstock.engine.native_lockstep import NativeDeployment, NativeLockstep


class LockstepGroups:
    """The groups of a cluster whose ranks run their forwards together; ``ranks`` maps an instance to its group."""

    def __init__(self, agenda: Agenda, built: Sequence[BuiltInstance]) -> None:
        self._agenda = agenda
        self._instances = len(built)
        self._groups: dict[str, tuple[LockstepGroup, DataParallelDeployment]] = {}
        self._ranks: dict[int, DataParallelDeployment | NativeDeployment] = {}
        self.native: NativeLockstep | None = None
        for one in built:
            spec, name = one.spec, one.spec.dp_group
            if one.group_cost is None or name is None:
                continue
            from penstock.engine.data_parallel import DataParallelDeployment
            from penstock.engine.lockstep import LockstepGroup

            if name not in self._groups:
                group = LockstepGroup(
                    one.group_cost,
                    spec.dp_size,
                    one.cost.hops,
                    one.cost.token_return_ns,
                    back_ns=spec.overhead.ipc_from_last_stage_ns,
                    sync_ns=spec.data_parallel.sync_ns,
                )
                deployment = DataParallelDeployment(agenda, spec.data_parallel, len(self._groups))
                self._groups[name] = group, deployment
            self._ranks[spec.index] = self._groups[name][1]

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take_all(self, instances: int) -> bool:
        """Whether one deployment is all there is, ``instances`` of them, and its front-ends choose the ranks: then
        there is nothing to route."""
        deployments = [deployment for _, deployment in self._groups.values()]
        return (
            len(deployments) == 1
            and len(self._ranks) == instances
            and deployments[0].options.load_balancing != "external"
        )

    def go_native(self, native: NativeLockstep) -> None:
        """Let the core serve all groups, where nothing has happened yet."""
        self.native = native
        self._ranks = dict(native.deployments)

    def deployment_of(self, instance: int) -> DataParallelDeployment | NativeDeployment | None:
        """The deployment of which an instance is a rank, or None."""
        return self._ranks.get(instance)

    def make_rank(
        self,
        built: BuiltInstance,
        *,
        options: RunOptions,
        sinks: Sequence[TurnSink],
        on_end: Callable[[Replica, RequestState, int], None] | None,
        connector: KVConnector | None = None,
        scheduler: EngineScheduler | None = None,
        workers: StepWorkers | None = None,
        tiers: Tiers,
    ) -> LockstepReplica:
        """One rank of its group, with vLLM's scheduler and ``connector`` unless ``scheduler`` is given; they must be
        made in order. ``tiers``: see :func:`~penstock.engine.replica_build.make_replica`.

        Raises:
            UserError: its policy cannot be made, or a scheduler of another kind cannot do what the group asks.
        """
        spec = built.spec

        def expect(at_ns: int, by: int = -1) -> None:
            replica.expect(at_ns, by)

        parts = tiers.parts(built, expect, connector=connector, scheduler=scheduler, workers=workers)
        if scheduler is None:
            scheduler = make_scheduler(
                spec.scheduler,
                spec.pp_size,
                built.deployment.memory.num_gpu_blocks,
                connector=parts.connector,
                kv=parts.kv,
                keep_token_times=options.keep_token_times,
                exact_only=options.exact_only,
            )
        elif spec.data_parallel.prefill_schedule_interval > 1 and not isinstance(scheduler, VllmScheduler):
            message = f"needs vLLM's scheduler: {type(scheduler).__name__} does not hold prefills back"
            raise UserError([Problem(f"{spec.where}.prefill_schedule_interval", message)])
        assert spec.dp_group is not None
        group, deployment = self._groups[spec.dp_group]
        from penstock.engine.lockstep_replica import LockstepReplica

        replica = LockstepReplica(
            spec.index,
            spec.dp_rank,
            scheduler,
            group,
            spec.scheduler,
            spec.data_parallel,
            TurnLog(spec.index, spec.pp_size, sinks),
            agenda=self._agenda,
            tell=deployment.tell,
            tell_ended=partial(deployment.tell_ended, spec.dp_rank),
            overhead=spec.overhead,
            on_end=on_end,
            workers=parts.workers,
        )
        if parts.hold_back is not None:
            replica.pipeline.ask_before_start(parts.hold_back)
        deployment.complete([*deployment.ranks, replica])
        if len(deployment.ranks) == group.size and self.take_all(self._instances):
            self._let_run(group, deployment.ranks)
        return replica

    def _let_run(self, group: LockstepGroup, ranks: Sequence[LockstepReplica]) -> None:
        """Let the ranks take runs of decodes together where that is known how."""
        from penstock.engine.lockstep_runs import LockstepRuns

        plain = [
            (replica, replica.scheduler)
            for replica in ranks
            if type(replica.scheduler) is VllmScheduler
            and replica.scheduler.connector is None
            and replica.workers is None
            and replica.options.max_in_flight == 1
            and replica.parallel.prefill_schedule_interval == 1
        ]
        if len(plain) == group.size and group.pp_size == 1 and group.tail_ns is None:
            runs = LockstepRuns(group, plain, self._agenda, ranks[0].parallel.sync_interval)
            for replica in ranks:
                replica.runs = runs
