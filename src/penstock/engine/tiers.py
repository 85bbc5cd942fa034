"""The tiers of KV of a cluster: who has one alone, and who shares one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.engine.build import BuiltInstance
from penstock.engine.executor import HoldBack
from penstock.errors import Problem, UserError
from penstock.network.links import Network
from penstock.scheduler.kv_cache import BlockKeys
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.protocol import EngineScheduler
from penstock.spec.cluster import TierSpec
from penstock.units import GIB

if TYPE_CHECKING:
    from penstock.kv_transfer.copy_workers import StoreLink
    from penstock.kv_transfer.cpu_tier import CPUTier
    from penstock.kv_transfer.step_workers import StepWorkers
    from penstock.scheduler.guarded_kv_cache import GuardedKVCache
    from penstock.spec.kv_tier import TierOptions


@dataclass(frozen=True, slots=True)
class ReplicaParts:
    """What a replica is made of: its connector, which has a tier's beside it where there is one, and the workers; with
    a tier also the pool, and whom to ask before a step starts."""

    connector: KVConnector | None
    workers: StepWorkers | None
    kv: GuardedKVCache | None = None
    hold_back: HoldBack | None = None


class Tiers:
    """Made anew for each run. What is behind a shared link is a party of ``network``."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._shared: dict[tuple[str, int], tuple[CPUTier, BlockKeys, int]] = {}
        self._has_stores = False

    @property
    def are_shared(self) -> bool:
        """Whether instances share any, or the way to one, so that what one does may concern others."""
        return bool(self._shared) or self._has_stores

    def parts(
        self,
        built: BuiltInstance,
        concerns: Callable[..., None],
        *,
        connector: KVConnector | None,
        scheduler: EngineScheduler | None,
        workers: StepWorkers | None,
    ) -> ReplicaParts:
        """What an instance needs for its tier, if it has one. A ``connector`` with ``workers`` brings KV from other
        instances and comes before the tier; one without, or a ``scheduler``, takes its place. ``concerns`` is told
        when something may concern the instance, and what other instance does that at that very instant.

        Raises:
            UserError: the tier cannot be made.
        """
        tier = built.spec.tier
        if tier is None or scheduler is not None or (connector is not None and workers is None):
            return ReplicaParts(connector, workers)
        from penstock.kv_transfer.copy_workers import CopyWorkers
        from penstock.kv_transfer.offloading import OffloadingConnector
        from penstock.kv_transfer.stacked import StackedWorkers, stack_connectors
        from penstock.scheduler.guarded_kv_cache import GuardedKVCache

        spec = built.spec
        options, pool, keys = self.of(built, tier)
        kv = GuardedKVCache(
            built.deployment.memory.num_gpu_blocks,
            spec.scheduler.block_size,
            prefix_caching=spec.scheduler.enable_prefix_caching,
            notes_all_fills=not options.offload_prompt_only,
            keys=keys,
        )
        offloading = OffloadingConnector(options, kv, spec.pp_size, tier=pool, user=spec.index)
        pool.users[spec.index] = concerns
        copies = CopyWorkers(offloading, concerns, store=self.store_of(built, tier))
        return ReplicaParts(
            offloading if connector is None else stack_connectors([connector, offloading]),
            copies if workers is None else StackedWorkers([workers, copies]),
            kv,
            copies.hold_back,
        )

    def of(self, built: BuiltInstance, tier: TierSpec) -> tuple[TierOptions, CPUTier, BlockKeys]:
        """An instance's options, the tier itself, and the names of blocks in it.

        Raises:
            UserError: it does not hold a single chunk, or those who share it have chunks of different size.
        """
        from penstock.kv_transfer.cpu_tier import CPUTier

        options, chunk_bytes = tier_options(built, tier)
        if tier.shared == "instance":
            return options, CPUTier(options), BlockKeys()
        place = (tier.shared, built.spec.node if tier.shared == "node" else 0)
        if place not in self._shared:
            self._shared[place] = CPUTier(options), BlockKeys(), chunk_bytes
        shared, keys, size = self._shared[place]
        if size != chunk_bytes:
            message = (
                f"a chunk takes {chunk_bytes:,} bytes here and {size:,} at others that share the tier: "
                "give them the same tp_size"
            )
            raise UserError([Problem(f"{built.spec.where}.kv_offloading.shared", message)])
        return options, shared, keys

    def store_of(self, built: BuiltInstance, tier: TierSpec) -> StoreLink | None:
        """The way from an instance to where its tier lies; None where that is its node's memory."""
        if tier.store_bytes_per_s is None:
            return None
        from penstock.kv_transfer.copy_workers import StoreLink

        self._has_stores = True
        spec = built.spec
        place = {"instance": f" of instance {spec.index}", "node": f" of node {spec.node}", "cluster": ""}
        return StoreLink(
            self._network,
            self._network.shared_link(f"KV store{place[tier.shared]}"),
            tier.store_bytes_per_s,
            tier.store_latency_ns,
            spec.tp_size,
            spec.index,
        )


def tier_options(built: BuiltInstance, tier: TierSpec) -> tuple[TierOptions, int]:
    """What a tier comes to for an instance: how many chunks it holds, and what of each token an NPU copies; and the
    bytes of a chunk.

    Raises:
        UserError: it does not hold a single chunk.
    """
    from penstock.spec.kv_tier import TierOptions

    spec = built.spec
    stages = built.deployment.memory.stages
    per_npu = sum(stage.kv_bytes_per_block for stage in stages)
    chunk_bytes = per_npu * spec.tp_size * tier.blocks_per_chunk
    chunks = tier.size_bytes // chunk_bytes
    if not chunks:
        message = f"{tier.size_bytes / GIB:.3g} GiB hold no chunk of {chunk_bytes / GIB:.3g} GiB"
        raise UserError([Problem(f"{spec.where}.kv_offloading", message)])
    options = TierOptions(
        cpu_chunks=chunks,
        kv_bytes_per_token=per_npu // spec.scheduler.block_size,
        d2h_latency_ns=tier.d2h_latency_ns,
        d2h_bytes_per_s=tier.d2h_bytes_per_s,
        h2d_latency_ns=tier.h2d_latency_ns,
        h2d_bytes_per_s=tier.h2d_bytes_per_s,
        blocks_per_chunk=tier.blocks_per_chunk,
        eviction_policy=tier.eviction_policy,
        offload_prompt_only=tier.offload_prompt_only,
        store_threshold=tier.store_threshold,
        loads_first=tier.loads_first,
    )
    return options, chunk_bytes
