"""How far an instance that generates answers may run ahead of the others of its cluster.

Nobody touches it but those who bring requests or their KV: the proxy, messages and transfers under way, and the prefill
instances, by the answer to a prompt. When the next of those can come at the earliest is known from the steps that the
prefill instances have in flight.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from penstock.engine.kernel import Actor
from penstock.engine.replica import Replica
from penstock.engine.sides import vllm_scheduler
from penstock.scheduler.step import UNKNOWN_NS
from penstock.units import NEVER_NS


class Lookahead:
    """A :class:`~penstock.engine.kernel.Foresight`. ``decode`` are the instances that may run ahead, ``prefill`` those
    that compute prompts for them; ``between`` is what carries something from one to the other."""

    def __init__(
        self, prefill: Sequence[Replica], decode: Collection[Replica], between: Sequence[Actor]
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

    def _earliest_answer_ns(self, replica: Replica, actor: Actor) -> int:
        """Before when no prompt is computed for ``actor``: that of the oldest step that samples, or of one that is
        still to come, which leaves the last stage behind those in flight."""
        status = replica.scheduler.status()
        if not (status.running or status.waiting or replica.inbox):
            return NEVER_NS
        next_ns = replica.next_ns
        if replica.is_idle:
            # Whoever gives it back a prompt's blocks may let it go on with the next; what nobody has called for yet is
            # called for by the instance that will get it.
            next_ns = NEVER_NS if next_ns is None else next_ns
            scheduler = vllm_scheduler(replica)
            if scheduler is None or scheduler.waiting:
                others = (one.next_ns for one in self._decode if one is not actor)
                next_ns = min(next_ns, min((one for one in others if one is not None), default=NEVER_NS))
            return max(next_ns, replica.now_ns)
        if next_ns is None:
            return 0
        until_ns = max(next_ns, replica.executor.stage_free_ns[-1])
        for step in replica.in_flight():
            if step.done_ns == UNKNOWN_NS:
                return 0
            if step.sampled:
                return min(until_ns, step.done_ns)
        return until_ns
