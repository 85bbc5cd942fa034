"""The cluster a user described: instances (replicas) of a model on hardware, and the links between."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.spec.model import ModelSpec
from penstock.spec.options import EngineOverhead, SchedulerOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """``link_bw`` (GB/s, 2**30 bytes) and ``link_latency`` (ns), one entry per network dimension,
    innermost first. ``classes``, where given, names a measured link class per dimension; None keeps
    bandwidth and latency."""

    bandwidth_gb_per_s: tuple[float, ...]
    latency_ns: tuple[float, ...]
    classes: tuple[str | None, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSpec:
    """A tier of KV in host memory: bytes, bytes per second and ns per direction, ``d2h`` to the CPU. The rest as in
    :class:`~penstock.spec.kv_tier.TierOptions`."""

    size_bytes: int
    d2h_bytes_per_s: int
    h2d_bytes_per_s: int
    d2h_latency_ns: int
    h2d_latency_ns: int
    blocks_per_chunk: int = 1
    eviction_policy: str = "lru"
    offload_prompt_only: bool = True
    store_threshold: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransferSpec:
    """Between prefill and decode instances. ``proxy_ns`` passes from a computed prompt to its request at a decode
    instance, ``notify_ns`` from the end of a read until the prefill side knows, ``handshake_ns`` before a stage's first
    read from an instance. ``lease_s``: how long a prompt's blocks are kept for its reader. ``looks_at_end``: workers
    look for finished reads after a step's forward. ``decode_router`` picks decode instances; None: as prefill."""

    proxy_ns: int = 0
    notify_ns: int = 0
    handshake_ns: int = 0
    lease_s: int = 30
    looks_at_end: bool = False
    decode_router: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One replica: ``tp_size * pp_size`` NPUs serving one model behind one scheduler.

    ``index`` counts over the whole cluster, ``node`` is the node it stands in. ``memory_bytes`` is per NPU.
    ``layer_partition`` None means vLLM's rule, "auto" means balanced by stage cost. ``num_gpu_blocks``
    overrides the derived KV capacity and counts the null block, as vLLM does. ``engine`` says which engine's
    defaults hold, and where they were read; empty where none was asked for.
    ``pd_type`` prefill | decode: it serves one part of each request. ``tier`` is where its KV goes below the GPU.
    """

    index: int
    node: int
    model: ModelSpec
    hardware: str
    tp_size: int
    pp_size: int
    memory_bytes: int
    memory_bandwidth_gb_per_s: float
    memory_utilization: float
    dtype: str
    kv_cache_dtype: str
    scheduler: SchedulerOptions
    overhead: EngineOverhead = field(default_factory=EngineOverhead)
    layer_partition: tuple[int, ...] | str | None = None
    num_gpu_blocks: int | None = None
    stage_hardware: tuple[str, ...] | None = None
    placement_nodes: tuple[int, ...] | None = None
    activation_tensors: int = 2
    blocking_sends: bool = False
    pd_type: str | None = None
    tier: TierSpec | None = None
    where: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """All instances, in file order, and the network between their NPUs.

    With ``shared_node_links`` all hops that leave a node share one link of the outermost dimension (the node's
    NIC); without, each NPU has links of its own, as in ASTRA-Sim.

    ``notices`` say what was asked for and has no effect; ``remarks`` the same of members that any config has.
    """

    source: str
    link: LinkSpec
    instances: tuple[InstanceSpec, ...]
    shared_node_links: bool = False
    kv_transfer: KvTransferSpec = field(default_factory=KvTransferSpec)
    notices: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
