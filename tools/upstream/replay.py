"""LLMServingSim's rule for when a step begins, over the steps of :mod:`upstream.step_rule`: times of every token.

Whenever the first stage is free, and fewer steps are in flight than there are stages, all requests that are in none
begin another. The members of a data-parallel group begin together: a member without requests computes one token, and
all pad to the largest. With prefill apart, a request moves on when its prompt's step has ended.

When an arrival is first looked at (events, or jumps of a millisecond where nothing runs) is taken from the CSV, as its
queuing delay; every other time is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upstream.step_rule import DUMMY, Item, StepRule


@dataclass(slots=True)
class _Member:
    """An instance: requests that come, that wait for their next token, that wait for their step to begin, and those in
    flight with the instants that they end at. ``free_ns`` is when each stage is free."""

    rule: StepRule
    free_ns: list[int]
    new: list[tuple[int, int]] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    batch: list[int] | None = None
    flying: list[tuple[int, list[int]]] = field(default_factory=list)

    def form(self, now: int) -> None:
        """A batch of all that is there, if there is room for one."""
        seen = [request for at, request in self.new if at <= now]
        if self.batch is None and (self.ready or seen) and self.has_room(now):
            self.new = self.new[len(seen) :]
            self.batch = [*self.ready, *seen]
            self.ready = []

    def has_room(self, now: int) -> bool:
        """Whether a step could begin."""
        return len(self.flying) < len(self.free_ns) and self.free_ns[0] <= now


def token_times_ns(
    groups: Sequence[Sequence[StepRule]],
    rows: Mapping[int, Mapping[str, Any]],
    prefill: Mapping[int, int] | None = None,
) -> dict[int, list[int]]:
    """By request. A row's instance counts members through all groups. ``prefill``: the member that computes each
    request's prompt, where that is another one."""
    made = [[_Member(rule, [0] * rule.stages) for rule in rules] for rules in groups]
    members = [member for group in made for member in group]
    for request, row in rows.items():
        first = int(row["instance id"]) if prefill is None else prefill[request]
        members[first].new.append((int(row["arrival"]) + int(row["queuing_delay"]), request))
    for member in members:
        member.new.sort()
    return _Replay(made, members, rows, prefill is not None).run()


class _Replay:
    def __init__(
        self,
        groups: list[list[_Member]],
        members: list[_Member],
        rows: Mapping[int, Mapping[str, Any]],
        apart: bool,
    ) -> None:
        self._groups = groups
        self._members = members
        self._rows = rows
        self._apart = apart
        self._left = {request: int(row["output"]) for request, row in rows.items()}
        self._context = dict.fromkeys(rows, 0)
        self._times: dict[int, list[int]] = {request: [] for request in rows}

    def run(self) -> dict[int, list[int]]:
        now = 0
        while True:
            for group in self._groups:
                self._begin(group, now)
            later = [
                at
                for member in self._members
                for at in (
                    *(ends for ends, _ in member.flying),
                    *(at for at, _ in member.new),
                    member.free_ns[0],
                )
                if at > now
            ]
            if not later:
                return self._times
            now = min(later)
            for member in self._members:
                for step in [step for step in member.flying if step[0] == now]:
                    member.flying.remove(step)
                    self._end(member, step[1], now)

    def _begin(self, group: list[_Member], now: int) -> None:
        for member in group:
            member.form(now)
        if not any(member.batch for member in group):
            return
        if not all(member.batch or member.has_room(now) for member in group):
            return
        loads = [[self._item(request) for request in member.batch or []] or [DUMMY] for member in group]
        tokens = max(sum(one.tokens for one in load) for load in loads)
        sequences = max(len(load) for load in loads)
        stages = [one.rule.stages_ns(load, tokens, sequences) for one, load in zip(group, loads, strict=True)]
        for member, load, times in zip(group, loads, stages, strict=True):
            leaves = now
            for stage, time in enumerate(times):
                leaves = max(leaves, member.free_ns[stage]) + time
                if stage + 1 < len(times):
                    leaves += member.rule.hop_ns(tokens)
                member.free_ns[stage] = leaves
            if self._apart and any(one.tokens > 1 for one in load):
                leaves += member.rule.handed_over_ns(len(load))
            batch = member.batch or []
            for request in batch:
                self._context[request] += 1 if self._context[request] else int(self._rows[request]["input"])
            member.flying.append((leaves, batch))
            member.batch = None

    def _item(self, request: int) -> Item:
        prompt = int(self._rows[request]["input"])
        context = self._context[request]
        return Item(request, 1, context, prompt) if context else Item(request, prompt, 0, prompt)

    def _end(self, member: _Member, batch: list[int], now: int) -> None:
        for request in batch:
            self._times[request].append(now)
            self._left[request] -= 1
            if self._left[request]:
                home = self._members[int(self._rows[request]["instance id"])] if self._apart else member
                home.ready.append(request)
