"""ASTRA-Sim's analytical building blocks: what a dimension looks like, and how collectives go over it.

A message takes ``hops x latency + bytes / bandwidth`` (``astra-network-analytical``, ``BasicTopology``): one hop
between any two of ``FullyConnected``, two through a ``Switch``, the shorter way round a ``Ring``. Nothing contends: the
network is its congestion-unaware one. Collectives of p ranks (``astra-sim/system/collective``):

    ring             all-reduce 2(p-1) messages of size/p to the neighbour, one after the other
    direct           twice size/p to every other rank at once: the farthest says how long
    halvingDoubling  size/2, size/4, ... at distances 1, 2, ..., and back
    doubleBinaryTree all of it up log2(p) levels of one of two trees, and down again; all-gathers go as rings

Where p is no power of two the last two are rings.

Over several dimensions each reduces what the one inside it has left, and gathers on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.cost.network import Link, inner_link
from penstock.errors import Problem, UserError
from penstock.spec.cluster import LinkSpec
from penstock.units import Int64Array


@dataclass(frozen=True, slots=True)
class GroupLink(Link):
    """Collectives over several dimensions, innermost first: ``links`` with the ranks in each, ``sizes``."""

    links: tuple[Link, ...] = ()
    sizes: tuple[int, ...] = ()

    def all_reduce_ns(self, size_bytes: int, ranks: int) -> int:
        """All-reduce of ``size_bytes``; ``ranks`` is the product of ``sizes``."""
        return int(self.all_reduces_ns(np.array([size_bytes]), ranks)[0])

    def all_reduces_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """``all_reduce_ns`` of many sizes at once, the same shape back."""
        total = np.zeros_like(sizes_bytes)
        for link, own, left in self._levels(sizes_bytes):
            total = total + link.all_reduces_ns(left, own)
        return total

    def all_gathers_ns(self, sizes_bytes: Int64Array, ranks: int) -> Int64Array:
        """All-gather to ``sizes_bytes`` in the end, from the outermost dimension in."""
        total = np.zeros_like(sizes_bytes)
        for link, own, left in self._levels(sizes_bytes):
            total = total + link.all_gathers_ns(left, own)
        return total

    def describe(self) -> str:
        """The dimensions, for the summary."""
        told = zip(self.sizes, self.links, strict=True)
        return ", then ".join(f"{size} over {link.describe()}" for size, link in told)

    def _levels(self, sizes_bytes: Int64Array) -> Iterator[tuple[Link, int, Int64Array]]:
        left = sizes_bytes
        for link, own in zip(self.links, self.sizes, strict=True):
            yield link, own, left
            left = left // own


def group_link(link: LinkSpec, ranks: int, where: str, apart: int = 1) -> Link:
    """What a group of ``ranks``, each ``apart`` NPUs from the next, communicates over: the dimension that it begins in,
    or as many as it fills.

    Raises:
        UserError: the group does not fill its dimensions evenly; ``where`` is the instance.
    """
    if link.sizes is None:
        return inner_link(link)
    shares = _shares(link.sizes, ranks, apart)
    if shares is None:
        fits = " x ".join(map(str, link.sizes))
        group = f"tp_size {ranks}" if apart == 1 else f"a group of {ranks} every {apart} NPUs"
        raise UserError([Problem(where, f"{group} does not fill npus_per_dimension ({fits}) evenly")])
    links = tuple(inner_link(_from(link, place)) for place in shares)
    if len(links) < 2:
        return links[0] if links else inner_link(link)
    first = links[0]
    sizes = tuple(shares.values())
    return GroupLink(first.bytes_per_ns, first.latency_ns, first.name, links=links, sizes=sizes)


def _shares(sizes: tuple[int, ...], ranks: int, apart: int) -> dict[int, int] | None:
    """Ranks of a group in each dimension that it has more than one in, by the dimension's place; None where it does not
    fill them evenly."""
    found: dict[int, int] = {}
    for place, size in enumerate(sizes):
        skipped = min(apart, size)
        if size % skipped or apart % skipped:
            return None
        apart //= skipped
        here = size // skipped
        if ranks > here and ranks % here:
            return None
        if min(ranks, here) > 1:
            found[place] = min(ranks, here)
            ranks //= found[place]
    return found if ranks == 1 and apart == 1 else None


def _from(link: LinkSpec, place: int) -> LinkSpec:
    """The dimensions from ``place`` on."""
    return LinkSpec(
        bandwidth_gb_per_s=link.bandwidth_gb_per_s[place:],
        latency_ns=link.latency_ns[place:],
        classes=link.classes and link.classes[place:],
        topologies=link.topologies and link.topologies[place:],
        collectives=link.collectives and link.collectives[place:],
        endpoint_delay_ns=link.endpoint_delay_ns,
        local_mem_bytes_per_ns=link.local_mem_bytes_per_ns,
    )
