"""What a run combines, by name, and what the simulator does not combine: to open one, delete its line here and in
docs/combinations.md."""

from __future__ import annotations

from collections.abc import Iterable

from .cluster import InstanceCase

REFUSED: tuple[frozenset[str], ...] = ()
"""Features that must not meet in one run. The reference has them all."""


def features(instance: InstanceCase, *, has_ids: bool, has_sessions: bool) -> frozenset[str]:
    """What an instance combines."""
    options = instance.options
    present = {
        "priority": options.scheduling_policy == "priority",
        "policy": options.policy != "vllm",
        "async scheduling": options.async_scheduling,
        "blocking sends": instance.blocking_sends,
        "shared links": any(hop.shared_link for hop in instance.cost.hops),
        "prefix caching": options.enable_prefix_caching and has_ids,
        "prefix caching without ids": options.enable_prefix_caching and not has_ids,
        "sessions": has_sessions,
        "pipeline": instance.pp_size > 1,
    }
    return frozenset(name for name, is_there in present.items() if is_there)


def is_refused(combined: Iterable[frozenset[str]]) -> bool:
    """Whether any instance combines what must not meet."""
    return any(refused <= each for each in combined for refused in REFUSED)
