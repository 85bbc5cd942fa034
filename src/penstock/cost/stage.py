"""Model + tables + partition compiled into one fast cost per step: every stage's nanoseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from penstock.cost.attention import AttentionLookup
from penstock.cost.tables import KernelTables
from penstock.units import Int64Array

_FIRST_TOKENS = 4096
_FIRST_SEQUENCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRole:
    """What one stage holds: its layers, and whether the embedding and the head stand on it."""

    layers: int
    first: bool
    last: bool


class TabulatedStageCost:
    """``StageCost`` over tables, for stages of one hardware.

    ``block_extra_ns(tokens)`` is added to every layer (its collectives), ``prefill_layer_ns`` to every layer of
    a step that holds a prefill chunk. All times are integers: a layer's
    dense kernels are summed and rounded once, its attention is rounded once, and both are multiplied by the
    stage's layers.
    """

    __slots__ = (
        "_attention",
        "_block_extra_ns",
        "_dense",
        "_dense_limit",
        "_head",
        "_head_limit",
        "_mixed_extra",
        "_outside",
        "_roles",
        "_stages",
        "_tables",
    )

    def __init__(
        self,
        tables: KernelTables,
        roles: Sequence[StageRole],
        *,
        max_tokens: int,
        block_extra_ns: Callable[[Int64Array], Int64Array] | None = None,
        prefill_layer_ns: float = 0.0,
    ) -> None:
        self._tables = tables
        self._roles = tuple(roles)
        self._block_extra_ns = block_extra_ns
        self._mixed_extra = prefill_layer_ns + 0.5
        self._attention = AttentionLookup(tables.attention, tables.skew)
        self._dense: dict[tuple[int, bool, bool], list[int]] = {}
        for role in roles:
            self._dense.setdefault(_key(role), [])
        self._stages = [(self._dense[_key(role)], role.layers) for role in roles]
        self._head: list[int] | None = [] if any(role.last for role in roles) else None
        self._dense_limit = int(max((curve.sizes[-1] for curve in tables.dense.values()), default=0))
        self._head_limit = int(max((curve.sizes[-1] for curve in tables.per_sequence.values()), default=0))
        self._outside: dict[str, list[int]] = {}
        self._extend_dense(min(max_tokens, _FIRST_TOKENS))
        self._extend_head(min(max_tokens, _FIRST_SEQUENCES))

    def __copy__(self) -> TabulatedStageCost:
        """The same tables, which may go on growing for both, and counters of its own."""
        twin = object.__new__(TabulatedStageCost)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._attention = copy(self._attention)
        twin._outside = {}
        return twin

    def stage_ns(
        self,
        prefill_tokens: int,
        prefill_context: int,
        decodes: int,
        decode_context: int,
        min_context: int,
        max_context: int,
        sampled: int,
    ) -> Sequence[int]:
        """Compute time of each stage, first to last."""
        if prefill_tokens:
            tokens = prefill_tokens + decodes
            attention = int(
                self._attention.mixed_ns(
                    prefill_tokens, prefill_context, decodes, decode_context, min_context, max_context
                )
                + self._mixed_extra
            )
        else:
            tokens = decodes
            attention = int(
                self._attention.decode_ns(decodes, decode_context, min_context, max_context) + 0.5
            )
        if tokens > self._dense_limit or sampled > self._head_limit:
            self._count_outside(tokens, sampled)
        try:
            times = [dense[tokens] + layers * attention for dense, layers in self._stages]
        except IndexError:
            self._extend_dense(tokens)
            times = [dense[tokens] + layers * attention for dense, layers in self._stages]
        head = self._head
        if head is not None:
            if sampled >= len(head):
                self._extend_head(sampled)
            times[-1] += head[sampled]
        return times

    def decode_turns_ns(
        self, decodes: int, context: int, min_context: int, max_context: int, turns: int
    ) -> Int64Array | None:
        """``stage_ns`` of the same decodes in ``turns`` consecutive steps, shape (stages, turns), each context
        one token longer than in the step before. None where a lookup leaves the measured range."""
        if decodes > self._dense_limit or decodes > self._head_limit:
            return None
        attention = self._attention.decode_turns_ns(decodes, context, min_context, max_context, turns)
        if attention is None:
            return None
        rounded = (attention + 0.5).astype(np.int64)
        fixed = self.stage_ns(0, 0, decodes, context, min_context, max_context, decodes)
        per_layer = int(rounded[0])
        return np.array(
            [
                time + layers * (rounded - per_layer)
                for time, (_, layers) in zip(fixed, self._stages, strict=True)
            ]
        )

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range so far: one sentence per axis."""
        found = {**self._outside, **self._attention.outside}
        return tuple(
            f"{self._tables.hardware} / {self._tables.model}: {count} lookups extrapolated beyond the "
            f"profile's {limit} {axis}, the furthest at {furthest}"
            for axis, (count, furthest, limit) in sorted(found.items())
        )

    def _extend_dense(self, tokens: int) -> None:
        """Fill the tables up to twice ``tokens``, or just ``tokens`` the first time."""
        filled = len(self._stages[0][0])
        sizes = np.arange(filled, max(tokens, 2 * tokens if filled else 0) + 1)
        block = np.rint(self._tables.block_us(sizes) * 1000.0).astype(np.int64)
        if self._block_extra_ns is not None:
            block += self._block_extra_ns(sizes)
        edges = [
            np.rint(self._tables.dense[name].at(sizes) * 1000.0).astype(np.int64)
            if name in self._tables.dense
            else np.zeros(len(sizes), dtype=np.int64)
            for name in ("embedding", "final_layernorm")
        ]
        for (layers, first, last), table in self._dense.items():
            total = layers * block + (edges[0] if first else 0) + (edges[1] if last else 0)
            table.extend(total.tolist())
        for table in self._dense.values() if not filled else ():
            table[0] = 0

    def _extend_head(self, sequences: int) -> None:
        head = self._head
        if head is None:
            return
        sizes = np.arange(len(head), max(sequences, 2 * len(head)) + 1)
        times = np.rint(self._tables.head_us(sizes) * 1000.0).astype(np.int64)
        head.extend(times.tolist())
        head[0] = 0

    def _count_outside(self, tokens: int, sampled: int) -> None:
        for name, value, limit in (
            ("tokens", tokens, self._dense_limit),
            ("sampled sequences", sampled, self._head_limit),
        ):
            if value > limit:
                entry = self._outside.setdefault(name, [0, 0, limit])
                entry[0] += 1
                entry[1] = max(entry[1], value)


