"""One deployment of a search: a point of its space, and the cluster config that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from penstock.spec.hardware import HardwareSpec, find_hardware
from penstock.units import GIB

GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPoint:
    """What a search chooses. None means what the engine would choose itself. ``partition`` is ``even`` (vLLM's
    rule), ``balanced`` or the layers of each stage; ``network`` names one of the search's networks."""

    hardware: str
    tp: int
    pp: int
    replicas: int
    partition: str | tuple[int, ...] = "even"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_in_flight: int | None = None
    policy: str = "vllm"
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    async_scheduling: bool = False
    router: str = "LOAD"
    network: str = "default"

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return self.tp * self.pp * self.replicas

    @property
    def label(self) -> str:
        """``2 x TP4 PP2`` and whatever is not the engine's own choice."""
        text = (
            f"TP{self.tp}" if self.pp == 1 else f"PP{self.pp}" if self.tp == 1 else f"TP{self.tp} PP{self.pp}"
        )
        parts = [self.hardware, f"{self.replicas} x {text}" if self.replicas > 1 else text]
        if self.partition != "even":
            cut = self.partition if isinstance(self.partition, str) else "-".join(map(str, self.partition))
            parts.append(cut)
        for name, value in (
            ("seqs", self.max_num_seqs),
            ("tokens", self.max_num_batched_tokens),
            ("in flight", self.max_in_flight),
            ("", self.dtype),
            ("kv", self.kv_cache_dtype),
        ):
            if value is not None:
                parts.append(f"{name} {value}".strip())
        parts += [self.policy] if self.policy != "vllm" else []
        parts += ["async"] if self.async_scheduling else []
        parts += [self.router] if self.router != "LOAD" else []
        parts += [self.network] if self.network != "default" else []
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DesignPoint:
        """What :meth:`to_json` wrote, also after JSON made lists of tuples."""
        members: dict[str, Any] = dict(data)
        if isinstance(members["partition"], list):
            members["partition"] = tuple(members["partition"])
        return cls(**members)


@dataclass(frozen=True, slots=True)
class Network:
    """Links per GPU in GB/s of 2**30 bytes, and ns: inside a node, and between nodes."""

    inside: tuple[float, float]
    between: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all points share. ``npu_mem`` gives memory for hardware that the catalogue lacks, as in a cluster
    config; ``engine`` holds members of every instance."""

    model: str
    gpus_per_node: int
    networks: Mapping[str, Network]
    npu_mem: Mapping[str, Mapping[str, float]]
    engine: Mapping[str, Any]


DEFAULT_BETWEEN = (50 * GIGA / GIB, 5000.0)
"""Between nodes, where nothing is given: 400 Gbit/s per GPU and 5 us."""

DEFAULT_INSIDE_LATENCY_NS = 1000.0


def default_network(hardware: HardwareSpec) -> Network:
    """The catalogue's link inside a node, 400 Gbit/s per GPU between."""
    return Network((hardware.link.bytes_per_s / GIB, DEFAULT_INSIDE_LATENCY_NS), DEFAULT_BETWEEN)


def straddles(point: DesignPoint, site: Site) -> bool:
    """Whether a stage's GPUs stand on several nodes, so that its collectives cross them."""
    return point.tp > site.gpus_per_node


