"""What a deployment can do at most, from data sheets alone: bounds that no simulation of it can beat.

Kernels take at least their multiplications over the peak rate, and at least their bytes over the memory's
bandwidth; the engine cannot overlap a request's own tokens. Everything else (attention beyond reading its KV cache,
links, launches, bubbles) is left out, so that the bounds are on the safe side. Fitted costs may be a few per cent
below what they were fitted to: all times are taken times ``SLACK``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from penstock.cost.weights import (
    Shard,
    embedding_weight_bytes,
    kv_bytes_per_token,
    layer_weight_bytes,
    weight_bytes,
)
from penstock.explore.slo import Slo, shown_ns
from penstock.spec.cluster import InstanceSpec
from penstock.spec.hardware import HardwareSpec
from penstock.spec.model import ModelSpec
from penstock.units import NS_PER_S, Int64Array
from penstock.workload.workload import Workload

SLACK = 0.9


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one replica: ``requests_per_s`` at most; ``tpot_ns`` and ``prompt_ns_per_token`` at least."""

    requests_per_s: float
    limited_by: str
    tpot_ns: float
    prompt_ns_per_token: float


def bounds_of(instance: InstanceSpec, hardware: HardwareSpec, kv_tokens: int, workload: Workload) -> Bounds:
    """The bounds of a replica with room for ``kv_tokens`` in its KV cache.

    * compute: two operations per weight and token, prompt or generated, on all GPUs at their peak;
    * memory: a step reads the weights once, for at most as many sequences as there are places and as the KV cache
      holds of their mean context, and their contexts once: for all generated tokens;
    * a token's time: all weights on its way through the stages are read once;
    * a prompt token's: two operations per weight, on all GPUs of the replica.
    """
    model, tp, pp = instance.model, instance.tp_size, instance.pp_size
    if model.moe is not None:
        # Which experts a step reads depends on its tokens: no bound is known to be safe.
        return Bounds(math.inf, "no bound", 0.0, 0.0)
    read = _layer_bytes(model, tp, instance.dtype) + embedding_weight_bytes(model, tp, instance.dtype)
    weights = _layer_bytes(model, 1, instance.dtype) / weight_bytes(instance.dtype)
    peak = hardware.peak_flops_per_s(instance.dtype)
    bandwidth = hardware.memory_bytes_per_s
    # Prompts with token ids may be found in the prefix cache: nothing of them need be computed.
    prompt = 0.0 if workload.has_token_ids else float(workload.input_tokens.mean())
    answer = float(workload.output_tokens.mean())
    compute = tp * pp * peak / (2 * weights * (prompt + answer))
    context = prompt + answer / 2
    kv_token = kv_bytes_per_token(model.layers, tp, instance.dtype, instance.kv_cache_dtype)
    running = max(min(instance.scheduler.max_num_seqs, kv_tokens / context), 1.0)
    # Spread over the stages evenly, which is the best that they can be; each reads its part in turn.
    per_token_s = (read / running + kv_token * context) / bandwidth / pp
    memory = 1 / (per_token_s * max(answer - 1, 1e-9))
    limit = min(compute, memory)
    return Bounds(
        requests_per_s=limit / SLACK,
        limited_by="the peak rate of its multiplications" if compute <= memory else "its memory bandwidth",
        tpot_ns=SLACK * read / bandwidth * NS_PER_S,
        prompt_ns_per_token=0.0
        if workload.has_token_ids
        else SLACK * 2 * weights / (tp * pp * peak) * NS_PER_S,
    )


def _layer_bytes(model: ModelSpec, tp_size: int, dtype: str) -> int:
    """Weights of all layers on one NPU of ``tp_size``."""
    shard = Shard(tp_size=tp_size)
    return sum(group.count * layer_weight_bytes(model, group.kind, shard, dtype) for group in model.layers)


def why_impossible(bounds: Bounds, slo: Slo, workload: Workload) -> str | None:
    """The bound of the SLO that no load, however low, lets a replica hold; None if there is none."""
    for bound in slo.bounds:
        if bound.metric in ("tpot", "itl") and bounds.tpot_ns > bound.limit_ns:
            return (
                f"{bound.name}: to read its weights once takes {shown_ns(bounds.tpot_ns)}, the limit is "
                f"{shown_ns(bound.limit_ns)}"
            )
        if bound.metric in ("ttft", "latency"):
            prompts = workload.input_tokens[bound.covers(workload.priority)]
            least = bounds.prompt_ns_per_token * _statistic(prompts, bound.statistic)
            if least > bound.limit_ns:
                return (
                    f"{bound.name}: the multiplications of the prompt alone take {shown_ns(least)}, the limit is "
                    f"{shown_ns(bound.limit_ns)}"
                )
    return None


def _statistic(prompts: Int64Array, statistic: str) -> float:
    if statistic == "mean":
        return float(prompts.mean())
    if statistic == "max":
        return float(prompts.max())
    return float(np.percentile(prompts, float(statistic[1:]), method="lower"))
