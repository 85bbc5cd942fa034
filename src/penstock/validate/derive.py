"""What a recording says about a schedule beyond the schedule itself, worked out from the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Life:
    """One request on the way through the iterations."""

    prompt: int
    computed: int = 0
    delivered: int = 0
    prefill_chunks: int = 0


@dataclass(slots=True)
class _Walk:
    """Steps in the order of submission, empty ones as None; the last ``queue_len_before`` are in flight."""

    lives: dict[str, _Life]
    submitted: list[Mapping[str, Any] | None] = field(default_factory=list)
    delivered_up_to: int = 0

    def advance(self, row: Mapping[str, Any]) -> None:
        """Come to the schedule() of ``row``: deliver the steps that have left the queue by then."""
        empty = row["empty_schedules_before"]
        if self.submitted and self.submitted[-1] is not None and not self.submitted[-1]["scheduled"]:
            empty -= 1  # an iteration that only preempted counts among the empty schedules before the next
        self.submitted.extend([None] * empty)
        in_flight = row["queue_len_before"]
        while self.delivered_up_to < len(self.submitted) - in_flight:
            self._deliver(self.submitted[self.delivered_up_to])
            self.delivered_up_to += 1

    def _deliver(self, row: Mapping[str, Any] | None) -> None:
        if row is None:
            return
        partial = set(row.get("partial_prefill", ()))
        for name, _, _ in row["scheduled"]:
            self.lives[name].delivered += name not in partial

    def preempted_detail(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The victims of ``row`` as they were when they lost their blocks."""
        in_flight = [step for step in self.submitted[self.delivered_up_to :] if step is not None]
        return [
            {
                "req_id": name,
                "num_tokens": self.lives[name].prompt + self.lives[name].delivered,
                "num_computed": self.lives[name].computed,
                "in_flight": sum(any(entry[0] == name for entry in step["scheduled"]) for step in in_flight),
            }
            for name in row["preempted"]
        ]

    def submit(self, row: Mapping[str, Any]) -> None:
        """The step of ``row`` enters the queue."""
        for name, new, computed in row["scheduled"]:
            life = self.lives[name]
            life.computed = computed + new
            life.prefill_chunks += new > 1 or life.delivered == 0
        self.submitted.append(row)


def complete(
    iterations: Sequence[dict[str, Any]], per_request: Sequence[dict[str, Any]], prompts: Mapping[str, int]
) -> None:
    """Add ``preempted_detail`` to iterations and ``num_prefill_chunks`` to requests, in place, as the
    recordings have them. ``prompts`` maps each request's name to its prompt length in tokens."""
    walk = _Walk({name: _Life(prompt) for name, prompt in prompts.items()})
    for row in iterations:
        walk.advance(row)
        if row["preempted"]:
            row["preempted_detail"] = walk.preempted_detail(row)
        walk.submit(row)
    for entry in per_request:
        entry["num_prefill_chunks"] = walk.lives[entry["req_id"]].prefill_chunks
