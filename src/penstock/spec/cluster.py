"""The cluster a user described: instances (replicas) of a model on hardware, and the links between."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.spec.autoscaling import AutoscalingSpec
from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.experts import ExpertOptions
from penstock.spec.model import ModelSpec
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.spec.pim import PimSpec
from penstock.spec.placement import PlacementSpec
from penstock.spec.power import NodePower


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """``link_bw`` (GB/s, 2**30 bytes) and ``link_latency`` (ns), one entry per network dimension,
    innermost first. ``classes``, where given, names a measured link class per dimension; None keeps
    bandwidth and latency. ``topologies`` and ``collectives`` name ASTRA-Sim's building block and algorithm per
    dimension, ``sizes`` the NPUs in each; None: every pair linked, rings, all ranks of a group in the innermost.
    ``endpoint_delay_ns`` and ``local_mem_bytes_per_ns`` are its rings' small terms
    (:class:`~penstock.cost.building_blocks.BlockLink`)."""

    bandwidth_gb_per_s: tuple[float, ...]
    latency_ns: tuple[float, ...]
    classes: tuple[str | None, ...] | None = None
    topologies: tuple[str, ...] | None = None
    collectives: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    endpoint_delay_ns: int = 0
    local_mem_bytes_per_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTerms:
    """Time of a step on the whole model, ns, where no kernel times are known:

        base + prefill_base (if it holds a prefill chunk)
        + prefill_token * c + prefill_context * c * (h + c / 2)   c prefill tokens after h tokens of context
        + decode * d + decode_context * k                         d decodes over k tokens of context in sum

    The units are ns, ns per token, and ns per token and token of context. A stage takes its layers' share.
    """

    base_ns: float
    prefill_base_ns: float
    prefill_token_ns: float
    prefill_context_ns: float
    decode_ns: float
    decode_context_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNoise:
    """Log-normal factor on a step's time: standard deviation of its log, and the log's correlation from one
    step to the next."""

    sigma: float
    correlation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a benchmark of a real server was fitted with; see :mod:`penstock.spec.calibration`.

    ``name`` is the file, ``source`` what it was fitted to, ``error`` how far the held-out half was missed.
    ``host_step_ns`` is the engine's own time per step, ``host_to_stage_ns`` the way of a step to the first stage
    (at pp > 1), ``request_ns`` what passes between a user's sending a request and the engine's having it, and
    ``prefill_step_ns`` what a step with a prefill chunk takes beyond its kernels. The factors multiply kernel
    times; ``step`` replaces them where it is given.
    """

    name: str
    source: str
    date: str
    error: str
    hardware: str
    model: str
    model_shape: str
    dtype: str
    tp_size: int
    host_step_ns: int
    host_to_stage_ns: int
    request_ns: int
    prefill_step_ns: int
    prefill_factor: float
    decode_factor: float
    step: StepTerms | None
    noise: StepNoise | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSpec:
    """A tier of KV below the GPU: bytes, bytes per second and ns per direction, ``d2h`` from the GPU. It is ``shared``
    by nobody (instance), by a node's instances, or by all of the cluster. With ``store_bytes_per_s`` it does not lie
    in the node's memory, but behind a link that all of its users share. The rest as in
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
    shared: str = "instance"
    loads_first: bool = False
    store_bytes_per_s: int | None = None
    store_latency_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransferSpec:
    """Between prefill and decode instances, of ``kind`` pull | push. ``num_reserved_decode_tokens`` is of the latter:
    :class:`~penstock.kv_transfer.push.PushReceiver`. ``proxy_ns`` passes from a computed prompt to its request at a
    decode instance, ``notify_ns`` from the end of a read until the prefill side knows, or takes any message of the
    other kind, ``handshake_ns`` passes before a stage's first read from an instance. ``lease_s``: how long a prompt's
    blocks are kept for its reader. ``looks_at_end``: workers look for finished reads after a step's forward. A read
    of ``read_failure_rate`` of all requests fails; ``recomputes_failures``:
    :class:`~penstock.kv_transfer.pull.PullOptions`. ``decode_router`` picks decode instances; None: as prefill.
    ``policy`` decides which prompts go to prefill instances: always | conditional | ``module:Class``, the second by
    the two members after it (:class:`~penstock.engine.disaggregation_policy.Conditional`).
    """

    kind: str = "pull"
    num_reserved_decode_tokens: int = 512
    proxy_ns: int = 0
    notify_ns: int = 0
    handshake_ns: int = 0
    lease_s: int = 30
    looks_at_end: bool = False
    read_failure_rate: float = 0.0
    recomputes_failures: bool = False
    decode_router: str | None = None
    policy: str = "always"
    max_local_prefill_length: int = 0
    max_prefill_queue_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One replica: ``tp_size * pp_size`` NPUs serving one model behind one scheduler.

    ``index`` counts over the whole cluster, ``node`` is the node it stands in. ``memory_bytes`` is per NPU.
    ``layer_partition`` None means vLLM's rule, "auto" means balanced by stage cost. ``num_gpu_blocks``
    overrides the derived KV capacity and counts the null block, as vLLM does. ``dp_group`` names the ``dp_size``
    replicas that are one data-parallel deployment, of which this is number ``dp_rank``; None stands alone.
    ``token_return``: the sampled tokens cross the network from the last stage back to the first.
    ``profile_lookup``: linear | llmservingsim, how kernel times are read between measured points.
    ``engine`` says which engine's defaults hold, and where they were read; empty where none was asked for.
    ``must_hold`` is the ``max_model_len`` that somebody chose, if the engine does not start with a smaller KV pool.
    ``pd_type`` prefill | decode: it serves one part of each request. ``tier`` is where its KV goes below the GPU.
    ``placement`` is what lies outside its NPUs, ``pim`` the memory that its decodes attend in; with ``interleaves`` two
    halves of each step take turns at that.
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
    token_return: bool = True
    profile_lookup: str = "linear"
    blocking_sends: bool = False
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    dp_group: str | None = None
    dp_size: int = 1
    dp_rank: int = 0
    data_parallel: DataParallelOptions = field(default_factory=lambda: DataParallelOptions(size=1))
    calibration: Calibration | None = None
    pd_type: str | None = None
    tier: TierSpec | None = None
    placement: PlacementSpec | None = None
    pim: PimSpec | None = None
    interleaves: bool = False
    where: str = ""
    engine: str = ""
    must_hold: int | None = None

    @property
    def in_lockstep(self) -> bool:
        """Whether it runs its forwards together with the other ranks of its group: a mixture of experts does, the
        ranks of a dense model are independent (vLLM ``EngineCoreProc.run_engine_core``)."""
        return self.dp_size > 1 and self.model.moe is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """All instances, in file order, and the network between their NPUs.

    With ``shared_node_links`` all hops that leave a node share one link of the outermost dimension (the node's
    NIC); without, each NPU has links of its own, as in ASTRA-Sim. ``node_powers`` has what each node says of its power.
    With ``autoscaling`` the instances are the most replicas that there may be.

    ``notices`` say what was asked for and has no effect; ``remarks`` the same of members that any config has.
    """

    source: str
    link: LinkSpec
    instances: tuple[InstanceSpec, ...]
    shared_node_links: bool = False
    kv_transfer: KvTransferSpec = field(default_factory=KvTransferSpec)
    node_powers: tuple[NodePower | None, ...] = ()
    autoscaling: AutoscalingSpec | None = None
    notices: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def num_nodes(self) -> int:
        """Those that an instance stands in, and those before them."""
        stages = (node for one in self.instances for node in one.placement_nodes or ())
        return 1 + max((*(one.node for one in self.instances), *stages), default=0)

    @property
    def power(self) -> tuple[NodePower | None, ...]:
        """Of each node; None where the config does not say."""
        return (*self.node_powers, *(None for _ in range(self.num_nodes - len(self.node_powers))))
