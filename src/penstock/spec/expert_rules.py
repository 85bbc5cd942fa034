"""The rules of experts and of data-parallel groups: what an instance says, and what the members of a group share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from penstock.errors import Problem
from penstock.spec.cluster import InstanceSpec
from penstock.spec.data_parallel_rules import LOCKSTEP_MEMBERS, of_size
from penstock.spec.experts import ExpertOptions
from penstock.spec.model import ModelSpec
from penstock.spec.raw import RawInstance

ALL_RANKS = 0
"""``ep_size`` of a replica that does not know yet how many ranks its group has."""

EACH_RANK = -1
"""The same where expert parallelism is asked for, so that there must be as many experts."""

_ALIKE = {
    "model": "model_name",
    "hardware": "hardware",
    "tp_size": "tp_size",
    "pp_size": "pp_size",
    "dtype": "dtype",
    "kv_cache_dtype": "kv_cache_dtype",
    "layer_partition": "pp_layer_partition",
    "stage_hardware": "stage_hardware",
    "pd_type": "pd_type",
}
"""What all ranks of a group share, and how a config calls it; their expert options beside."""

_ONLY_WITH_EXPERTS = (
    "enable_expert_parallel",
    "enable_eplb",
    "num_redundant_experts",
    "expert_placement_strategy",
    "all2all_backend",
    "expert_popularity",
    "dp_count_exchange_ns",
    *LOCKSTEP_MEMBERS,
)


def expert_options(raw: RawInstance, model: ModelSpec) -> ExpertOptions:
    """What the members come to. ``ep_size`` is by default ALL_RANKS of a mixture's group, as in LLMServingSim, to be
    counted by :func:`number_ranks`; vLLM's own default is ``enable_expert_parallel`` false."""
    defaults = ExpertOptions()
    shared_out = model.moe is not None and raw.enable_expert_parallel is not False
    by_default = EACH_RANK if raw.enable_expert_parallel else ALL_RANKS
    exchange = raw.dp_count_exchange_ns
    return ExpertOptions(
        ep_size=(raw.ep_size or by_default) if shared_out else 1,
        redundant_experts=raw.num_redundant_experts or 0,
        load_balancing=bool(raw.enable_eplb),
        placement=raw.expert_placement_strategy or defaults.placement,
        backend=raw.all2all_backend or defaults.backend,
        popularity=raw.expert_popularity or defaults.popularity,
        count_exchange_ns=defaults.count_exchange_ns if exchange is None else exchange,
        max_graph_tokens=raw.cudagraph_max_tokens,
    )


def expert_problems(raw: RawInstance, model: ModelSpec, tp_size: int) -> dict[str, str]:
    """Members of one instance that its model does not allow, each with the reason. Rules that need the size of the
    group are in :func:`group_problems`."""
    found: dict[str, str] = {}
    moe, ep_size = model.moe, raw.ep_size or 1
    if moe is None:
        for name in _ONLY_WITH_EXPERTS:
            if getattr(raw, name):
                found[name] = f"needs a mixture of experts, and {model.name} has none"
        if ep_size > 1:
            found["ep_size"] = f"must be 1, as {model.name} is no mixture of experts, not {ep_size}"
        return found
    if raw.enable_expert_parallel is False and ep_size > 1:
        found["ep_size"] = f"must be 1 with enable_expert_parallel false, not {ep_size}"
    elif raw.dp_group is None and raw.data_parallel_size in (None, 1) and ep_size > tp_size:
        found["ep_size"] = f"must be <= tp_size = {tp_size} without a dp_group, not {ep_size}"
    if raw.num_redundant_experts and not raw.enable_eplb:
        found["num_redundant_experts"] = "needs enable_eplb, which decides what to copy"
    popularity = raw.expert_popularity
    if isinstance(popularity, tuple):
        picked = sum(1 for load in popularity if load)
        if len(popularity) != moe.num_experts:
            found["expert_popularity"] = (
                f"must have one load for each of the {moe.num_experts} experts of {model.name}, not {len(popularity)}"
            )
        elif picked < moe.experts_per_token:
            found["expert_popularity"] = (
                f"must be > 0 for at least the {moe.experts_per_token} experts that a token picks, not for {picked}"
            )
    return found


