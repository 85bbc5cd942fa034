"""The options of :func:`penstock.simulate` as type checkers and editors see them."""

from __future__ import annotations

import os
from typing import Literal, TypedDict


class SimulateOptions(TypedDict, total=False):
    """Options by keyword, named as those of ``penstock run``; left out or None means the default in brackets.

    What an instance of the cluster config says itself goes before an option here.
    """

    # Costs
    dtype: Literal["float16", "bfloat16", "float32", "fp8", "int8"] | None
    """Of weights and activations [the model's]."""
    kv_cache_dtype: Literal["auto", "fp8"] | None
    """Of the KV cache [auto: as dtype]."""
    profile_root: str | os.PathLike[str] | None
    """Directory of profile bundles in LLMServingSim's layout [the packaged fits, else a roofline]."""

    # Scheduler and memory
    block_size: int | None
    """Tokens in a KV block [16]."""
    max_num_seqs: int | None
    """Requests running at once; 0 = any [128]."""
    max_num_batched_tokens: int | None
    """Tokens in a step; 0 = the model's longest context [2048]."""
    long_prefill_token_threshold: int | None
    """Tokens of one prompt in a step; 0 = any [0]."""
    enable_chunked_prefill: bool | None
    """Cut long prompts [True]."""
    enable_prefix_caching: bool | None
    """Share KV blocks of equal prefixes [True]."""
    reserve_full_isl: bool | None
    """Admit a request only if its whole prompt fits [True]."""
    npu_memory_utilization: float | None
    """Share of a device's memory to use [0.9]."""
    async_scheduling: bool | None
    """Schedule ahead of the sampled tokens [False]."""
    scheduling_policy: Literal["fcfs", "priority"] | None
    """The order in which requests wait and lose their blocks: by arrival or by their own priority [fcfs]."""
    engine_idle_sleep_ns: int | None
    """The engine's sleep after an empty schedule [1 ms]."""

    # Requests and routing
    num_reqs: int | None
    """Serve the first so many; a session is one; 0 = all [0]."""
    router: str | None
    """LOAD, RR, RAND, P2C, LOT, PREFIX or ``module:Class`` [LOAD]."""
    request_routing_policy: Literal["LOAD", "RR", "RAND", "CUSTOM"] | None
    """LLMServingSim's name of ``router``."""
    seed: int | None
    """Of random routing [0]."""

    # What is kept of the run
    record: Literal["requests", "steps", "stages"] | None
    """The tables to keep: each includes those before it [stages]."""
    keep_token_times: bool | None
    """Keep the time of every token [True]."""
    exact_only: bool | None
    """Take every turn one by one, no short cut: the same result, more slowly [False]."""

    # Read for LLMServingSim's sake: refused where they would change the result, else with a notice
    log_interval: float | None
    expert_routing_policy: Literal["BALANCED", "RR", "RAND", "CUSTOM"] | None
    network_backend: Literal["analytical", "ns3"] | None
    prefix_storage: Literal["CPU", "CXL", "None"] | None
    enable_prefix_sharing: bool | None
    enable_local_offloading: bool | None
    enable_attn_offloading: bool | None
    enable_sub_batch_interleaving: bool | None
    enable_block_copy: bool | None
    skip_prefill: bool | None
    run_id: str | None
    inputs_root: str | None
    cleanup_inputs: bool | None
