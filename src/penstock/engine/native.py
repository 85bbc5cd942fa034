"""Which instances the engine in machine code serves.

It takes the same turns as :class:`~penstock.engine.replica.Replica` over a
:class:`~penstock.scheduler.vllm.VllmScheduler`, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.engine.build import BuiltInstance
from penstock.scheduler.policies.caps import DecodeCap, RequestCap
from penstock.scheduler.policies.gllm import TokenThrottling
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.policies.make import make_policy
from penstock.scheduler.policies.sglang import DynamicChunks, Slots

_POLICIES = (DecodeCap, RequestCap, TokenThrottling, Slots, DynamicChunks)


def reason_against(built: BuiltInstance) -> str | None:
    """Why Python has to serve an instance, or None where the core does the same."""
    spec = built.spec
    if spec.pd_type is not None and not spec.scheduler.engine_idle_sleep_ns:
        return "it does not sleep while it waits for KV"
    if spec.tier is not None:
        return "its KV is kept in host memory too"
    if any(hop.shared_link for hop in built.cost.hops):
        return "it shares links with others"
    try:
        native_policy(spec.scheduler.policy, spec.pp_size, lambda tokens, context: tokens)
    except LookupError as error:
        return str(error)
    return None


def native_policy(text: Any, pp_size: int, prefill_ns: Callable[[int, int], int]) -> Policy | None:
    """The policy as Python has it, None for vLLM's own rule.

    Raises:
        LookupError: the core does not have it.
    """
    if not isinstance(text, str):
        raise LookupError("its policy is the user's own")
    policy = make_policy(text, pp_size, prefill_ns)
    if policy is None:
        return None
    if type(policy) not in _POLICIES:
        raise LookupError("its policy is the user's own")
    numbers = [value for name, value in vars(policy).items() if name not in ("smoothing", "linear_ns")]
    if any(isinstance(value, float) and not value.is_integer() for value in numbers):
        raise LookupError("its policy's arguments are no whole numbers")
    if min(getattr(policy, "iterations", 1), getattr(policy, "slots", 1)) < 1:
        raise LookupError("its policy takes no steps")
    return policy
