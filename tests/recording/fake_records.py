"""Small hand-made records of a run, for the tests of what is computed from them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from penstock.recording.records import (
    TURN_COLUMNS,
    Cause,
    InstanceTotals,
    Rejection,
    RequestLog,
    RunRecord,
    TurnChunk,
    stage_columns,
)
from penstock.spec.cluster import InstanceSpec
from penstock.spec.deployment import Deployment, MemoryPlan, StageMemory
from penstock.spec.layers import uniform_layers
from penstock.spec.model import ModelSpec
from penstock.spec.options import SchedulerOptions
from penstock.units import GIB, MIB


def fake_deployment(instance: int = 0, layers: tuple[int, ...] = (16, 16), tp: int = 1) -> Deployment:
    """A Llama-like model; the last stage holds a GiB more of weights and so one block in eight fewer."""
    pp = len(layers)
    stages = tuple(
        StageMemory(
            capacity_bytes=96 * GIB,
            usable_bytes=90 * GIB,
            weights_bytes=(8 if stage < pp - 1 else 9) * GIB,
            reserves=(("activations", 2 * GIB), ("CUDA graphs", GIB)),
            kv_bytes_per_block=MIB,
            kv_blocks=79 * 1024 if stage < pp - 1 else 78 * 1024,
            stranded_bytes=GIB if stage < pp - 1 else 0,
        )
        for stage in range(pp)
    )
    plan = MemoryPlan(stages=stages, block_size=16, num_gpu_blocks=78 * 1024, basis="derived")
    return Deployment(
        instance=instance,
        model="meta-llama/Llama-3.1-8B",
        hardware=("RTXPRO6000",) * pp,
        tp_size=tp,
        pp_size=pp,
        layers=layers,
        memory=plan,
        basis=("attention: measured profile",),
    )


def fake_instance(deployment: Deployment, scheduler: SchedulerOptions) -> InstanceSpec:
    """What the user described to get ``deployment``."""
    model = ModelSpec(
        name=deployment.model,
        hidden_size=4096,
        layers=uniform_layers(
            sum(deployment.layers), num_heads=32, num_kv_heads=8, head_dim=128, intermediate_size=14336
        ),
        vocab_size=128256,
        max_position_embeddings=131072,
    )
    return InstanceSpec(
        index=deployment.instance,
        node=0,
        model=model,
        hardware=deployment.hardware[0],
        tp_size=deployment.tp_size,
        pp_size=deployment.pp_size,
        memory_bytes=96 * GIB,
        memory_bandwidth_gb_per_s=1597,
        memory_utilization=0.9,
        dtype="bfloat16",
        kv_cache_dtype="auto",
        scheduler=scheduler,
    )


def fake_record(
    token_times: Sequence[Sequence[int]],
    arrivals: Sequence[int],
    *,
    instances: Sequence[int] | None = None,
    deployments: tuple[Deployment, ...] = (),
    rejections: tuple[Rejection, ...] = (),
    keep_token_times: bool = True,
    notes: tuple[str, ...] = (),
) -> RunRecord:
    """Request ``i`` arrives at ``arrivals[i]``, is scheduled 1 ns later and has the given token times.

    The log is in order of finishing, as the engine writes it; a request's times are cut into two segments.
    """
    instances = instances or [0] * len(arrivals)
    deployments = deployments or (fake_deployment(),)
    log = RequestLog(keep_token_times=keep_token_times)
    for i in sorted(range(len(arrivals)), key=lambda i: (token_times[i][-1], i)):
        times = array("q", token_times[i])
        cut = len(times) // 2
        row = (i, instances[i], 100 + i, len(times), arrivals[i], arrivals[i] + 1, times[0], times[-1], 0, 0)
        log.append(row, ((times, 0, cut), (times, cut, len(times))))
    gaps = np.array([gap for times in token_times for gap in np.diff(times).tolist()], dtype=np.int64)
    values, counts = np.unique(gaps, return_counts=True)
    end = max((times[-1] for times in token_times), default=0)
    totals = tuple(
        InstanceTotals(
            iterations=10,
            empty_schedules=2,
            idle_sleeps=1,
            preemptions=0,
            prompt_tokens=sum(100 + i for i in range(len(arrivals))),
            generated_tokens=sum(len(times) for times in token_times),
            cohort_turns=9,
            exact_turns=3,
            busy_ns=(end // 2,) * deployment.pp_size,
            end_ns=end,
            notes=notes,
        )
        for deployment in deployments
    )
    return RunRecord(
        deployments=deployments,
        requests=log,
        rejections=rejections,
        totals=totals,
        token_gaps=(values, counts.astype(np.int64)),
        first_arrival_ns=min(arrivals, default=0),
        end_ns=end,
    )


def fake_turns(
    turns: Sequence[dict[str, int]],
    stages: Sequence[Sequence[tuple[int, int]]],
    *,
    instance: int = 0,
    first_turn: int = 0,
) -> TurnChunk:
    """``stages[i]`` lists (start, end) of every stage in turn ``i``; an empty list makes an empty step.

    Columns that are not given are 0, but for ``schedule_ns`` (the first start), ``first_arrival_ns`` (the
    same), ``done_ns`` and ``update_ns`` (the last end) and ``cause_after``.
    """
    pp = max(len(way) for way in stages)
    names = TURN_COLUMNS + stage_columns(pp)
    values = np.zeros((len(turns), len(names)), dtype=np.int64)
    for i, (turn, way) in enumerate(zip(turns, stages, strict=True)):
        schedule = turn.get("schedule_ns", way[0][0] if way else 0)
        end = way[-1][1] if way else schedule
        row = {
            "schedule_ns": schedule,
            "first_arrival_ns": schedule,
            "done_ns": end,
            "update_ns": end,
            "cause_after": int(Cause.DEPENDENCY),
        } | turn
        for stage, (start, stop) in enumerate(way or [(schedule, schedule)] * pp):
            row |= {f"arrive_{stage}_ns": start, f"start_{stage}_ns": start, f"end_{stage}_ns": stop}
        values[i] = [row.get(name, 0) for name in names]
    return TurnChunk(instance, pp, first_turn, values)
