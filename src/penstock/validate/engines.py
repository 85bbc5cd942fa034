"""The simulator's own engine, as the comparisons with recordings want it."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.engine.replay_disaggregated import DisaggregatedReplay, ReplayInstance, replay_disaggregated
from penstock.engine.replay_offloading import OffloadingReplay, replay_offloading
from penstock.kv_transfer.pull import PullOptions
from penstock.network.links import Link, Network
from penstock.units import NS_PER_S
from penstock.validate.disaggregated_setup import DisaggregatedSetup, InstanceSetup, TransferOptions
from penstock.validate.offloading import OffloadingSetup


@dataclass(frozen=True, slots=True)
class RecordedWire:
    """The recordings' wire: a read takes its links for latency + bytes / bandwidth."""

    transfer: TransferOptions
    instances: tuple[InstanceSetup, ...]
    network: Network

    def links(self, source: int, target: int, stage: int) -> tuple[Link, ...]:
        """See :class:`~penstock.kv_transfer.pull_workers.ReadPaths`."""
        names = {
            "none": (),
            "pair": (f"{source} to {target}",),
            "d_stage": (f"to {target}, stage {stage}",),
            "both": (f"out of {source}", f"into {target}"),
        }
        return tuple(map(self.network.shared_link, names[self.transfer.serialise]))

    def read_ns(self, source: int, target: int, stage: int, blocks: int) -> tuple[int, int, int]:
        """See :class:`~penstock.kv_transfer.pull_workers.ReadPaths`."""
        reader = self.instances[target]
        tokens = blocks * reader.options.block_size
        size = tokens * self.transfer.kv_bytes_per_token // (len(reader.cost.hops) + 1)
        time = self.transfer.latency_ns - -size * NS_PER_S // self.transfer.bandwidth_bytes_per_s
        return size, time, time


def penstock_disaggregated(setup: DisaggregatedSetup, *, exact_only: bool = False) -> DisaggregatedReplay:
    """Serve the requests of a recording of prefill and decode apart; ``exact_only`` decides request by request."""
    instances = [
        ReplayInstance(
            each.name,
            each.prefills,
            each.options,
            each.num_gpu_blocks,
            each.cost,
            PullOptions(each.kv_role, each.recomputes_failures, each.lease_s, each.looks_at_end),
            each.tier,
        )
        for each in setup.instances
    ]
    return replay_disaggregated(
        instances,
        setup.requests,
        make_paths=lambda network: RecordedWire(setup.transfer, setup.instances, network),
        proxy_ns=setup.proxy_ns,
        notify_ns=setup.transfer.notify_ns,
        handshake_ns=setup.transfer.handshake_ns,
        failing=setup.transfer.failing,
        direct=setup.direct,
        aborts=setup.aborts,
        exact_only=exact_only,
    )


def penstock_offloading(setup: OffloadingSetup, *, exact_only: bool = False) -> OffloadingReplay:
    """Serve the requests of a recording with a CPU tier; ``exact_only`` decides request by request."""
    return replay_offloading(
        setup.options,
        setup.num_gpu_blocks,
        setup.cost,
        setup.tier,
        setup.requests,
        looks_at_end=setup.looks_at_end,
        exact_only=exact_only,
    )