def ranks_of(instance: InstanceSpec) -> list[InstanceSpec]:
    """One entry per rank of an instance with ``data_parallel_size``, all in its place and in one group; the instance
    itself where it has none."""
    if instance.dp_size == 1:
        return [instance]
    group = instance.dp_group or f"instance {instance.index}"
    return [
        replace(instance, index=instance.index + rank, dp_group=group) for rank in range(instance.dp_size)
    ]


def number_ranks(instances: Sequence[InstanceSpec]) -> list[InstanceSpec]:
    """The same instances, each knowing its rank in its group, how many there are, and over how many places they share
    the experts out."""
    sizes = Counter(instance.dp_group for instance in instances)
    seen: Counter[str | None] = Counter()
    numbered: list[InstanceSpec] = []
    for instance in instances:
        group = instance.dp_group
        if group is not None:
            instance = replace(
                instance,
                dp_size=sizes[group],
                dp_rank=seen[group],
                data_parallel=of_size(instance.data_parallel, sizes[group]),
            )
            seen[group] += 1
        numbered.append(_with_places(instance))
    return numbered


def _with_places(instance: InstanceSpec) -> InstanceSpec:
    """Where nothing says over how many places to share the experts out: over all ranks, if there are so many
    experts."""
    moe, ranks = instance.model.moe, instance.tp_size * instance.dp_size
    asked = instance.experts.ep_size
    if moe is None or asked not in (ALL_RANKS, EACH_RANK):
        return instance
    places = ranks if ranks <= moe.num_experts or asked == EACH_RANK else 1
    return replace(instance, experts=replace(instance.experts, ep_size=places))


def group_problems(instances: Sequence[InstanceSpec]) -> list[Problem]:
    """Mistakes over the members of every group, and of instances that stand alone, with the places."""
    problems: list[Problem] = []
    first_of: dict[str, InstanceSpec] = {}
    for instance in instances:
        group = instance.dp_group
        first = instance if group is None else first_of.setdefault(group, instance)
        if first is instance:
            problems += _sharing_problems(instance)
            continue
        for field, called in _ALIKE.items():
            if getattr(instance, field) != getattr(first, field):
                where = f"{instance.where}.{called}"
                problems.append(
                    Problem(where, f"differs from that of the first member of dp_group '{group}'")
                )
                if field == "model":
                    break  # what else differs follows from it
        if instance.model == first.model and (
            instance.data_parallel != first.data_parallel or instance.scheduler != first.scheduler
        ):
            message = (
                f"scheduler or balancing options differ from those of the first member of dp_group '{group}'"
            )
            problems.append(Problem(instance.where, message))
        if instance.model == first.model and instance.experts != first.experts:
            message = f"ep_size and other expert options differ from those of the first member of dp_group '{group}'"
            problems.append(Problem(instance.where, message))
    return list(dict.fromkeys(problems))


def _sharing_problems(instance: InstanceSpec) -> list[Problem]:
    """Whether the ranks of a group can share the experts out."""
    moe, experts = instance.model.moe, instance.experts
    if moe is None:
        return []
    ranks, places, count = instance.tp_size * instance.dp_size, experts.ep_size, moe.num_experts
    told = f"tp_size x ranks of the group = {instance.tp_size} x {instance.dp_size} = {ranks}"
    where = f"{instance.where}.ep_size" if instance.where else "ep_size"
    if ranks % places:
        return [Problem(where, f"must divide {told}, not {places}")]
    if count < places:
        return [Problem(where, f"{places} ranks are more than the {count} experts of {instance.model.name}")]
    if moe.intermediate_size % (ranks // places):
        split = f"{ranks // places} ranks must divide the experts' width {moe.intermediate_size}"
        return [Problem(where, f"{split}, as {places} places of {told} leave so many to each expert")]
    if experts.load_balancing and (count + experts.redundant_experts) % places:
        copies = f" + {experts.redundant_experts} copies" if experts.redundant_experts else ""
        return [Problem(where, f"{places} ranks must divide the {count}{copies} experts with enable_eplb")]
    return []
