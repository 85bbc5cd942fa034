"""From a built instance to a replica that can run: scheduler, executor, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.cost.step_cost import StepShape
from penstock.engine.build import BuiltInstance
from penstock.engine.decode_runs import AsyncDecodeRuns, DecodeRuns
from penstock.engine.executor import StageExecutor
from penstock.engine.kernel import Agenda
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replica import Accelerator, Naps, Replica
from penstock.engine.stretch import DecodeStretches, can_stretch
from penstock.engine.tiers import Tiers
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.network.links import Link, Network
from penstock.recording.records import TurnSink
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.vllm import VllmScheduler
from penstock.scheduler.vllm_async import VllmAsyncScheduler
from penstock.spec.cluster import InstanceSpec
from penstock.spec.options import RunOptions


def make_replica(
    built: BuiltInstance,
    *,
    options: RunOptions,
    network: Network,
    agenda: Agenda,
    sinks: Sequence[TurnSink] = (),
    on_end: Callable[[Replica, RequestState, int], None] | None = None,
    connector: KVConnector | None = None,
    scheduler: EngineScheduler | None = None,
    workers: StepWorkers | None = None,
    tiers: Tiers,
) -> Replica:
    """A replica of an instance, with vLLM's scheduler and ``connector`` unless ``scheduler`` is given. ``tiers`` are
    those of the run: see :meth:`~penstock.engine.tiers.Tiers.parts` for what stands beside a tier.

    Raises:
        UserError: its policy or its tier cannot be made.
    """
    spec = built.spec
    cost = built.cost
    vllm = None

    def expect(at_ns: int, by: int = -1) -> None:
        replica.expect(at_ns, by)

    parts = tiers.parts(built, expect, connector=connector, scheduler=scheduler, workers=workers)
    connector, workers = parts.connector, parts.workers
    if scheduler is None:
        scheduler = vllm = make_scheduler(
            spec.scheduler,
            spec.pp_size,
            built.deployment.memory.num_gpu_blocks,
            prefill_ns=lambda tokens, context: max(cost.stage.stage_ns(StepShape(tokens, context))),
            connector=connector,
            kv=parts.kv,
            keep_token_times=options.keep_token_times,
            exact_only=options.exact_only,
        )
    accelerator: Accelerator | None = None
    executor: StageExecutor
    back_ns = spec.overhead.ipc_from_last_stage_ns
    if any(hop.shared_link for hop in cost.hops):
        from penstock.engine.linked_pipeline import LinkedPipeline

        links = [
            network.shared_link(hop.shared_link) if hop.shared_link else Link(f"{spec.index}, hop {stage}")
            for stage, hop in enumerate(cost.hops)
        ]
        executor = LinkedPipeline(
            cost, network, links, rank=spec.index, blocking_sends=spec.blocking_sends, back_ns=back_ns
        )
    else:
        executor = LocalPipeline(cost, spec.pp_size, blocking_sends=spec.blocking_sends, back_ns=back_ns)
        if vllm is not None and (connector is None or workers is not None):
            accelerator = _accelerator(vllm, executor, spec)
    naps: Naps | None = None
    if workers is not None:
        executor.when_started(workers.started)
        if vllm is not None and spec.scheduler.engine_idle_sleep_ns and not options.exact_only:
            from penstock.engine.idle_turns import IdleTurns

            naps = IdleTurns(vllm, workers, executor, spec.scheduler, spec.overhead)
    if parts.hold_back is not None:
        executor.ask_before_start(parts.hold_back)
    replica = Replica(
        spec.index,
        scheduler,
        executor,
        spec.scheduler,
        TurnLog(spec.index, spec.pp_size, sinks),
        overhead=spec.overhead,
        agenda=agenda,
        accelerator=accelerator,
        naps=naps,
        on_end=on_end,
        workers=workers,
    )
    return replica


def _accelerator(scheduler: VllmScheduler, pipeline: LocalPipeline, spec: InstanceSpec) -> Accelerator | None:
    if isinstance(scheduler, VllmAsyncScheduler):
        return AsyncDecodeRuns(scheduler, pipeline, spec.overhead)
    if not scheduler.decides_on_results:
        return None
    if can_stretch(pipeline.cost, spec.scheduler.max_in_flight):
        return DecodeStretches(scheduler, pipeline, spec.overhead)
    return DecodeRuns(scheduler, pipeline, spec.overhead)
