"""The cluster a user described: instances (replicas) of a model on hardware, and the links between."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.experts import ExpertOptions
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
class InstanceSpec:
    """One replica: ``tp_size * pp_size`` NPUs serving one model behind one scheduler.

    ``index`` counts over the whole cluster, ``node`` is the node it stands in. ``memory_bytes`` is per NPU.
    ``layer_partition`` None means vLLM's rule, "auto" means balanced by stage cost. ``num_gpu_blocks``
    overrides the derived KV capacity and counts the null block, as vLLM does. ``dp_group`` names the ``dp_size``
    replicas that are one data-parallel deployment, of which this is number ``dp_rank``; None stands alone.
    ``engine`` says which engine's defaults hold, and where they were read; empty where none was asked for.
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
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    dp_group: str | None = None
    dp_size: int = 1
    dp_rank: int = 0
    data_parallel: DataParallelOptions = field(default_factory=lambda: DataParallelOptions(size=1))
    where: str = ""
    engine: str = ""

    @property
    def in_lockstep(self) -> bool:
        """Whether it runs its forwards together with the other ranks of its group: a mixture of experts does, the
        ranks of a dense model are independent (vLLM ``EngineCoreProc.run_engine_core``)."""
        return self.dp_size > 1 and self.model.moe is not None


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
    notices: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
