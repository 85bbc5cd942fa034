"""From a built instance to a replica that can run: scheduler, executor, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.cost.step_cost import StepShape
from penstock.engine.build import BuiltInstance
from penstock.engine.executor import Executor
from penstock.engine.kernel import Agenda
from penstock.engine.linked_pipeline import LinkedPipeline
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replica import Replica
from penstock.engine.stretch import DecodeStretches, can_stretch
from penstock.network.links import Link, Network
from penstock.recording.records import TurnSink
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import RequestState
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
) -> Replica:
    """A replica of an instance, with vLLM's scheduler and ``connector`` unless ``scheduler`` is given.

    Raises:
        UserError: its policy cannot be made.
    """
    spec = built.spec
    cost = built.cost
    vllm = None
    if scheduler is None:
        scheduler = vllm = make_scheduler(
            spec.scheduler,
            spec.pp_size,
            built.deployment.memory.num_gpu_blocks,
            prefill_ns=lambda tokens, context: max(cost.stage.stage_ns(StepShape(tokens, context))),
            connector=connector,
            keep_token_times=options.keep_token_times,
            exact_only=options.exact_only,
        )
    accelerator = None
    executor: Executor
    back_ns = spec.overhead.ipc_from_last_stage_ns
    if any(hop.shared_link for hop in cost.hops):
        links = [
            network.shared_link(hop.shared_link) if hop.shared_link else Link(f"{spec.index}, hop {stage}")
            for stage, hop in enumerate(cost.hops)
        ]
        executor = LinkedPipeline(
            cost, network, links, rank=spec.index, blocking_sends=spec.blocking_sends, back_ns=back_ns
        )
    else:
        executor = LocalPipeline(cost, spec.pp_size, blocking_sends=spec.blocking_sends, back_ns=back_ns)
        if vllm is not None and can_stretch(cost, spec.scheduler.max_in_flight) and vllm.lockstep:
            accelerator = DecodeStretches(vllm, executor, spec.overhead)
    return Replica(
        spec.index,
        scheduler,
        executor,
        spec.scheduler,
        TurnLog(spec.index, spec.pp_size, sinks),
        overhead=spec.overhead,
        agenda=agenda,
        accelerator=accelerator,
        on_end=on_end,
    )
