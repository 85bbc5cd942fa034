"""The shapes of a cluster config as it stands in JSON: types and ranges of single members.

Rules between members are in ``load.py`` and ``instance_rules.py``. Every member has a default, so that a
config with mistakes can still be checked for others; ``REQUIRED`` says which ones are needed.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictStr

from penstock.spec.check import Raw, shown
from penstock.spec.option_table import RawEngine
from penstock.spec.ranges import Count, Counter, Fraction, Name, Nanoseconds, NonNegative, Positive

Topology = Literal["FullyConnected", "Ring", "Switch"]
CollectiveAlgorithm = Literal["ring", "direct", "halvingDoubling", "doubleBinaryTree"]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _partition(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, list | tuple) and value and all(type(n) is int and n > 0 for n in value):
        return tuple(value)
    raise ValueError(f'must be "auto" or a list of layer counts >= 1, one per stage, not {_item(value)}')


def _one_or_two(value: Any) -> Any:
    if type(value) is int and value in (1, 2):
        return value
    raise ValueError(f"must be 1 or 2, not {shown(value)}")


_POPULARITY = re.compile(r"uniform|power_law\([0-9]+(\.[0-9]+)?\)")


def _popularity(value: Any) -> Any:
    if isinstance(value, str) and _POPULARITY.fullmatch(value.replace(" ", "")):
        return value.replace(" ", "")
    loads = [float(one) for one in value if type(one) in (int, float)] if isinstance(value, list) else []
    if loads and len(loads) == len(value) and any(loads) and all(0 <= load < float("inf") for load in loads):
        return tuple(loads)
    raise ValueError(
        f'must be "uniform", "power_law(1.2)", or a list of loads >= 0, one per expert, not {_item(value)}'
    )


_BLOCK_RANGE = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def _block_ranges(value: Any) -> Any:
    if isinstance(value, str) and _BLOCK_RANGE.fullmatch(value.replace(" ", "")):
        return value
    raise ValueError(f'must be ranges of layers such as "0-3" or "8,9", not {shown(value)}')


def _item(value: Any) -> str:
    return f"[{', '.join(map(shown, value))}]" if isinstance(value, list | tuple) else shown(value)


Bandwidth = Annotated[float, Field(ge=1e-6, le=1e9)]
Latency = Annotated[float, Field(ge=0, le=1e12)]
PerDimension = Annotated[list[Bandwidth], Field(min_length=1), BeforeValidator(_listed)]
LatencyPerDimension = Annotated[list[Latency], Field(min_length=1), BeforeValidator(_listed)]
Partition = Annotated[Any, BeforeValidator(_partition)]


class RawMemory(Raw):
    """``npu_mem``: GB (2**30), GB/s, ns, and the share of it that the engine may use."""

    mem_size: Positive | None = None
    mem_bw: Positive | None = None
    mem_latency: NonNegative = 0
    mem_util: Fraction | None = None


class RawHostMemory(Raw):
    """``cpu_mem``."""

    mem_size: NonNegative | None = None
    mem_bw: NonNegative | None = None
    mem_latency: NonNegative = 0
    pim_config: Name | None = None


class RawCxlMemory(Raw):
    """``cxl_mem``."""

    mem_size: NonNegative | None = None
    mem_bw: NonNegative | None = None
    mem_latency: NonNegative = 0
    num_devices: Counter = 1


class RawKvTransfer(Raw):
    """``kv_transfer``: between prefill and decode instances."""

    kind: Literal["pull", "push"] = "pull"
    proxy_ns: Nanoseconds | None = None
    notify_ns: Nanoseconds = 0
    handshake_ns: Nanoseconds | None = None
    kv_lease_duration: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    worker_poll: Literal["start", "end"] | None = None
    read_failure_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    kv_load_failure_policy: Literal["fail", "recompute"] | None = None
    num_reserved_decode_tokens: Counter | None = None
    decode_router: Name | None = None
    policy: Name | None = None
    max_local_prefill_length: Counter | None = None
    max_prefill_queue_size: Count | None = None


class RawAutoscaling(Raw):
    """``autoscaling``: of a cluster whose instances are all alike."""

    metric: Literal["queue", "requests", "kv"] = "requests"
    target: Positive | None = None
    min_replicas: Count = 1
    start_up_s: Annotated[float, Field(ge=0, le=1e6)] = 60.0
    interval_s: Annotated[float, Field(ge=0.001, le=1e6)] = 15.0
    down_after_s: Annotated[float, Field(ge=0, le=1e6)] = 300.0


class RawKvOffloading(Raw):
    """``kv_offloading``: a tier of KV in host memory, or in a store behind it. GiB, GB/s (2**30) and ns; what is not
    said is ``cpu_mem``'s, or ``cxl_mem``'s."""

    cpu_gb: NonNegative | None = None
    d2h_gb_per_s: Positive | None = None
    h2d_gb_per_s: Positive | None = None
    d2h_latency_ns: Nanoseconds | None = None
    h2d_latency_ns: Nanoseconds | None = None
    blocks_per_chunk: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    eviction_policy: Literal["lru", "arc"] = "lru"
    offload_prompt_only: bool = True
    store_threshold: Counter = 0
    load: Literal["async", "sync"] = "async"
    shared: Literal["instance", "node", "cluster"] = "instance"
    store: Literal["cxl", "network"] | None = None
    store_gb: NonNegative | None = None
    store_gb_per_s: Positive | None = None
    store_latency_ns: Nanoseconds | None = None


def _overhead(value: Any) -> Any:
    """``"default"`` and ``"none"`` in the place of an object."""
    return {"name": value} if value in ("default", "none") else value


class RawOverhead(Raw):
    """``engine_overhead``: CPU time of the engine per turn, or the name of what stands for it."""

    name: Literal["default", "none"] | None = None
    schedule_ns: Nanoseconds = 0
    update_ns: Nanoseconds = 0
    ipc_to_first_stage_ns: Nanoseconds = 0
    ipc_from_last_stage_ns: Nanoseconds = 0
    prefill_step_ns: Nanoseconds = 0
    source: Name = "given in the cluster config"


class RawInstance(RawEngine):
    """One entry of ``instances``."""

    model_name: Name | None = None
    hardware: Name | None = None
    npu_mem: dict[str, Any] | None = None
    num_npus: Count | None = None
    tp_size: Count | None = None
    pp_size: Count | None = None
    ep_size: Count | None = None
    dp_group: StrictStr | None = None
    data_parallel_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    data_parallel_lb: Literal["internal", "hybrid", "external"] | None = None
    data_parallel_size_local: Annotated[int, Field(ge=1, le=1024)] | None = None
    api_server_count: Annotated[int, Field(ge=1, le=1024)] | None = None
    dp_sync_interval: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    prefill_schedule_interval: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    enable_expert_parallel: bool | None = None
    enable_eplb: bool | None = None
    num_redundant_experts: Annotated[int, Field(ge=0, le=4096)] | None = None
    expert_placement_strategy: Literal["linear", "round_robin"] | None = None
    all2all_backend: (
        Literal["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"] | None
    ) = None
    expert_popularity: Annotated[Any, BeforeValidator(_popularity)] = None
    dp_count_exchange_ns: Nanoseconds | None = None
    cudagraph_max_tokens: Counter | None = None
    pd_type: Literal["prefill", "decode"] | None = None
    placement: dict[str, Any] | None = None
    pp_layer_partition: Partition = None
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] | None = None
    num_gpu_blocks: Annotated[int, Field(ge=2, le=1 << 40)] | None = None
    stage_hardware: list[Name] | None = None
    placement_nodes: list[Counter] | None = None
    token_return: bool | None = None
    profile_lookup: Literal["linear", "llmservingsim"] | None = None
    activation_tensors: Annotated[Any, BeforeValidator(_one_or_two)] = None
    blocking_sends: bool | None = None
    watermark: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_model_len: Count | None = None
    engine_overhead: Annotated[RawOverhead | None, BeforeValidator(_overhead)] = None
    enable_local_offloading: bool | None = None
    enable_block_copy: bool | None = None
    kv_offloading: RawKvOffloading | None = None


class RawNpuPower(Raw):
    """An entry of ``power.npu``: W, and seconds of standby after the last work."""

    idle_power: NonNegative | None = None
    standby_power: NonNegative | None = None
    active_power: NonNegative | None = None
    standby_duration: NonNegative | None = None


class RawCpuPower(Raw):
    """``power.cpu``."""

    idle_power: NonNegative | None = None
    active_power: NonNegative | None = None
    util: Annotated[float, Field(ge=0, le=1)] | None = None


class RawDramPower(Raw):
    """``power.dram``."""

    dimm_size: NonNegative | None = None
    idle_power: NonNegative | None = None
    energy_per_bit: NonNegative | None = None


class RawLinkPower(Raw):
    """``power.link``."""

    num_links: Counter | None = None
    idle_power: NonNegative | None = None
    energy_per_bit: NonNegative | None = None


class RawNicPower(Raw):
    """``power.nic``."""

    num_nics: Counter | None = None
    idle_power: NonNegative | None = None


class RawStoragePower(Raw):
    """``power.storage``."""

    num_devices: Counter | None = None
    idle_power: NonNegative | None = None


class RawPower(Raw):
    """``power`` of a node."""

    base_node_power: NonNegative | None = None
    npu: dict[str, RawNpuPower] | None = None
    cpu: RawCpuPower | None = None
    dram: RawDramPower | None = None
    link: RawLinkPower | None = None
    nic: RawNicPower | None = None
    storage: RawStoragePower | None = None


class RawNode(Raw):
    """One entry of ``nodes``; its instances are read one by one."""

    num_instances: Counter | None = None
    cpu_mem: RawHostMemory | None = None
    instances: list[Any] | None = None
    power: RawPower | None = None


class RawCluster(Raw):
    """The top of the file; its nodes are read one by one."""

    num_nodes: Counter | None = None
    link_bw: PerDimension | None = None
    link_latency: LatencyPerDimension | None = None
    link_class: StrictStr | list[StrictStr | None] | None = None
    topology: Topology | list[Topology] | None = None
    collective_algorithm: CollectiveAlgorithm | list[CollectiveAlgorithm] | None = None
    npus_per_dimension: list[Count] | None = None
    endpoint_delay_ns: Nanoseconds | None = None
    local_mem_bw: NonNegative | None = None
    nodes: list[Any] | None = None
    shared_node_links: bool | None = None
    kv_transfer: RawKvTransfer | None = None
    autoscaling: RawAutoscaling | None = None
    cxl_mem: RawCxlMemory | None = None


class RawPlacement(Raw):
    """``placement.default``, an entry of its ``blocks``, or of its ``layers``."""

    weights: StrictStr | None = None
    kv_loc: StrictStr | None = None
    kv_evict_loc: StrictStr | None = None
    blocks: Annotated[Any, BeforeValidator(_block_ranges)] = None


REQUIRED: dict[type[Raw], tuple[str, ...]] = {
    RawCluster: ("num_nodes", "link_bw", "link_latency", "nodes"),
    RawNode: ("num_instances", "instances"),
    RawInstance: ("model_name", "hardware", "npu_mem"),
    RawMemory: ("mem_size", "mem_bw"),
}
