"""The ways of KV between the instances of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.cost.network import Link as LinkCost
from penstock.cost.network import inner_link, outer_link
from penstock.engine.build import BuiltInstance
from penstock.network.links import Link, Network
from penstock.spec.cluster import ClusterSpec


@dataclass(frozen=True, slots=True)
class ClusterPaths:
    """A :class:`~penstock.kv_transfer.pull_workers.ReadPaths`.

    A read leaves the stages of its source that hold the reader's layers and enters the reading stage, each through the
    ports of that stage's NPUs: one read at a time per port, latency beside it. The NPUs of a stage move their shares
    side by side; where the two sides differ in ``tp_size``, the smaller one's ports are the narrow place. With
    ``shared_node_links`` all that leaves a node goes one after the other over its one link.
    """

    cluster: ClusterSpec
    built: Sequence[BuiltInstance]
    network: Network

    def links(self, source: int, target: int, stage: int) -> tuple[Link, ...]:
        """See :class:`~penstock.kv_transfer.pull_workers.ReadPaths`."""
        names = [f"KV out of instance {source}, stage {one}" for one in self._sources(source, target, stage)]
        names.append(f"KV into instance {target}, stage {stage}")
        if self.cluster.shared_node_links and self._crosses_nodes(source, target, stage):
            nodes = {self._node(source, one) for one in self._sources(source, target, stage)}
            names += [f"out of node {node}" for node in sorted(nodes)]
        return tuple(map(self.network.shared_link, names))

    def read_ns(self, source: int, target: int, stage: int, blocks: int) -> tuple[int, int, int]:
        """See :class:`~penstock.kv_transfer.pull_workers.ReadPaths`."""
        reader, sender = self.built[target], self.built[source]
        size = blocks * reader.deployment.memory.stages[stage].kv_bytes_per_block * reader.spec.tp_size
        crosses = self._crosses_nodes(source, target, stage)
        link: LinkCost = (outer_link if crosses else inner_link)(self.cluster.link)
        side_by_side = min(reader.spec.tp_size, sender.spec.tp_size)
        if crosses and self.cluster.shared_node_links:
            side_by_side = 1
        share = -(-size // side_by_side)
        arrival_ns = link.message_ns(share)
        return size, max(arrival_ns - int(link.latency_ns), 0), arrival_ns

    def _crosses_nodes(self, source: int, target: int, stage: int) -> bool:
        here = self._node(target, stage)
        return any(self._node(source, one) != here for one in self._sources(source, target, stage))

    def _node(self, instance: int, stage: int) -> int:
        spec = self.built[instance].spec
        return spec.node if spec.placement_nodes is None else spec.placement_nodes[stage]

    def _sources(self, source: int, target: int, stage: int) -> range:
        """Stages of ``source`` that hold layers of the reading stage, both split evenly."""
        stages, readers = self.built[source].spec.pp_size, self.built[target].spec.pp_size
        return range(stage * stages // readers, -(-(stage + 1) * stages // readers))
