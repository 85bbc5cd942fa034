"""Forwards of a lock-step group from tables: all ranks' loads in, the time of every stage out.

A MoE layer is a barrier: it begins when the slowest rank's attention has ended, and all ranks leave it together. So a
layer costs the slowest rank's attention, the largest rank's dense kernels, dispatch, the slowest rank's experts, and
combine. Before that the hosts exchange token counts (vLLM ``v1/worker/dp_utils.py``). Where every rank's batch has a
CUDA graph all of them pad to the graph of the largest; else none does, and each runs its own number of tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.cost.attention import AttentionLookup, attention_lookup
from penstock.cost.experts.layer import SHARED_BESIDE_TOKENS, ExpertLayer
from penstock.cost.stage import StageRole
from penstock.cost.step_cost import StepLoad
from penstock.cost.tables import KernelTables
from penstock.spec.layers import Attention, LayerKind
from penstock.units import Int64Array, int64_array

Crossing = Callable[[Int64Array, Int64Array], Int64Array]
"""Dispatch and combine in nanoseconds of (tokens of all ranks, tokens of the largest rank)."""


@dataclass(frozen=True, slots=True)
class GroupKind:
    """One kind of layer on one hardware: ``tables`` without its experts, ``experts`` None for a dense layer.
    ``around_ns(tokens)`` are a rank's collectives over its tensor-parallel ranks, ``crossing`` those of the group."""

    tables: KernelTables
    around_ns: Callable[[Int64Array], Int64Array]
    experts: ExpertLayer | None = None
    crossing: Crossing | None = None


@dataclass(frozen=True, slots=True)
class GroupStage:
    """A stage: what it holds, and its kinds of layers on its hardware."""

    role: StageRole
    kinds: Mapping[LayerKind, GroupKind]


def graph_sizes(most: int) -> list[int]:
    """Tokens of the captured CUDA graphs up to ``most``: 1, 2, 4, by 8 to 256, then by 16 (vLLM ``config/vllm.py:
    VllmConfig._set_cudagraph_sizes``)."""
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, most + 1, 16)]
    return [size for size in sizes if size <= most]