def spans_nodes(point: DesignPoint, site: Site) -> bool:
    """Whether any replica stands on several nodes, so that the link between them matters."""
    size = point.tp * point.pp
    firsts = [replica * size for replica in range(point.replicas)]
    return any(first // site.gpus_per_node != (first + size - 1) // site.gpus_per_node for first in firsts)


def settled(point: DesignPoint, site: Site) -> DesignPoint:
    """The point with its network named by the first one that is the same to it: where no replica spans nodes the
    link between them does not matter, where every stage does the one inside them seldom."""
    own = site.networks.get(point.network)
    if own is None:
        return point
    matters = _link_choice(point, site)
    alike = (name for name, network in site.networks.items() if matters(network) == matters(own))
    return replace(point, network=next(alike))


def _link_choice(point: DesignPoint, site: Site) -> Callable[[Network], object]:
    """What of a network reaches the point's stages."""
    if straddles(point, site):
        ring = site.gpus_per_node
        return lambda network: (_ring_over_nodes(network, ring), network.between)
    if spans_nodes(point, site):
        return lambda network: network
    return lambda network: network.inside


def misplaced(point: DesignPoint, site: Site) -> str | None:
    """Why the stages cannot be laid out node by node, or None."""
    per_node, tp = site.gpus_per_node, point.tp
    if per_node % tp and tp % per_node:
        return f"tp {tp} neither divides nor fills nodes of {per_node} GPUs"
    return None


def cluster_config(point: DesignPoint, site: Site) -> dict[str, Any]:
    """The point in LLMServingSim's shape, as ``penstock run`` reads it.

    GPUs are taken node by node, stage after stage, replica after replica. Where a stage straddles nodes its rings
    cross them, one over each GPU's own link (as NCCL's do), so they have the bandwidth of all links of a node
    together and the latency of one.
    """
    per_node = site.gpus_per_node
    nodes_used = -(-point.gpus // per_node)
    instances: list[list[dict[str, Any]]] = [[] for _ in range(nodes_used)]
    for replica in range(point.replicas):
        first = replica * point.tp * point.pp
        nodes = [(first + stage * point.tp) // per_node for stage in range(point.pp)]
        instances[nodes[0]].append(_instance(point, site, nodes))
    network = site.networks.get(point.network) or _catalogue_network(point.hardware)
    inner = _ring_over_nodes(network, per_node) if straddles(point, site) else network.inside
    links = [inner, network.between]
    return {
        "num_nodes": nodes_used,
        "link_bw": [bandwidth for bandwidth, _ in links],
        "link_latency": [latency for _, latency in links],
        "nodes": [{"num_instances": len(entries), "instances": entries} for entries in instances],
    }


def _ring_over_nodes(network: Network, gpus_per_node: int) -> tuple[float, float]:
    bandwidth, latency = network.between
    return min(network.inside[0], bandwidth * gpus_per_node), max(latency, network.inside[1])


def _instance(point: DesignPoint, site: Site, nodes: list[int]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_name": site.model,
        "hardware": point.hardware,
        "npu_mem": _memory(point.hardware, site),
        "num_npus": point.tp * point.pp,
        "tp_size": point.tp,
        "pp_size": point.pp,
        **site.engine,
    }
    if point.pp > 1 and len(set(nodes)) > 1:
        config["placement_nodes"] = nodes
    if point.partition != "even":
        config["pp_layer_partition"] = "auto" if point.partition == "balanced" else list(point.partition)
    chosen = {
        "max_num_seqs": point.max_num_seqs,
        "max_num_batched_tokens": point.max_num_batched_tokens,
        "max_in_flight": point.max_in_flight,
        "dtype": point.dtype,
        "kv_cache_dtype": point.kv_cache_dtype,
        "policy": point.policy if point.policy != "vllm" else None,
        "async_scheduling": point.async_scheduling or None,
    }
    return {**config, **{name: value for name, value in chosen.items() if value is not None}}


def _memory(label: str, site: Site) -> dict[str, float]:
    given = site.npu_mem.get(label)
    if given is not None:
        return dict(given)
    hardware = find_hardware(label)
    assert hardware is not None, "checked with the search's file"
    return {
        "mem_size": hardware.capacity_bytes / GIB,
        "mem_bw": hardware.memory_bytes_per_s / GIGA,
        "mem_latency": 0,
    }


def _catalogue_network(label: str) -> Network:
    hardware = find_hardware(label)
    assert hardware is not None, "checked with the search's file"
    return default_network(hardware)
