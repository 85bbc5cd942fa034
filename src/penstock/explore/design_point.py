"""One deployment of a search: a point of its space, and the cluster config that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from penstock.spec.hardware import HardwareSpec, find_hardware
from penstock.units import GIB

GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas that are alike: ``ranks`` in lock-step each, every rank ``tp`` x ``pp`` GPUs."""

    hardware: str
    tp: int
    pp: int
    replicas: int
    ranks: int = 1

    @property
    def gpus_per_replica(self) -> int:
        """Of all its ranks."""
        return self.tp * self.pp * self.ranks

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return self.gpus_per_replica * self.replicas

    @property
    def label(self) -> str:
        """``2 x TP4 PP2``, ``DP8``"""
        degrees = [("TP", self.tp), ("PP", self.pp), ("DP", self.ranks)]
        told = " ".join(f"{name}{size}" for name, size in degrees if size > 1) or "TP1"
        return f"{self.replicas} x {told}" if self.replicas > 1 else told


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPoint:
    """What a search chooses. None means what the engine would choose itself. ``partition`` is ``even`` (vLLM's
    rule), ``balanced`` or the layers of each stage; ``network`` names one of the search's networks.

    A replica is ``dp`` data-parallel ranks in lock-step of ``tp`` x ``pp`` GPUs each; ``ep`` is over how many GPUs of a
    stage experts are shared out. With ``prefill_replicas`` above 0 prompts are computed apart, by so many replicas of
    ``prefill_tp`` x ``prefill_pp`` GPUs of ``prefill_hardware``; the others then decode.
    """

    hardware: str
    tp: int
    pp: int
    replicas: int
    dp: int = 1
    ep: int | None = None
    prefill_replicas: int = 0
    prefill_hardware: str | None = None
    prefill_tp: int | None = None
    prefill_pp: int | None = None
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
    def pool(self) -> Pool:
        """The replicas that serve whole requests, or decode."""
        return Pool(self.hardware, self.tp, self.pp, self.replicas, self.dp)

    @property
    def prefill_pool(self) -> Pool | None:
        """The replicas that compute prompts for the others, where there are any."""
        if not self.prefill_replicas:
            return None
        hardware = self.prefill_hardware or self.hardware
        return Pool(hardware, self.prefill_tp or self.tp, self.prefill_pp or self.pp, self.prefill_replicas)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All, prefill first: in the order in which they take GPUs."""
        prefill = self.prefill_pool
        return (self.pool,) if prefill is None else (prefill, self.pool)

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return sum(pool.gpus for pool in self.pools)

    def usd_per_hour(self, prices: Mapping[str, float]) -> float | None:
        """Of all GPUs at ``prices`` per GPU and hour; None where one of them is missing."""
        if any(pool.hardware not in prices for pool in self.pools):
            return None
        return sum(prices[pool.hardware] * pool.gpus for pool in self.pools)

    @property
    def label(self) -> str:
        """``2 x TP4 PP2`` and whatever is not the engine's own choice."""
        prefill = self.prefill_pool
        parts = [self.hardware, self.pool.label]
        if prefill is not None:
            apart = f" of {prefill.hardware}" if prefill.hardware != self.hardware else ""
            parts[1] = f"decode {self.pool.label} + prefill {prefill.label}{apart}"
        if self.partition != "even":
            cut = self.partition if isinstance(self.partition, str) else "-".join(map(str, self.partition))
            parts.append(cut)
        for name, value in (
            ("EP", self.ep),
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
    return any(pool.tp > site.gpus_per_node for pool in point.pools)


def spans_nodes(point: DesignPoint, site: Site) -> bool:
    """Whether any replica stands on several nodes, or KV goes from one to another, so that the link between them
    matters."""
    per_node = site.gpus_per_node
    if len(point.pools) > 1:
        return point.gpus > per_node or len({pool.hardware for pool in point.pools}) > 1
    size = point.pool.gpus_per_replica
    firsts = [replica * size for replica in range(point.replicas)]
    return any(first // per_node != (first + size - 1) // per_node for first in firsts)


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
    per_node = site.gpus_per_node
    for pool in point.pools:
        if per_node % pool.tp and pool.tp % per_node:
            return f"tp {pool.tp} neither divides nor fills nodes of {per_node} GPUs"
    return None


def cluster_config(point: DesignPoint, site: Site) -> dict[str, Any]:
    """The point in LLMServingSim's shape, as ``penstock run`` reads it.

    GPUs are taken node by node, stage after stage, rank after rank, replica after replica, prefill before decode; other
    hardware begins a node of its own. Where a stage straddles nodes its rings cross them, one over each GPU's own link
    (as NCCL's do), so they have the bandwidth of all links of a node together and the latency of one.
    """
    per_node = site.gpus_per_node
    instances: list[list[dict[str, Any]]] = []
    first = 0
    before = point.pools[0].hardware
    for pool, role in zip(point.pools, ("prefill", "decode")[-len(point.pools) :], strict=True):
        if pool.hardware != before:
            first, before = -(-first // per_node) * per_node, pool.hardware
        for replica in range(pool.replicas):
            for _ in range(pool.ranks):
                nodes = [(first + stage * pool.tp) // per_node for stage in range(pool.pp)]
                instances += [[] for _ in range(nodes[-1] + 1 - len(instances))]
                instances[nodes[0]].append(_instance(point, pool, role, replica, site, nodes))
                first += pool.tp * pool.pp
    instances += [[] for _ in range(-(-first // per_node) - len(instances))]
    network = site.networks.get(point.network) or _catalogue_network(point)
    inner = _ring_over_nodes(network, per_node) if straddles(point, site) else network.inside
    links = [inner, network.between]
    return {
        "num_nodes": len(instances),
        "link_bw": [bandwidth for bandwidth, _ in links],
        "link_latency": [latency for _, latency in links],
        "nodes": [{"num_instances": len(entries), "instances": entries} for entries in instances],
    }


def _ring_over_nodes(network: Network, gpus_per_node: int) -> tuple[float, float]:
    bandwidth, latency = network.between
    return min(network.inside[0], bandwidth * gpus_per_node), max(latency, network.inside[1])


def _instance(
    point: DesignPoint, pool: Pool, role: str, replica: int, site: Site, nodes: list[int]
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_name": site.model,
        "hardware": pool.hardware,
        "npu_mem": _memory(pool.hardware, site),
        "num_npus": pool.tp * pool.pp,
        "tp_size": pool.tp,
        "pp_size": pool.pp,
        **site.engine,
    }
    if pool.pp > 1 and len(set(nodes)) > 1:
        config["placement_nodes"] = nodes
    if pool.ranks > 1:
        config["dp_group"] = f"replica {replica}"
    if point.prefill_replicas:
        config["pd_type"] = role
    if point.partition != "even" and pool.pp > 1:
        config["pp_layer_partition"] = "auto" if point.partition == "balanced" else list(point.partition)
    chosen = {
        "ep_size": point.ep,
        "enable_expert_parallel": False if point.ep == 1 else None,
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


def _catalogue_network(point: DesignPoint) -> Network:
    """Of several kinds of hardware the slowest link inside a node: a config has one for all."""
    found = [find_hardware(pool.hardware) for pool in point.pools]
    known = [default_network(hardware) for hardware in found if hardware is not None]
    assert len(known) == len(found), "checked with the search's file"
    return min(known, key=lambda network: network.inside[0])
