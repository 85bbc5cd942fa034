"""The options of :func:`penstock.simulate` as type checkers and editors see them.

They need it in writing; a test holds it equal to :mod:`penstock.spec.option_table`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, TypedDict


class SimulateOptions(TypedDict, total=False):
    """Options by keyword, named as those of ``penstock run``; left out or None means the default in brackets.

    What an instance of the cluster config says itself goes before an option here.
    """

    # Requests
    num_reqs: int | None
    """Serve the first N only; a session is one; 0 = all [0]."""
    request_rate: float | str | None
    """Send the requests at random, so many a second on average (Poisson), by the seed; inf = all at once [as in the
    dataset]."""
    max_concurrency: int | None
    """Send at most N at a time, the next when one ends; a session is one; 0 = any [0]."""
    think_time: float | None
    """With max_concurrency: N users, each thinking S seconds on average before each request [0]."""
    check_memory: bool | None
    """Refuse a run that takes more memory than this machine has [on]."""

    # What is kept of the run
    record: Literal["requests", "steps", "stages"] | None
    """The tables to keep: each includes those before it [stages]."""
    keep_token_times: bool | None
    """Keep the time of every token [on]."""

    # Costs and memory
    dtype: Literal["float16", "bfloat16", "float32", "fp8", "fp8_block", "int8", "nvfp4", "fp4"] | None
    """Of weights and activations [the model's]."""
    kv_cache_dtype: Literal["auto", "fp8"] | None
    """Of the KV cache; auto: as dtype [auto]."""
    enable_attn_offloading: bool | None
    """Decodes attend in the node's memory, by its pim_config [off]."""
    enable_sub_batch_interleaving: bool | None
    """With that, two halves of a step in turns, one in memory, one on the NPU [off]."""
    npu_memory_utilization: float | None
    """Share of a device's memory to use [0.9]."""
    engine_overhead: Literal["default", "none"] | None
    """The engine's own time per step [default, none with a profile root]."""
    profile_root: str | os.PathLike[str] | None
    """Directory of profile bundles in LLMServingSim's layout [the packaged fits, else a roofline]."""
    calibration: str | os.PathLike[str] | None
    """What penstock calibrate wrote for this hardware and engine [none]."""

    # The engine
    engine: str | None
    """Take what an engine runs by default: vllm-0.32.0, vllm-0.19.0, sglang, llmservingsim."""
    block_size: int | None
    """Tokens in a KV block [16]."""
    max_num_seqs: int | None
    """Requests running at once; 0 = any [128]."""
    max_num_batched_tokens: int | None
    """Tokens in a step; 0 = the model's longest context [2048]."""
    long_prefill_token_threshold: int | None
    """Tokens of one prompt in a step; 0 = any [0]."""
    enable_chunked_prefill: bool | None
    """Cut long prompts [on]."""
    enable_prefix_caching: bool | None
    """Share KV blocks of equal prefixes [on]."""
    reserve_full_isl: bool | None
    """Admit a request only if its whole prompt fits [on]."""
    async_scheduling: bool | None
    """Schedule ahead of the sampled tokens [off]."""
    v2_model_runner: bool | None
    """With async scheduling over stages: vLLM's second model runner, one step more in flight [on]."""
    scheduling_policy: Literal["fcfs", "priority"] | None
    """The order in which requests wait and lose their blocks: by arrival or by their own priority [fcfs]."""
    policy: str | Callable[..., Any] | object | None
    """How a step is filled: vllm, decode-cap, all-cap, gllm, sglang, sglang-dynamic or a class of yours [vllm]."""
    engine_idle_sleep_ns: int | None
    """The engine's sleep after an empty schedule [1000000]."""
    prefix_storage: Literal["CPU", "CXL", "None"] | None
    """Keep prefixes below the GPU, in host or CXL memory, at instances without kv_offloading [None]."""
    enable_prefix_sharing: bool | None
    """With --prefix-storage: one tier for a node's instances (CPU), for all (CXL) [off]."""
    exact_only: bool | None
    """Take every turn one by one, no short cut: the same result, more slowly [off]."""

    # Routing
    router: str | Callable[..., Any] | object | None
    """Who serves a request: LOAD, RR, RAND, P2C, LOT, PREFIX or a class of yours as module:Class [LOAD]."""
    seed: int | None
    """Of random routing [0]."""
