"""Links and collectives: what moving bytes between NPUs costs, in integer nanoseconds.

The formulas are those of ASTRA-Sim's analytical network (``astra-network-analytical``,
``Topology::compute_communication_delay``): a message of b bytes over one link takes
trunc(latency + b / bandwidth) ns, with bandwidth in GB/s of 2**30 bytes. Its ring collectives
(``astra-sim/system/collective/Ring``) take 2(p-1) steps for an all-reduce and p-1 for an all-gather, each of
the whole divided by p, rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.spec.cluster import LinkSpec
from penstock.spec.link_classes import link_classes
from penstock.units import GIB, NS_PER_S, NS_PER_US, Int64Array, bytes_per_ns


@dataclass(frozen=True, slots=True)
class Link:
    """``bytes_per_ns`` and ``latency_ns`` of one network dimension; ``name`` for the summary."""

    bytes_per_ns: float
    latency_ns: float
    name: str = "link"

    def message_ns(self, size_bytes: int) -> int:
        """From leaving to having arrived."""
        return int(self.latency_ns + size_bytes / self.bytes_per_ns)

    def messages_ns(self, sizes_bytes: Int64Array) -> Int64Array:
        """``message_ns`` of many sizes at once, the same shape back."""
        return (self.latency_ns + sizes_bytes / self.bytes_per_ns).astype(np.int64)

    def occupancies_ns(self, sizes_bytes: Int64Array) -> Int64Array:
        """How long messages take the link: bytes over bandwidth, without the latency."""
        return (sizes_bytes / self.bytes_per_ns).astype(np.int64)

    def all_reduce_ns(self, size_bytes: int, ranks: int) -> int:
        """Ring all-reduce of ``size_bytes`` over ``ranks``: 2(p-1) messages of size/p. 0 for one rank."""
        return 2 * (ranks - 1) * self.message_ns(size_bytes // ranks) if ranks > 1 else 0

    def all_reduces_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """``all_reduce_ns`` of many sizes at once, the same shape back."""
        return 2 * (ranks - 1) * self.messages_ns(sizes_bytes // ranks)

    def all_gathers_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """Ring all-gather to ``sizes_bytes`` in the end: p-1 messages of size/p. 0 for one rank."""
        return (ranks - 1) * self.messages_ns(sizes_bytes // ranks)

    def describe(self) -> str:
        """Bandwidth and latency, for the summary."""
        return f"{self.bytes_per_ns * NS_PER_S / GIB:g} GB/s, {self.latency_ns / NS_PER_US:g} us"


@dataclass(frozen=True, slots=True)
class BlockLink(Link):
    """A dimension of a ``topology`` with a collective ``algorithm``, see :mod:`penstock.cost.building_blocks`.

    ASTRA-Sim's system layer adds small terms to a ring of S messages of m bytes: ``endpoint_delay_ns`` x (S + 1),
    and, where it reduces, three times m over ``local_bytes_per_ns`` for each of the p - 1 messages that do.
    """

    topology: str = "FullyConnected"
    algorithm: str = "ring"
    endpoint_delay_ns: int = 0
    local_bytes_per_ns: int = 0

    def message_ns(self, size_bytes: int) -> int:
        """To a neighbour."""
        return int(self._sent_ns(np.array([size_bytes]), 1, 2)[0])

    def messages_ns(self, sizes_bytes: Int64Array) -> Int64Array:
        """``message_ns`` of many sizes at once, the same shape back."""
        return self._sent_ns(sizes_bytes, 1, 2)

    def all_reduce_ns(self, size_bytes: int, ranks: int) -> int:
        """All-reduce of ``size_bytes`` over ``ranks``. 0 for one rank."""
        return int(self.all_reduces_ns(np.array([size_bytes]), ranks)[0])

    def all_reduces_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """``all_reduce_ns`` of many sizes at once, the same shape back."""
        if ranks < 2:
            return np.zeros_like(sizes_bytes)
        chunk = sizes_bytes // ranks
        if self.algorithm == "direct":
            return 2 * self._sent_ns(chunk, ranks // 2, ranks)
        if self.algorithm == "halvingDoubling" and ranks & (ranks - 1) == 0:
            return 2 * self._doubled_ns(sizes_bytes, ranks)
        if self.algorithm == "doubleBinaryTree" and ranks & (ranks - 1) == 0:
            return 2 * (ranks.bit_length() - 1) * self.messages_ns(sizes_bytes)
        small = self.endpoint_delay_ns * (2 * ranks - 1)
        if self.local_bytes_per_ns:
            small = small + 3 * (ranks - 1) * (chunk // self.local_bytes_per_ns)
        return 2 * (ranks - 1) * self.messages_ns(chunk) + small

    def all_gathers_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """All-gather to ``sizes_bytes`` in the end. 0 for one rank."""
        if ranks < 2:
            return np.zeros_like(sizes_bytes)
        chunk = sizes_bytes // ranks
        if self.algorithm == "direct":
            return self._sent_ns(chunk, ranks // 2, ranks)
        if self.algorithm == "halvingDoubling" and ranks & (ranks - 1) == 0:
            return self._doubled_ns(sizes_bytes, ranks)
        return (ranks - 1) * self.messages_ns(chunk) + self.endpoint_delay_ns * ranks

    def describe(self) -> str:
        """Shape, algorithm, bandwidth and latency, for the summary."""
        return f"{self.topology}, {self.algorithm}, {Link.describe(self)}"

    def _doubled_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        total = np.zeros_like(sizes_bytes)
        distance = 1
        while distance < ranks:
            total = total + self._sent_ns(sizes_bytes // (2 * distance), distance, ranks)
            distance *= 2
        return total

    def _sent_ns(self, sizes_bytes: Int64Array, distance: int, ranks: int) -> Int64Array:
        hops = {"Switch": 2, "Ring": max(min(distance, ranks - distance), 1)}.get(self.topology, 1)
        return (hops * self.latency_ns + sizes_bytes / self.bytes_per_ns).astype(np.int64)


@dataclass(frozen=True, slots=True)
class MeasuredLink(Link):
    """A link class with measured times by size: linear between the logarithms of size and time, beyond the last
    size at its bandwidth. An all-reduce of a number of ranks that was measured takes its own curve, others the
    ring of messages. A class of all-reduces alone leaves messages their bandwidth and latency."""

    kind: str = ""

    def message_ns(self, size_bytes: int) -> int:
        """From leaving to having arrived."""
        return int(self.messages_ns(np.array([size_bytes]))[0])

    def messages_ns(self, sizes_bytes: Int64Array) -> Int64Array:
        """``message_ns`` of many sizes at once, the same shape back."""
        curve = link_classes()[self.kind].get("message")
        if curve is None:
            return (self.latency_ns + sizes_bytes / self.bytes_per_ns).astype(np.int64)
        return _curve_ns(curve, sizes_bytes)

    def all_reduce_ns(self, size_bytes: int, ranks: int) -> int:
        """All-reduce of ``size_bytes`` over ``ranks``."""
        curve = link_classes()[self.kind].get("all_reduce", {}).get(str(ranks))
        if curve is not None:
            return int(_curve_ns(curve, np.array([size_bytes]))[0])
        return 2 * (ranks - 1) * self.message_ns(size_bytes // ranks) if ranks > 1 else 0

    def all_reduces_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """``all_reduce_ns`` of many sizes at once, the same shape back."""
        curve = link_classes()[self.kind].get("all_reduce", {}).get(str(ranks))
        if curve is not None:
            return _curve_ns(curve, sizes_bytes)
        return 2 * (ranks - 1) * self.messages_ns(sizes_bytes // ranks)

    def describe(self) -> str:
        """The class, for the summary."""
        if "message" in link_classes()[self.kind]:
            return f"measured link class {self.kind}"
        return f"measured link class {self.kind} for all-reduces, {Link.describe(self)} for messages"


def _curve_ns(curve: Mapping[str, Sequence[float]], sizes_bytes: Int64Array) -> Int64Array:
    sizes, times = np.log(curve["sizes"]), np.log(curve["ns"])
    wanted = np.log(np.maximum(sizes_bytes, 1).astype(np.float64))
    slope = max((times[-1] - times[-2]) / (sizes[-1] - sizes[-2]), 0.0)
    beyond = np.maximum(wanted - sizes[-1], 0.0) * slope
    return np.exp(np.interp(wanted, sizes, times) + beyond).astype(np.int64)


def inner_link(link: LinkSpec) -> Link:
    """The innermost dimension: between the NPUs of a node."""
    return _dimension(link, 0)


def outer_link(link: LinkSpec) -> Link:
    """The outermost dimension: between nodes (the innermost where there is only one)."""
    return _dimension(link, -1)


def _dimension(link: LinkSpec, index: int) -> Link:
    kind = link.classes[index] if link.classes else None
    curve = None if kind is None else link_classes()[kind].get("message")
    if kind is not None and curve is not None:
        bandwidth = curve["sizes"][-1] / max(curve["ns"][-1] - curve["ns"][0], 1.0)
        return MeasuredLink(bandwidth, curve["ns"][0], kind=kind)
    bandwidth = bytes_per_ns(link.bandwidth_gb_per_s[index])
    if kind is not None:
        return MeasuredLink(bandwidth, link.latency_ns[index], kind=kind)
    if link.topologies or link.collectives or link.endpoint_delay_ns or link.local_mem_bytes_per_ns:
        return BlockLink(
            bandwidth,
            link.latency_ns[index],
            topology=link.topologies[index] if link.topologies else "FullyConnected",
            algorithm=link.collectives[index] if link.collectives else "ring",
            endpoint_delay_ns=link.endpoint_delay_ns,
            local_bytes_per_ns=link.local_mem_bytes_per_ns,
        )
    return Link(bandwidth, link.latency_ns[index])