def _key(role: StageRole) -> tuple[int, bool, bool]:
    return role.layers, role.first, role.last


class MixedStageCost:
    """Stages on different hardware: one :class:`TabulatedStageCost` per hardware, put together in order.

    ``members`` = (cost, the stages it answers for, ascending).
    """

    __slots__ = ("_members", "_pp_size")

    def __init__(self, members: Sequence[tuple[TabulatedStageCost, tuple[int, ...]]]) -> None:
        self._members = tuple(members)
        self._pp_size = sum(len(stages) for _, stages in members)

    def __copy__(self) -> MixedStageCost:
        """The same tables, and counters of its own."""
        return MixedStageCost([(copy(cost), stages) for cost, stages in self._members])

    def stage_ns(
        self,
        prefill_tokens: int,
        prefill_context: int,
        decodes: int,
        decode_context: int,
        min_context: int,
        max_context: int,
        sampled: int,
    ) -> Sequence[int]:
        """Compute time of each stage, first to last."""
        times = [0] * self._pp_size
        for cost, stages in self._members:
            part = cost.stage_ns(
                prefill_tokens, prefill_context, decodes, decode_context, min_context, max_context, sampled
            )
            for stage, time in zip(stages, part, strict=True):
                times[stage] = time
        return times

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range so far, of all members."""
        return tuple(note for cost, _ in self._members for note in cost.notes())