class TabulatedGroupCost:
    """A :class:`~penstock.cost.group_cost.GroupCost` over tables, for ``ranks`` ranks of at most ``max_tokens``."""

    __slots__ = (
        "_beside",
        "_dummy_ns",
        "_eager_own",
        "_exchange_ns",
        "_graph",
        "_head",
        "_lookups",
        "_mixed_extra",
        "_one",
        "_padded",
        "_routed",
        "_stages",
    )

    def __init__(
        self,
        stages: Sequence[GroupStage],
        ranks: int,
        *,
        max_tokens: int,
        max_sequences: int,
        max_graph_tokens: int,
        exchange_ns: int = 0,
        prefill_layer_ns: float = 0.0,
    ) -> None:
        self._stages = tuple(stages)
        self._exchange_ns = exchange_ns
        self._mixed_extra = prefill_layer_ns + 0.5
        self._lookups = _lookups(stages)
        self._one = len(self._lookups) == 1
        self._dummy_ns = [int(lookup.decode_ns(1, 0, 0, 0) + 0.5) for lookup, _ in self._lookups]
        sizes = graph_sizes(min(max_graph_tokens, max_tokens))
        self._padded = [0] * ((sizes[-1] if sizes else 0) + 1)
        for size in reversed(sizes):
            self._padded[: size + 1] = [size] * (size + 1)
        own, total = np.arange(max_tokens + 1), np.arange(ranks * max_tokens + 1)
        pads = np.arange(len(self._padded))
        self._graph = [_graph_ns(stage, pads, ranks).tolist() for stage in stages]
        self._eager_own = [_column(_own_ns(stage, own)) for stage in stages]
        self._routed = [_column(_routed_ns(stage, total)) for stage in stages]
        self._beside = [_shared_beside(stage, total) for stage in stages]
        head = next(iter(stages[-1].kinds.values())).tables
        times = np.rint(head.head_us(np.arange(max_sequences + 1)) * 1000.0).astype(np.int64)
        times[0] = 0
        self._head = _column(times)

    def __copy__(self) -> TabulatedGroupCost:
        """The same tables, and counters of its own."""
        twin = object.__new__(TabulatedGroupCost)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._lookups = [(copy(lookup), counts) for lookup, counts in self._lookups]
        return twin

    def forward_ns(self, loads: Sequence[StepLoad | None]) -> Sequence[int]:
        """See :meth:`penstock.cost.group_cost.GroupCost.forward_ns`."""
        most, total, sampled = 1, 0, 0
        lookup, counts = self._lookups[0]
        decode_ns = lookup.decode_ns
        slowest: float = self._dummy_ns[0]
        mixed = False
        for load in loads:
            if load is None:
                total += 1
                continue
            tokens = load.decodes
            prefill = load.prefill_tokens
            if prefill:
                mixed = True
                tokens += prefill
                time = lookup.mixed_ns(
                    prefill,
                    load.prefill_context,
                    load.decodes,
                    load.decode_context,
                    load.min_context,
                    load.max_context,
                )
            else:
                time = decode_ns(tokens, load.decode_context, load.min_context, load.max_context)
            total += tokens
            if tokens > most:
                most = tokens
            if time > slowest:
                slowest = time
            if load.sampled > sampled:
                sampled = load.sampled
        extra = self._mixed_extra if mixed else 0.5
        attention = int(slowest + extra)
        padded = self._padded
        if most < len(padded):
            size = padded[most]
            times = [graph[size] + n * attention for graph, n in zip(self._graph, counts, strict=True)]
        else:
            times = self._eager_ns(most, total)
            for stage, n in enumerate(counts):
                times[stage] += n * attention
        if not self._one:
            self._add_attention(times, loads, extra)
        if self._exchange_ns:
            times = [time + self._exchange_ns for time in times]
        times[-1] += self._head[min(sampled, len(self._head) - 1)]
        return times

    def padded_tokens(self, loads: Sequence[StepLoad | None]) -> int:
        """See :meth:`penstock.cost.group_cost.GroupCost.padded_tokens`."""
        most = max(1 if load is None else load.decodes + load.prefill_tokens for load in loads)
        return self._padded[most] if most < len(self._padded) else 0

    @property
    def is_plain(self) -> bool:
        """Whether :meth:`as_arrays` says all about its attention."""
        return all(type(lookup) is AttentionLookup and lookup.is_plain for lookup, _ in self._lookups)

    def as_arrays(self) -> dict[str, Any]:
        """All that :meth:`forward_ns` needs as flat arrays of int64, for an engine in machine code, which does the same
        with them."""
        return {
            "attentions": [lookup.as_arrays() for lookup, _ in self._lookups],
            "layers": [int64_array(counts) for _, counts in self._lookups],
            "dummy_ns": int64_array(self._dummy_ns),
            "mixed_extra": self._mixed_extra,
            "exchange_ns": self._exchange_ns,
            "beside_tokens": SHARED_BESIDE_TOKENS,
            "padded": int64_array(self._padded),
            "graph": [int64_array(times) for times in self._graph],
            "own": self._eager_own,
            "routed": self._routed,
            "beside": self._beside,
            "head": self._head,
        }

    def reach(self, decodes: int) -> None:
        """Let the tables hold so many decodes of a rank."""
        for lookup, _ in self._lookups:
            lookup.reach(decodes)

    def count_beyond(self, found: Sequence[tuple[int, int]]) -> None:
        """Lookups beyond the measured range that were done elsewhere: how many and the furthest, of each attention's
        axes."""
        each = len(found) // len(self._lookups)
        for kind, (lookup, _) in enumerate(self._lookups):
            lookup.count_beyond(found[each * kind : each * (kind + 1)])

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range so far: one sentence per axis."""
        tables = next(iter(self._stages[0].kinds.values())).tables
        return tuple(
            f"{tables.hardware} / {tables.model}: {count} lookups extrapolated beyond the profile's {limit} {axis}, "
            f"the furthest at {furthest}"
            for lookup, _ in self._lookups
            for axis, (count, furthest, limit) in sorted(lookup.outside.items())
        )

    def _eager_ns(self, most: int, total: int) -> list[int]:
        """A forward without graphs: the largest rank's own tokens, and all ranks' tokens together."""
        times = [own[most] + routed[total] for own, routed in zip(self._eager_own, self._routed, strict=True)]
        if most <= SHARED_BESIDE_TOKENS:
            for stage, pairs in enumerate(self._beside):
                for count, routed, shared in pairs:
                    times[stage] += count * max(shared[most] - routed[total], 0)
        return times

    def _add_attention(self, times: list[int], loads: Sequence[StepLoad | None], extra: float) -> None:
        """Add the attention of all kinds but the first."""
        for place, (lookup, counts) in enumerate(self._lookups[1:], start=1):
            slowest: float = self._dummy_ns[place]
            for load in loads:
                if load is None:
                    continue
                decodes, context = load.decodes, load.decode_context
                shortest, longest = load.min_context, load.max_context
                prefill = load.prefill_tokens
                if prefill:
                    history = load.prefill_context
                    time = lookup.mixed_ns(prefill, history, decodes, context, shortest, longest)
                else:
                    time = lookup.decode_ns(decodes, context, shortest, longest)
                slowest = max(slowest, time)
            attention = int(slowest + extra)
            for stage, layers in enumerate(counts):
                times[stage] += layers * attention


def _lookups(stages: Sequence[GroupStage]) -> list[tuple[AttentionLookup, list[int]]]:
    """Each kind of attention on each hardware, with how many layers of it every stage has."""
    found: dict[tuple[Attention, int], tuple[AttentionLookup, list[int]]] = {}
    for number, stage in enumerate(stages):
        for group in stage.role.layers:
            tables = stage.kinds[group.kind].tables
            key = (group.kind.attention, id(tables.attention))
            if key not in found:
                found[key] = (attention_lookup(tables), [0] * len(stages))
            found[key][1][number] += group.count
    return list(found.values())


def _own_ns(stage: GroupStage, tokens: Int64Array) -> Int64Array:
    """All of a stage that depends on a rank's own tokens, without attention, padding or routed experts."""
    total = _edges_ns(stage, tokens)
    for group in stage.role.layers:
        kind = stage.kinds[group.kind]
        total = total + group.count * _around_ns(kind, tokens)
        if kind.experts is not None and kind.crossing is not None:
            layer = kind.experts
            us = np.zeros(len(tokens)) if layer.router is None else layer.router.at(tokens)
            if layer.shared is not None:
                us = us + np.where(tokens > SHARED_BESIDE_TOKENS, layer.shared.at(tokens), 0.0)
            none = np.zeros_like(tokens)
            total = total + group.count * (_ns(us) + kind.crossing(none, tokens) - kind.crossing(none, none))
    return total


