"""The rules of data-parallel groups beside those of their experts: balancing, front-ends, cadences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock.errors import Problem
from penstock.spec.cluster import InstanceSpec
from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.raw import RawInstance

LOCKSTEP_MEMBERS = (
    "data_parallel_lb",
    "data_parallel_size_local",
    "api_server_count",
    "dp_sync_interval",
    "prefill_schedule_interval",
)
"""What only ranks in lock-step look at."""

UNTOLD = 0
"""``front_ends`` or ``nodes`` where the config does not say: decided once the group's size is known."""


def data_parallel_options(raw: RawInstance) -> DataParallelOptions:
    """What the members come to. Instances that share a ``dp_group`` are balanced by the cluster's router, as in
    LLMServingSim, which is vLLM's external balancing; ranks of one instance by vLLM's front-ends."""
    defaults = DataParallelOptions(size=1)
    balancing = raw.data_parallel_lb or ("internal" if raw.dp_group is None else "external")
    return DataParallelOptions(
        size=raw.data_parallel_size or 1,
        sync_interval=raw.dp_sync_interval or defaults.sync_interval,
        prefill_schedule_interval=raw.prefill_schedule_interval or defaults.prefill_schedule_interval,
        load_balancing=balancing,
        front_ends=raw.api_server_count or UNTOLD,
        ranks_per_node=raw.data_parallel_size_local or UNTOLD,
    )


def of_size(options: DataParallelOptions, size: int) -> DataParallelOptions:
    """The options of a group of ``size`` ranks. With internal balancing there are as many front-ends as ranks (vLLM
    ``entrypoints/cli/serve.py``), else one per node or rank."""
    front_ends = options.front_ends or (size if options.load_balancing == "internal" else 1)
    per_node = options.ranks_per_node or size
    nodes = size // per_node if options.load_balancing == "hybrid" and size % per_node == 0 else 1
    return replace(options, size=size, front_ends=front_ends, nodes=nodes)


def data_parallel_problems(instances: Sequence[InstanceSpec], *, shared_links: bool) -> list[Problem]:
    """What ranks in lock-step cannot be."""
    problems: list[Problem] = []
    for instance in instances:
        if not instance.in_lockstep:
            continue
        options, where = instance.data_parallel, instance.where
        per_node = options.ranks_per_node
        if per_node and options.load_balancing != "hybrid":
            problems.append(
                Problem(
                    f"{where}.data_parallel_size_local",
                    "needs data_parallel_lb 'hybrid', which looks at nodes",
                )
            )
        elif per_node and options.size % per_node:
            problems.append(
                Problem(
                    f"{where}.data_parallel_size_local",
                    f"must divide the {options.size} ranks of the group, not {per_node}",
                )
            )
        if instance.blocking_sends:
            problems.append(Problem(f"{where}.blocking_sends", "is not simulated for ranks in lock-step"))
        moves_kv = "pd_type" if instance.pd_type is not None else "kv_offloading"
        looks_by_turns = instance.pd_type is not None or instance.tier is not None
        if looks_by_turns and not instance.scheduler.engine_idle_sleep_ns:
            problems.append(
                Problem(
                    f"{where}.engine_idle_sleep_ns",
                    f"must be above 0 for ranks in lock-step with {moves_kv}: they look for KV by turns",
                )
            )
        if instance.placement is not None or instance.pim is not None:
            outside = "placement and attention offloading are not simulated for ranks in lock-step"
            problems.append(Problem(where, outside))
        if shared_links and instance.pp_size > 1:
            problems.append(
                Problem(where, "shared_node_links are not simulated for ranks in lock-step with pp_size > 1")
            )
    return list(dict.fromkeys(problems))
