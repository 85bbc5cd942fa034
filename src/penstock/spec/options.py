"""What one engine is told: scheduler options and the cost of the engine itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerOptions:
    """vLLM's scheduler configuration, resolved: no None, no "0 means unlimited" but where vLLM has it.

    ``max_in_flight`` is the depth of the batch queue (vLLM ``VllmConfig.max_concurrent_batches``), empty
    steps included. ``long_prefill_token_threshold`` 0 means no threshold. ``engine_idle_sleep_ns`` is the
    sleep of ``EngineCoreProc`` after a turn that scheduled nothing. ``scheduling_policy`` is vLLM's: the order
    in which requests wait and lose their blocks, fcfs | priority. ``policy`` is a name, or a class or object of the
    user's own (:mod:`penstock.spec.choice`).
    """

    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    max_model_len: int = 131_072
    block_size: int = 16
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    reserve_full_isl: bool = True
    watermark: float = 0.0
    max_in_flight: int = 1
    async_scheduling: bool = False
    v2_model_runner: bool = False
    engine_idle_sleep_ns: int = 1_000_000
    scheduling_policy: str = "fcfs"
    policy: Any = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOverhead:
    """CPU time of the engine, per turn: a calibrated constant of a host, 0 where none is known.

    ``schedule_ns`` passes before the step leaves the engine, ``update_ns`` before the next turn begins;
    the two IPC latencies stand between the engine and the first and last stage's workers.
    ``prefill_step_ns`` is what a step with a prefill chunk takes beyond its kernels, over all stages in
    proportion to their layers: such a step runs outside the CUDA graphs.
    """

    schedule_ns: int = 0
    update_ns: int = 0
    ipc_to_first_stage_ns: int = 0
    ipc_from_last_stage_ns: int = 0
    prefill_step_ns: int = 0
    source: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run, as opposed to what: routing, seed, how much to keep.

    ``router`` is a name of ``engine.router.ROUTERS``, an entry point, a ``module:Class``, or a class or object.
    ``record`` is requests | steps | stages.
    ``profile_root`` holds profile bundles in LLMServingSim's layout, searched before the packaged fits.
    ``exact_only`` decides every turn request by request, without cohorts: the same answer, slowly.
    ``max_concurrency`` is a closed loop: of the workload's requests at most so many are open at a time, and the next
    is sent when one ends, no earlier than it arrives; 0 means any number. With
    ``think_time_s`` they are users, who think so long on average before each request.
    """

    router: Any = "LOAD"
    seed: int = 0
    record: str = "stages"
    keep_token_times: bool = True
    profile_root: str | None = None
    exact_only: bool = False
    max_concurrency: int = 0
    think_time_s: float = 0.0
