"""The ways of KV between the instances of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.cost.network import Link as LinkCost
from penstock.cost.network import inner_link, outer_link
from penstock.engine.build import BuiltInstance
from penstock.kv_transfer.push import PushWay
from penstock.network.links import Link, Network
from penstock.spec.cluster import ClusterSpec


@dataclass(frozen=True, slots=True)
class ClusterPaths:
    """:class:`~penstock.kv_transfer.pull_workers.ReadPaths`, and
    :class:`~penstock.kv_transfer.push.PushPaths`, between all instances of a cluster.

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
        size = blocks * self._block_bytes(target, stage)
        crosses = self._crosses_nodes(source, target, stage)
        return size, *self._times_ns(source, target, size, crosses=crosses)

    def push_ways(self, source: int, target: int, blocks: int) -> tuple[PushWay, ...]:
        """See :class:`~penstock.kv_transfer.push.PushPaths`. A push takes the ports of its two stages, as a read."""
        stages, readers = self.built[source].spec.pp_size, self.built[target].spec.pp_size
        ways: list[PushWay] = []
        for reader in range(readers):
            size = blocks * self._block_bytes(target, reader)
            for stage in self._sources(source, target, reader):
                # Both cut the model evenly: what they share, in parts of the reader's layers times ``stages``.
                shared = min((stage + 1) * readers, (reader + 1) * stages) - max(
                    stage * readers, reader * stages
                )
                part = -(-size * shared // stages)
                crosses = self._node(source, stage) != self._node(target, reader)
                names = [
                    f"KV out of instance {source}, stage {stage}",
                    f"KV into instance {target}, stage {reader}",
                ]
                if crosses and self.cluster.shared_node_links:
                    names.append(f"out of node {self._node(source, stage)}")
                links = tuple(map(self.network.shared_link, names))
                ways.append(
                    PushWay(reader, links, part, *self._times_ns(source, target, part, crosses=crosses))
                )
        return tuple(ways)

    def _block_bytes(self, instance: int, stage: int) -> int:
        """A block of a stage's layers, over all its NPUs."""
        built = self.built[instance]
        return built.deployment.memory.stages[stage].kv_bytes_per_block * built.spec.tp_size

    def _times_ns(self, source: int, target: int, size: int, *, crosses: bool) -> tuple[int, int]:
        """How long a transfer between two stages takes its links, and how long it takes."""
        link: LinkCost = (outer_link if crosses else inner_link)(self.cluster.link)
        side_by_side = min(self.built[target].spec.tp_size, self.built[source].spec.tp_size)
        if crosses and self.cluster.shared_node_links:
            side_by_side = 1
        arrival_ns = link.message_ns(-(-size // side_by_side))
        return max(arrival_ns - int(link.latency_ns), 0), arrival_ns

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
