"""Two halves of a step in turns, as LLMServingSim does it: each passes through all layers by itself.

Requests go, most tokens first, to the half with fewer. What both halves could run next on the NPU goes by phase: all
rows up to a layer's attention in memory of one half, then those of the other. Pieces of both share the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upstream.step_rule import Item, StepRule


@dataclass(frozen=True, slots=True)
class _Row:
    """On the NPU for ``time_ns``, or the attention in memory of ``items``."""

    phase: int
    time_ns: int = 0
    items: tuple[Item, ...] | None = None


class InterleavedRule(StepRule):
    """Steps of two requests and more in halves; one stage."""

    def stages_ns(self, items: Sequence[Item], tokens: int, sequences: int) -> list[int]:
        """See :meth:`StepRule.stages_ns`."""
        if len(items) < 2:
            return super().stages_ns(items, tokens, sequences)
        halves = [list(self._rows(half)) for half in _halves(items)]
        return [self._both_ns(halves) + self.ids_out_ns(sequences)]

    def _rows(self, items: Sequence[Item]) -> Iterator[_Row]:
        tokens = sum(one.tokens for one in items)
        yield _Row(0, self.row_ns("embedding", tokens))
        phase = 0
        for _ in range(self.instance.model.num_layers):
            for name, time in self.block(items, tokens):
                if name == "pim":
                    yield _Row(phase, items=tuple(items))
                    phase += 1
                else:
                    yield _Row(phase, time)
        yield _Row(phase, self.row_ns("final_layernorm", tokens) + self.head_ns(len(items)))

    def _both_ns(self, halves: Sequence[Sequence[_Row]]) -> int:
        rows = [list(reversed(half)) for half in halves]
        ready = [0] * len(rows)
        free = self.channels()
        npu = 0
        while any(rows):
            next_rows = [
                (max(ready[half], npu) if own[-1].items is None else ready[half], own[-1].phase, half)
                for half, own in enumerate(rows)
                if own
            ]
            start, _, half = min(next_rows)
            row = rows[half].pop()
            if row.items is None:
                npu = ready[half] = start + row.time_ns
            else:
                ready[half] = self.in_memory(row.items, free, start)
        return max(ready)


def _halves(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    one: list[Item] = []
    other: list[Item] = []
    for item in sorted(items, key=lambda item: -item.tokens):
        lighter = one if sum(i.tokens for i in one) <= sum(i.tokens for i in other) else other
        lighter.append(item)
    return one, other
