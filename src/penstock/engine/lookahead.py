"""How far an instance that generates answers may run ahead of the others of its cluster.

Nobody touches it but those who bring requests or their KV: the proxy, messages and transfers under way, and the prefill
instances, by the answer to a prompt. When the next of those can come at the earliest is known from the steps that the
prefill instances have in flight.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from penstock.engine.instance import Instance
from penstock.engine.kernel import Actor
from penstock.engine.native_replica import NativeReplica
from penstock.engine.replica import Replica
from penstock.engine.sides import vllm_scheduler
from penstock.scheduler.step import UNKNOWN_NS
from penstock.units import NEVER_NS


class Lookahead:
    """A :class:`~penstock.engine.kernel.Foresight`. ``decode`` are the instances that may run ahead, ``prefill`` those
    that compute prompts for them; ``between`` is what carries something from one to the other."""

    def __init__(
        self, prefill: Sequence[Instance], decode: Collection[Instance], between: Sequence[Actor]
    ) -> None:
        self._prefill = prefill
        self._decode = frozenset(decode)
        self._between = between

    def untouched_until_ns(self, actor: Actor) -> int:
        """See :class:`~penstock.engine.kernel.Foresight`."""
        if actor not in self._decode:
            return 0
        until_ns = NEVER_NS
        for carrier in self._between:
            next_ns = carrier.next_ns
            if next_ns is not None and next_ns < until_ns:
                until_ns = next_ns
        for replica in self._prefill:
            answer_ns = self._earliest_answer_ns(replica, actor)
            if answer_ns < until_ns:
                until_ns = answer_ns
        return until_ns

    def _earliest_answer_ns(self, instance: Instance, actor: Actor) -> int:
        """Before when no prompt is computed for ``actor``."""
        has_any, is_idle, can_try, now_ns, sampled_ns = prompts_of(instance)
        if not has_any:
            return NEVER_NS
        next_ns = instance.next_ns
        if is_idle:
            # Whoever gives it back a prompt's blocks may let it go on with the next; what nobody has called for yet is
            # called for by the instance that will get it.
            next_ns = NEVER_NS if next_ns is None else next_ns
            if can_try:
                others = (one.next_ns for one in self._decode if one is not actor)
                next_ns = min(next_ns, min((one for one in others if one is not None), default=NEVER_NS))
            return max(next_ns, now_ns)
        return sampled_ns


def prompts_of(instance: Instance) -> tuple[int, int, int, int, int]:
    """Whether an instance has requests, waits for something to come, and has somebody to try then; what time it is
    there; and before when no step that samples is back: the oldest in flight, or one that is still to come, which
    leaves the last stage behind those. 0: that is not known."""
    if isinstance(instance, NativeReplica):
        return instance.engine.prompts()
    assert isinstance(instance, Replica)
    status = instance.scheduler.status()
    scheduler = vllm_scheduler(instance)
    return (
        bool(status.running or status.waiting or instance.inbox),
        instance.is_idle,
        scheduler is None or bool(scheduler.waiting),
        instance.now_ns,
        _earliest_sample_ns(instance),
    )


def _earliest_sample_ns(replica: Replica) -> int:
    if replica.next_ns is None:
        return 0
    until_ns = max(replica.next_ns, replica.executor.stage_free_ns[-1])
    for step in replica.in_flight():
        if step.done_ns == UNKNOWN_NS:
            return 0
        if step.sampled:
            return min(until_ns, step.done_ns)
    return until_ns
