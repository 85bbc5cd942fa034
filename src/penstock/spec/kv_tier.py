"""A tier of KV below the GPU's: what of it there is, and how it is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TierOptions:
    """vLLM's native offloading (``kv_offloading_backend native``).

    The tier holds ``cpu_chunks`` chunks of ``blocks_per_chunk`` GPU blocks each; ``eviction_policy`` is lru | arc.
    With ``offload_prompt_only`` no outputs are stored; with ``store_threshold`` n >= 2 a chunk is stored when it is
    offered the n-th time. With ``loads_first`` a step waits for what its requests load (LMCache's default), else
    requests wait until it is loaded, and steps go on. Copies of each stage take ``d2h`` to the CPU and ``h2d`` back:
    latency + bytes / bandwidth.
    """

    cpu_chunks: int
    kv_bytes_per_token: int
    d2h_latency_ns: int
    d2h_bytes_per_s: int
    h2d_latency_ns: int
    h2d_bytes_per_s: int
    blocks_per_chunk: int = 1
    eviction_policy: str = "lru"
    offload_prompt_only: bool = True
    store_threshold: int = 0
    loads_first: bool = False