def _routed_ns(stage: GroupStage, total: Int64Array) -> Int64Array:
    """Routed experts, dispatch and combine, by the tokens of all ranks together."""
    times = np.zeros_like(total)
    none = np.zeros_like(total)
    for group in stage.role.layers:
        kind = stage.kinds[group.kind]
        if kind.experts is not None and kind.crossing is not None:
            each = _ns(kind.experts.routed.at(total)) + kind.crossing(total, none)
            times = times + group.count * each
    return times


def _graph_ns(stage: GroupStage, tokens: Int64Array, ranks: int) -> Int64Array:
    """A stage when every rank runs so many tokens, without attention."""
    times = _edges_ns(stage, tokens)
    for group in stage.role.layers:
        kind = stage.kinds[group.kind]
        each = _around_ns(kind, tokens)
        if kind.experts is not None and kind.crossing is not None:
            routed = kind.experts.routed.at(ranks * tokens)
            each = (
                each
                + _ns(kind.experts.joined_us(routed, tokens.astype(np.float64)))
                + kind.crossing(ranks * tokens, tokens)
            )
        times = times + group.count * each
    return times


def _around_ns(kind: GroupKind, tokens: Int64Array) -> Int64Array:
    return _ns(kind.tables.block_us(tokens)) + kind.around_ns(tokens)


def _edges_ns(stage: GroupStage, tokens: Int64Array) -> Int64Array:
    dense = next(iter(stage.kinds.values())).tables.dense
    names = ("embedding",) * stage.role.first + ("final_layernorm",) * stage.role.last
    times = np.zeros_like(tokens)
    for name in names:
        if name in dense:
            times = times + _ns(dense[name].at(tokens))
    return times


def _shared_beside(stage: GroupStage, total: Int64Array) -> list[tuple[int, array[int], array[int]]]:
    """(layers, routed by all tokens, shared by own tokens) of each kind with shared experts."""
    own = np.arange(SHARED_BESIDE_TOKENS + 1)
    found: list[tuple[int, array[int], array[int]]] = []
    for kind, parts in stage.kinds.items():
        count = sum(group.count for group in stage.role.layers if group.kind == kind)
        layer = parts.experts
        if count and layer is not None and layer.shared is not None:
            found.append((count, _column(_ns(layer.routed.at(total))), _column(_ns(layer.shared.at(own)))))
    return found


def _ns(us: np.ndarray) -> Int64Array:
    return np.rint(us * 1000.0).astype(np.int64)


def _column(values: Int64Array) -> array[int]:
    return array("q", values.astype(np.int64).tobytes())
