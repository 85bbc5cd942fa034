"""Which requests have their prompts computed at a prefill instance, and which a decode instance serves whole."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from penstock.engine.fleet import Fleet
from penstock.errors import Problem, UserError, nearest
from penstock.spec.cluster import KvTransferSpec
from penstock.workload.request import Request


class DisaggregationPolicy(Protocol):
    """Asked once for each request, when it arrives."""

    def disaggregates(self, request: Request, prefill: Fleet, decode: Fleet, hit_tokens: int) -> bool:
        """Whether a prefill instance computes the prompt. If not, the decode instance that ``decode_router`` has
        chosen serves the request whole; ``hit_tokens`` of the prompt are in its prefix cache now. ``prefill`` and
        ``decode`` are the instances of both sides as they stand."""
        ...


class Conditional:
    """Remote if more than ``max_local_prefill_length`` tokens of the prompt are left to compute, and fewer than
    ``max_prefill_queue_size`` prompts wait on the prefill side (None: any number).

    NVIDIA Dynamo's conditional disaggregation, from its documentation (``docs/architecture/disagg_serving.md``): the
    two names and the comparison are its own; there, the queue is one for all prefill workers.
    """

    def __init__(self, max_local_prefill_length: int, max_prefill_queue_size: int | None = None) -> None:
        self._longest_local = max_local_prefill_length
        self._longest_queue = max_prefill_queue_size

    def disaggregates(self, request: Request, prefill: Fleet, decode: Fleet, hit_tokens: int) -> bool:
        """See :class:`DisaggregationPolicy`."""
        if request.input_tokens - hit_tokens <= self._longest_local:
            return False
        return self._longest_queue is None or int(prefill.num_waiting.sum()) < self._longest_queue


def make_disaggregation_policy(transfer: KvTransferSpec) -> DisaggregationPolicy | None:
    """The policy that a cluster asks for; None disaggregates every request.

    Raises:
        UserError: there is no such policy, or the user's class cannot be imported or made.
    """
    name = transfer.policy
    if name == "always":
        return None
    if name == "conditional":
        return Conditional(transfer.max_local_prefill_length, transfer.max_prefill_queue_size)
    where = "kv_transfer.policy"
    if ":" not in name:
        known = ("always", "conditional")
        message = f"no policy '{name}' ({', '.join(known)} or module:Class){nearest(name, known)}"
        raise UserError([Problem(where, message)])
    module_name, _, class_name = name.partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module_name), class_name)
        policy: Any = factory()
    except Exception as error:  # whatever the user's module raises is the user's to mend
        message = f"cannot make {name}: {type(error).__name__}: {error}"
        raise UserError([Problem(where, message)]) from error
    if not callable(getattr(policy, "disaggregates", None)):
        message = f"{name} has no method disaggregates(request, prefill, decode, hit_tokens)"
        raise UserError([Problem(where, message)])
    return policy
