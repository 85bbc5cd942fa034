"""Everything that a run of a cluster leaves behind, and random clusters in which KV moves."""

from __future__ import annotations

from array import array
from dataclasses import astuple, replace
from random import Random
from typing import Any

import numpy as np

from kv_clusters import cluster, instance
from penstock.engine.simulation import Simulation
from penstock.recording.records import TurnChunk
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Call, Columns, Workload


class _AllTurns:
    def __init__(self) -> None:
        self.rows: dict[int, list[list[int]]] = {}

    def accept(self, chunk: TurnChunk) -> None:
        self.rows.setdefault(chunk.instance, []).extend(chunk.values.tolist())


def records(config: dict[str, Any], workload: Workload, *, exact_only: bool) -> dict[str, Any]:
    """By name; rows of instances that run beside each other in an order that does not depend on who is taken first."""
    turns = _AllTurns()
    simulation = Simulation(load_cluster(config), workload, RunOptions(exact_only=exact_only), sinks=[turns])
    record = simulation.run()
    log = record.requests
    order = np.argsort(log.values()[:, 0])
    gaps, weights = record.token_gaps
    counted: dict[int, int] = {}
    for gap, weight in zip(gaps.tolist(), weights.tolist(), strict=True):
        counted[gap] = counted.get(gap, 0) + weight
    return {
        "turns": turns.rows,
        "requests": log.values()[order].tolist(),
        "tokens": [log.token_times_ns(int(row)).tolist() for row in order],
        "legs": sorted(log.legs().tolist()),
        "transfers": sorted(map(astuple, record.transfers)),
        "rejections": record.rejections,
        "gaps": sorted((gap, weight) for gap, weight in counted.items() if weight),
        "totals": [
            astuple(replace(total, cohort_turns=0, exact_turns=0, notes=())) for total in record.totals
        ],
        "end_ns": record.end_ns,
    }


def random_cluster(seed: int) -> dict[str, Any]:
    """Prefill and decode apart, or whole instances with a tier."""
    draw = Random(seed)
    kind = draw.choice(["pull", "pull", "push", "push", "tier"])
    has_tiers = kind == "tier" or draw.random() < 0.3
    asynchronous = draw.random() < 0.2

    def one(**more: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "pp_size": draw.choice([1, 2, 2, 4]),
            "num_gpu_blocks": draw.choice([90, 150, 300, 2000]),
            "max_num_batched_tokens": draw.choice([256, 1024, 4096]),
            "max_num_seqs": draw.choice([3, 16, 256]),
            "enable_prefix_caching": draw.random() < 0.5,
            "engine_idle_sleep_ns": draw.choice([1_000_000, 1_000_000, 300_000, 0]),
            "reserve_full_isl": draw.random() < 0.7,
            "watermark": draw.choice([0.0, 0.01]),
        }
        if asynchronous:
            fields["async_scheduling"] = True
        elif draw.random() < 0.2:
            fields["scheduling_policy"] = "priority"
        return instance(**fields, **more)

    tier: dict[str, Any] = {
        "cpu_gb": draw.choice([0.05, 0.2, 4]),
        "offload_prompt_only": draw.random() < 0.5,
        "eviction_policy": draw.choice(["lru", "arc"]),
        "blocks_per_chunk": draw.choice([1, 1, 4]),
        "store_threshold": draw.choice([0, 0, 2]),
        "load": draw.choice(["async", "async", "sync"]),
        "shared": draw.choice(["instance", "instance", "node"]),
    }
    tiers = {"kv_offloading": tier} if has_tiers else {}
    link = {"link_bw": draw.choice([2, 16, 400]), "link_latency": draw.choice([0, 20_000, 3_000_000])}
    if kind == "tier":
        return cluster(*[one(**tiers) for _ in range(draw.choice([1, 2]))], **link)
    transfer: dict[str, Any] = {"kind": kind, "notify_ns": draw.choice([0, 0, 5_000, 2_000_000])}
    if kind == "pull":
        transfer |= {
            "proxy_ns": draw.choice([0, 0, 1_000_000]),
            "handshake_ns": draw.choice([0, 0, 40_000_000]),
            "kv_lease_duration": draw.choice([1, 6, 30]),
            "worker_poll": draw.choice(["start", "end"]),
        }
    if draw.random() < 0.2:
        transfer["max_local_prefill_length"] = draw.choice([0, 300])
    return cluster(
        *[one(pd_type="prefill", **tiers) for _ in range(draw.choice([1, 1, 2, 3]))],
        *[one(pd_type="decode", **tiers) for _ in range(draw.choice([1, 2, 2, 3]))],
        kv_transfer=transfer,
        **link,
    )


def random_workload(seed: int, count: int = 60) -> Workload:
    """Prompts of a few families, some of which come at once."""
    draw = Random(seed + 1_000_000)
    columns = Columns()
    at_ns = 0
    longest = draw.choice([300, 900, 1300])
    with_ids = draw.random() < 0.6
    gap_s = draw.choice([0.002, 0.02, 0.1, 0.5])
    for _ in range(count):
        if draw.random() < 0.7:
            at_ns += int(draw.expovariate(1 / gap_s) * 1e9)
        tokens = draw.randint(1, longest)
        family = draw.randint(0, 3)
        ids = array("i", range(family * 10_000, family * 10_000 + tokens)) if with_ids else None
        answer = draw.choice([1, draw.randint(1, 40), draw.randint(1, 120)])
        columns.add(at_ns, Call(tokens, answer, input_ids=ids, priority=draw.randint(0, 2)))
    return Workload(columns, "random")
