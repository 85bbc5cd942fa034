"""Tokens to the ranks of their experts and back, by backend, in nanoseconds.

Sources: vLLM ``distributed/device_communicators/all2all.py`` for what is sent; DeepEP's README and vLLM's own calls
on 8 H100 (AIConfigurator 0.12.0, ``moe_a2a_perf``) for what DeepEP adds to a link: a floor per call and a rate that
its 20 multiprocessors do not exceed whatever the link does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.cost.network import Link
from penstock.spec.experts import All2AllBackend
from penstock.spec.layers import MoeMlp
from penstock.units import Int64Array

_ROUTE_BYTES = 8
"""Of a pair: the expert's number and its weight, 32 bits each."""

_FP8_BYTES = 1 + 4 / 128
"""Of a dispatched element with DeepEP: fp8 and a 32-bit scale for each 128."""

_HT_FLOOR_NS = (295_000, 80_000)
_LL_FLOOR_NS = (60_000, 48_000)
"""(dispatch, combine) of a handful of tokens: launches, and with high throughput the host's wait for counts. Half of it
stays where the transfer takes longer."""

_HT_BYTES_PER_NS = (150.0, 150.0)
_LL_BYTES_PER_NS = (95.0, 190.0)
"""What a rank sends at most inside a node."""


def ranks_inside(peers: int, nodes: int) -> int:
    """Of ``peers``, those on one node."""
    return -(-peers // min(nodes, peers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A layer's tokens on their way between the ``ranks`` NPUs of a stage that stand on ``nodes`` nodes.

    ``tensor_ranks`` of them hold the same tokens: with ``sequence_parallel`` each takes its share of them and an
    all-gather over them follows the layer; without, each gathers all tokens from its peers in the other replicas.
    Collectives inside a node go over ``tensor`` among the tensor ranks, over ``peers`` among those that gather;
    None is ``inner``.
    """

    backend: All2AllBackend
    moe: MoeMlp
    hidden: int
    activation_bytes: int
    ranks: int
    tensor_ranks: int
    nodes: int
    sequence_parallel: bool
    inner: Link
    outer: Link
    tensor: Link | None = None
    peers: Link | None = None

    def total_ns(self, tokens: Int64Array, most: Int64Array) -> Int64Array:
        """Dispatch and combine of ``tokens`` over all replicas, ``most`` of them in the largest; one shape."""
        if self.backend == "allgather_reducescatter":
            times = self._gather_ns(tokens)
        else:
            own = -(-most // self.tensor_ranks) if self.sequence_parallel else most
            low_latency = self.backend == "deepep_low_latency"
            times = self._pairs_ns(own) if low_latency else self._tokens_ns(own)
        if self.sequence_parallel:
            rows = self.hidden * self.activation_bytes
            times = times + (self.tensor or self.inner).all_gathers_ns(most * rows, self.tensor_ranks)
        return times

    def _gather_ns(self, tokens: Int64Array) -> Int64Array:
        """All-gather of hidden states and routes, reduce-scatter of hidden states: each of the gathered size over the
        group, first between nodes, then inside each."""
        peers = self.ranks if self.sequence_parallel else self.ranks // self.tensor_ranks
        row = self.hidden * self.activation_bytes
        there = row + _ROUTE_BYTES * self.moe.experts_per_token
        return self._collective_ns(tokens * there, peers) + self._collective_ns(tokens * row, peers)

    def _collective_ns(self, size_bytes: Int64Array, peers: int) -> Int64Array:
        nodes = min(self.nodes, peers)
        inside = ranks_inside(peers, self.nodes)
        across = (nodes - 1) * self.outer.messages_ns(size_bytes // (nodes * inside)) if nodes > 1 else 0
        return across + (self.peers or self.inner).all_gathers_ns(size_bytes, inside)

    def _tokens_ns(self, own: Int64Array) -> Int64Array:
        """High throughput: a token goes once to each other node, and from there to each rank that has an expert of
        it."""
        picks = self.moe.experts_per_token
        inside = self.ranks // self.nodes
        far = self._distinct(self._reachable_nodes(), picks) * (self.nodes - 1) / self.nodes
        near = self._distinct(self._reachable_nodes() * inside, picks) * (inside - 1) / inside
        return self._both_ns(own, (near, far), _HT_FLOOR_NS, _HT_BYTES_PER_NS)

    def _pairs_ns(self, own: Int64Array) -> Int64Array:
        """Low latency: each pair by itself."""
        picks = self.moe.experts_per_token
        far = picks * (self.nodes - 1) / self.nodes
        near = (picks - far) * (1 - self.nodes / self.ranks)
        return self._both_ns(own, (near, far), _LL_FLOOR_NS, _LL_BYTES_PER_NS)

    def _both_ns(
        self,
        own: Int64Array,
        copies: tuple[float, float],
        floors_ns: tuple[int, int],
        most_bytes_per_ns: tuple[float, float],
    ) -> Int64Array:
        """Dispatch in fp8 and combine in the activations' width; copies of a token (inside the node, to others)
        travel at once over their links."""
        near, far = copies
        total = np.zeros_like(own)
        widths = (_FP8_BYTES, self.activation_bytes)
        for floor_ns, width, most in zip(floors_ns, widths, most_bytes_per_ns, strict=True):
            size = own * (self.hidden * width)
            inside = near * size / min(self.inner.bytes_per_ns, most)
            across = far * size / self.outer.bytes_per_ns + (self.outer.latency_ns if far else 0.0)
            taken = np.maximum(floor_ns, floor_ns / 2 + np.maximum(inside, across))
            total = total + np.where(own > 0, taken, 0.0).astype(np.int64)
        return total

    def _reachable_nodes(self) -> int:
        """Nodes that a token's experts may stand on: limited where the router picks groups first."""
        limited = self.moe.top_groups if self.moe.expert_groups > 1 else self.nodes
        return min(self.nodes, limited)

    @staticmethod
    def _distinct(places: int, picks: int) -> float:
        """Of ``places``, those that ``picks`` uniform picks fall on, expected."""
        return places * (1.0 - (1.0 - 1.0 / places) ** picks)
