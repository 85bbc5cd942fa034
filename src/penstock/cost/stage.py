"""Model + tables + partition compiled into one fast cost per step: every stage's nanoseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.cost.attention import AttentionLookup, attention_lookup, count_beyond
from penstock.cost.step_cost import StageCost, StepLoad, StepShape
from penstock.cost.tables import KernelTables
from penstock.spec.layers import Attention, LayerKind, StageLayers
from penstock.units import Int64Array

_FIRST_TOKENS = 4096
_FIRST_SEQUENCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRole:
    """What one stage holds: its layers, and whether the embedding and the head stand on it."""

    layers: StageLayers
    first: bool
    last: bool


class TabulatedStageCost:
    """``StageCost`` over tables, for stages of one hardware. ``tables`` has an entry for every kind of layer.

    ``block_extra_ns(tokens)`` is added to every layer (its collectives), ``prefill_layer_ns`` to every layer of
    a step that holds a prefill chunk. All times are integers: a layer's
    dense kernels are summed and rounded once, its attention is rounded once, and both are multiplied by the
    stage's layers of the kind.
    """

    __slots__ = (
        "_attention",
        "_block_extra_ns",
        "_dense",
        "_dense_limit",
        "_head",
        "_head_limit",
        "_mixed_extra",
        "_more_attention",
        "_outside",
        "_stages",
        "_tables",
    )

    def __init__(
        self,
        tables: Mapping[LayerKind, KernelTables],
        roles: Sequence[StageRole],
        *,
        max_tokens: int,
        block_extra_ns: Callable[[Int64Array], Int64Array] | None = None,
        prefill_layer_ns: float = 0.0,
    ) -> None:
        self._tables = dict(tables)
        self._block_extra_ns = block_extra_ns
        self._mixed_extra = prefill_layer_ns + 0.5
        kinds_of: dict[Attention, LayerKind] = {}
        for kind in tables:
            kinds_of.setdefault(kind.attention, kind)
        lookups = [attention_lookup(tables[kind]) for kind in kinds_of.values()]
        self._dense: dict[StageRole, list[int]] = {role: [] for role in roles}
        # What most models have, one kind of attention, is one lookup and one multiplication a stage.
        self._attention = lookups[0]
        counts = [[_layers_with(role, attention) for role in roles] for attention in kinds_of]
        self._stages = [(self._dense[role], layers) for role, layers in zip(roles, counts[0], strict=True)]
        self._more_attention = list(zip(lookups[1:], counts[1:], strict=True))
        self._head: list[int] | None = [] if any(role.last for role in roles) else None
        curves = [curve for one in tables.values() for curve in one.dense.values()]
        heads = [curve for one in tables.values() for curve in one.per_sequence.values()]
        self._dense_limit = int(max((curve.sizes[-1] for curve in curves), default=0))
        self._head_limit = int(max((curve.sizes[-1] for curve in heads), default=0))
        self._outside: dict[str, list[int]] = {}
        self._extend_dense(min(max_tokens, _FIRST_TOKENS))
        self._extend_head(min(max_tokens, _FIRST_SEQUENCES))

    def __copy__(self) -> TabulatedStageCost:
        """The same tables, which may go on growing for both, and counters of its own."""
        twin = object.__new__(TabulatedStageCost)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._attention = copy(self._attention)
        twin._more_attention = [(copy(lookup), counts) for lookup, counts in self._more_attention]
        twin._outside = {}
        return twin

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """Compute time of each stage, first to last."""
        prefill_tokens = load.prefill_tokens
        decodes = load.decodes
        if prefill_tokens:
            tokens = prefill_tokens + decodes
            attention = int(
                self._attention.mixed_ns(
                    prefill_tokens,
                    load.prefill_context,
                    decodes,
                    load.decode_context,
                    load.min_context,
                    load.max_context,
                )
                + self._mixed_extra
            )
        else:
            tokens = decodes
            attention = int(
                self._attention.decode_ns(decodes, load.decode_context, load.min_context, load.max_context)
                + 0.5
            )
        sampled = load.sampled
        if tokens > self._dense_limit or sampled > self._head_limit:
            self._count_outside(tokens, sampled)
        try:
            times = [dense[tokens] + layers * attention for dense, layers in self._stages]
        except IndexError:
            self._extend_dense(tokens)
            times = [dense[tokens] + layers * attention for dense, layers in self._stages]
        if self._more_attention:
            self._add_attention(times, load)
        head = self._head
        if head is not None:
            if sampled >= len(head):
                self._extend_head(sampled)
            times[-1] += head[sampled]
        return times

    def attention_ns(self, load: StepLoad) -> int:
        """The part of :meth:`stage_ns` that is attention, of one layer of the first kind."""
        context, shortest, longest = load.decode_context, load.min_context, load.max_context
        if not load.prefill_tokens:
            return int(self._attention.decode_ns(load.decodes, context, shortest, longest) + 0.5)
        chunk = (load.prefill_tokens, load.prefill_context)
        time = self._attention.mixed_ns(*chunk, load.decodes, context, shortest, longest)
        return int(time + self._mixed_extra)

    def _add_attention(self, times: list[int], load: StepLoad) -> None:
        """Add the attention of all kinds but the first."""
        prefill_tokens = load.prefill_tokens
        decodes, context = load.decodes, load.decode_context
        shortest, longest = load.min_context, load.max_context
        for lookup, counts in self._more_attention:
            if prefill_tokens:
                history = load.prefill_context
                time = lookup.mixed_ns(prefill_tokens, history, decodes, context, shortest, longest)
                attention = int(time + self._mixed_extra)
            else:
                attention = int(lookup.decode_ns(decodes, context, shortest, longest) + 0.5)
            for stage, layers in enumerate(counts):
                times[stage] += layers * attention

    def decode_turns_ns(
        self, decodes: int, context: int, min_context: int, max_context: int, turns: int
    ) -> Int64Array | None:
        """``stage_ns`` of the same decodes in ``turns`` consecutive steps, shape (stages, turns), each context
        one token longer than in the step before. None where a lookup leaves the measured range."""
        if decodes > self._dense_limit or decodes > self._head_limit:
            return None
        first = StepShape(0, 0, decodes, context, min_context, max_context, decodes)
        times = np.array(self.stage_ns(first))[:, None].repeat(turns, axis=1)
        everywhere = (self._attention, [layers for _, layers in self._stages])
        for lookup, counts in (everywhere, *self._more_attention):
            attention = lookup.decode_turns_ns(decodes, context, min_context, max_context, turns)
            if attention is None:
                return None
            rounded = (attention + 0.5).astype(np.int64)
            times += np.array(counts)[:, None] * (rounded - rounded[0])
        return times

    @property
    def is_plain(self) -> bool:
        """Whether :meth:`as_arrays` says all about its attention."""
        return all(type(lookup) is AttentionLookup and lookup.is_plain for lookup in self._lookups())

    @property
    def axes(self) -> int:
        """How many limits it has that a lookup may go beyond (:meth:`count_beyond`)."""
        return 2 + 4 * len(self._lookups())

    def as_arrays(self) -> dict[str, Any]:
        """All that :meth:`stage_ns` needs as flat arrays, for an engine in machine code, which does the same with
        them."""
        roles = list(self._dense.values())
        place = {id(table): number for number, table in enumerate(roles)}
        layers = [[layers for _, layers in self._stages], *(counts for _, counts in self._more_attention)]
        return {
            "roles": np.array([place[id(table)] for table, _ in self._stages], dtype=np.int64),
            "dense": [np.array(table, dtype=np.int64) for table in roles],
            "layers": [np.array(counts, dtype=np.int64) for counts in layers],
            "head": None if self._head is None else np.array(self._head, dtype=np.int64),
            "dense_limit": self._dense_limit,
            "head_limit": self._head_limit,
            "mixed_extra": self._mixed_extra,
            "attentions": [lookup.as_arrays() for lookup in self._lookups()],
        }

    def _lookups(self) -> list[AttentionLookup]:
        return [self._attention, *(lookup for lookup, _ in self._more_attention)]

    @property
    def shared(self) -> object:
        """The same object for all copies over the same tables."""
        return self._dense

    def reach(self, tokens: int, decodes: int, sampled: int) -> None:
        """Let the tables hold such a step."""
        if tokens >= len(self._stages[0][0]):
            self._extend_dense(tokens)
        if self._head is not None and sampled >= len(self._head):
            self._extend_head(sampled)
        for lookup in self._lookups():
            lookup.reach(decodes)

    def count_beyond(self, found: Sequence[tuple[int, int]]) -> None:
        """Lookups beyond the measured range that were done elsewhere: how many and the furthest, of tokens, sampled
        sequences, and each attention's axes."""
        limits = (("tokens", self._dense_limit), ("sampled sequences", self._head_limit))
        for (name, limit), (count, furthest) in zip(limits, found[:2], strict=True):
            count_beyond(self._outside, name, count, furthest, limit)
        for kind, lookup in enumerate(self._lookups()):
            lookup.count_beyond(found[2 + 4 * kind : 6 + 4 * kind])

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range so far: one sentence per axis."""
        one = next(iter(self._tables.values()))
        found = {**self._outside, **self._attention.outside}
        for lookup, _ in self._more_attention:
            found |= {f"{axis} of another kind of layer": entry for axis, entry in lookup.outside.items()}
        return tuple(
            f"{one.hardware} / {one.model}: {count} lookups extrapolated beyond the "
            f"profile's {limit} {axis}, the furthest at {furthest}"
            for axis, (count, furthest, limit) in sorted(found.items())
        )

    def _extend_dense(self, tokens: int) -> None:
        """Fill the tables up to twice ``tokens``, or just ``tokens`` the first time."""
        filled = len(self._stages[0][0])
        sizes = np.arange(filled, max(tokens, 2 * tokens if filled else 0) + 1)
        blocks: dict[LayerKind, Int64Array] = {}
        for kind, tables in self._tables.items():
            blocks[kind] = np.rint(tables.block_us(sizes) * 1000.0).astype(np.int64)
            if self._block_extra_ns is not None:
                blocks[kind] += self._block_extra_ns(sizes)
        edge = next(iter(self._tables.values())).dense
        edges = [
            np.rint(edge[name].at(sizes) * 1000.0).astype(np.int64)
            if name in edge
            else np.zeros(len(sizes), dtype=np.int64)
            for name in ("embedding", "final_layernorm")
        ]
        for role, table in self._dense.items():
            total = (edges[0] if role.first else 0) + (edges[1] if role.last else 0)
            for group in role.layers:
                total = total + group.count * blocks[group.kind]
            table.extend(np.broadcast_to(total, sizes.shape).tolist())
        for table in self._dense.values() if not filled else ():
            table[0] = 0

    def _extend_head(self, sequences: int) -> None:
        head = self._head
        if head is None:
            return
        sizes = np.arange(len(head), max(sequences, 2 * len(head)) + 1)
        tables = next(iter(self._tables.values()))
        times = np.rint(tables.head_us(sizes) * 1000.0).astype(np.int64)
        head.extend(times.tolist())
        head[0] = 0

    def _count_outside(self, tokens: int, sampled: int) -> None:
        for name, value, limit in (
            ("tokens", tokens, self._dense_limit),
            ("sampled sequences", sampled, self._head_limit),
        ):
            count_beyond(self._outside, name, value > limit, value, limit)


def _layers_with(role: StageRole, attention: Attention) -> int:
    return sum(group.count for group in role.layers if group.kind.attention == attention)


class MixedStageCost:
    """Stages on different hardware: one cost per hardware, put together in order.

    ``members`` = (cost, the stages it answers for, ascending).
    """

    __slots__ = ("_members", "_pp_size")

    def __init__(self, members: Sequence[tuple[StageCost, tuple[int, ...]]]) -> None:
        self._members = tuple(members)
        self._pp_size = sum(len(stages) for _, stages in members)

    def __copy__(self) -> MixedStageCost:
        """The same tables, and counters of its own."""
        return MixedStageCost([(copy(cost), stages) for cost, stages in self._members])

    @property
    def members(self) -> tuple[tuple[StageCost, tuple[int, ...]], ...]:
        """Each cost with the stages it answers for."""
        return self._members

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """Compute time of each stage, first to last."""
        times = [0] * self._pp_size
        for cost, stages in self._members:
            for stage, time in zip(stages, cost.stage_ns(load), strict=True):
                times[stage] = time
        return times

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range so far, of all members."""
        return tuple(note for cost, _ in self._members for note in cost.notes())
