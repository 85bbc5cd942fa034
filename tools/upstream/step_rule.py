"""How long LLMServingSim 2.0 (commit 5daddb2) makes one step, from kernel times that Penstock has read.

Its trace generator writes a step as rows: kernels, each with the loads and collectives that it waits for. One kernel
runs at a time on an NPU. What differs from Penstock's own costs is here, each rule in a function that says it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.cost.attention import attention_lookup
from penstock.cost.bundle import BundleAddress
from penstock.cost.compile import cost_question
from penstock.cost.memory_cost import pim_layer
from penstock.cost.placement import row_bytes
from penstock.cost.sources import bundle_directory, kernel_tables
from penstock.cost.step_cost import StepShape
from penstock.cost.tables import DENSE_BLOCK_LAYERS
from penstock.cost.weights import activation_bytes, embedding_weight_bytes
from penstock.pipeline.partition import partition_layers
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.layers import MoeMlp

_RING_ENDPOINT_NS = 10
_AFTER_ATTENTION = ("o_proj", "layernorm", "gate_up_proj", "act_fn", "down_proj")


@dataclass(frozen=True, slots=True)
class Item:
    """One request in a step: ``tokens`` new ones after ``context``; ``prompt`` is its prompt's length."""

    request: int
    tokens: int
    context: int
    prompt: int


DUMMY = Item(-1, 1, 1, 1)
"""What a member without requests computes beside the others of its group."""


class StepRule:
    """Steps of one instance. ``perf`` are the profile bundles."""

    def __init__(self, cluster: ClusterSpec, instance: InstanceSpec, perf: Path) -> None:
        model = instance.model
        kind = model.kinds[0]
        question = cost_question(instance, instance.hardware, kind)
        tables = kernel_tables(question, perf)
        self.instance = instance
        self._link = cluster.link
        self._tables = tables
        self._attention = attention_lookup(tables)
        self._kind = kind
        self._row_bytes = model.hidden_size * activation_bytes(instance.dtype)
        self._layers = partition_layers(model.num_layers, instance.pp_size)
        self._local_bytes_per_ns = cluster.link.local_mem_bytes_per_ns
        self._pim = None if instance.pim is None else pim_layer(instance, kind)
        self._moe = kind.mlp if isinstance(kind.mlp, MoeMlp) else None
        if self._moe is not None:
            bundle = bundle_directory(question, perf)
            assert bundle is not None
            self._experts = ExpertRows(BundleAddress(bundle, 1).tables / "moe.csv")
            self._expert_spans = self._expert_dimensions()

    @property
    def stages(self) -> int:
        """Of the pipeline."""
        return len(self._layers)

    def hop_ns(self, tokens: int) -> int:
        """A stage boundary: the hidden state, whole, in one message."""
        dimension = 0 if self.instance.tp_size == 1 else 1
        return self._message_ns(tokens * self._row_bytes, dimension)

    def handed_over_ns(self, sequences: int) -> int:
        """From a prompt's last row to its end with prefill apart: the sampled ids follow the KV to the shadow NPU."""
        return self._message_ns(4 * sequences, 0)

    def stages_ns(self, items: Sequence[Item], tokens: int, sequences: int) -> list[int]:
        """Each stage, with dense rows and experts padded to ``tokens``, lm_head to ``sequences``."""
        if self.instance.placement is not None:
            return [self._placed_ns(items, tokens, sequences)]
        layer = sum(time for _, time in self.block(items, tokens))
        times = [layers * layer for layers in self._layers]
        times[0] += self.row_ns("embedding", tokens)
        times[-1] += self.row_ns("final_layernorm", tokens) + self.head_ns(sequences)
        times[-1] += self._ids_ns(items, sequences)
        return times

    def _placed_ns(self, items: Sequence[Item], tokens: int, sequences: int) -> int:
        """On one stage. Every row waits for its own weights; all are asked for at the step's start, in order of the
        rows, one after the other on a device."""
        placement, model, dtype = self.instance.placement, self.instance.model, self.instance.dtype
        assert placement is not None
        sources = {one.name: (one.bytes_per_ns, one.latency_ns) for one in placement.devices}
        table = embedding_weight_bytes(model, 1, dtype)
        sizes = row_bytes(self.instance, self._kind, 1)
        norm = model.hidden_size * activation_bytes(dtype)
        sizes["layernorm"] = norm
        block = list(self.block(items, tokens))
        rows = [("embedding", placement.edge_device("embedding"), table, self.row_ns("embedding", tokens))]
        for layer in range(model.num_layers):
            rows += [
                (
                    name,
                    placement.weight_device(layer, name) if name in sizes else None,
                    sizes.get(name, 0),
                    time,
                )
                for name, time in block
            ]
        last = placement.edge_device("final_layernorm")
        rows.append(("final_layernorm", last, norm, self.row_ns("final_layernorm", tokens)))
        rows.append(("lm_head", placement.edge_device("lm_head"), table, self.head_ns(sequences)))
        free = dict.fromkeys(sources, 0)
        end = 0
        for _, device, size, time in rows:
            if device is not None:
                bytes_per_ns, latency = sources[device]
                free[device] += int(latency) + int(size / int(bytes_per_ns))
                end = max(end, free[device])
            end += time
        return end

    def block(self, items: Sequence[Item], tokens: int) -> Iterator[tuple[str, int]]:
        """The rows of a layer in order, each with the collective behind it."""
        yield "layernorm", self.row_ns("layernorm", tokens)
        for name in DENSE_BLOCK_LAYERS:
            if name in self._tables.dense and name not in _AFTER_ATTENTION:
                yield name, self.row_ns(name, tokens)
        if self._pim is not None:
            yield "pim", self.in_memory(items, self.channels(), 0)
            yield "attention", self.attention_ns([one for one in items if one.tokens > 1])
        else:
            yield "attention", self.attention_ns(items)
        for name in _AFTER_ATTENTION:
            if name in self._tables.dense:
                reduces = name in ("o_proj", "down_proj")
                yield name, self.row_ns(name, tokens) + (self.all_reduce_ns(tokens) if reduces else 0)
        if self._moe is not None:
            yield "moe", self._experts_ns(tokens)

    def after_attention_ns(self, tokens: int) -> int:
        """Of a layer of experts: the all-reduce after o_proj, and the experts with what is sent for them."""
        return self.all_reduce_ns(tokens) + self._experts_ns(tokens)

    def head_ns(self, sequences: int) -> int:
        """lm_head and sampler."""
        return round(float(self._tables.head_us(sequences)) * 1000)

    def attention_ns(self, items: Sequence[Item]) -> int:
        """On the NPU."""
        if not items:
            return 0
        load = shape(items)
        if not load.prefill_tokens:
            context, least, most = load.decode_context, load.min_context, load.max_context
            return int(self._attention.decode_ns(load.decodes, context, least, most) + 0.5)
        return int(
            self._attention.mixed_ns(
                load.prefill_tokens,
                load.prefill_context,
                load.decodes,
                load.decode_context,
                load.min_context,
                load.max_context,
            )
            + 0.5
        )

    def channels(self) -> list[int]:
        """When each channel of the memory is free: at once."""
        assert self._pim is not None
        return [0] * self._pim.pim.channels

    def in_memory(self, items: Sequence[Item], free_ns: list[int], start: int) -> int:
        """When the attention of decodes in memory ends, as if no context ever grew beyond its prompt: pieces, longest
        prompt first, each to the channel that is free first."""
        assert self._pim is not None
        end = start
        for one in sorted((one for one in items if one.tokens == 1), key=lambda one: -one.prompt):
            for _ in range(self._pim.pim.split(self._pim.kv_heads)):
                channel = min(range(len(free_ns)), key=lambda place: max(free_ns[place], start))
                free_ns[channel] = max(free_ns[channel], start) + int(self._pim.piece_ns(one.prompt))
                end = max(end, free_ns[channel])
        return end

    def _ids_ns(self, items: Sequence[Item], sequences: int) -> int:
        """Ids of a step over the memory with PIM: in where a decode begins with them, and out; elsewhere 0 or 1 ns."""
        if self._pim is None:
            return 0
        return self.ids_out_ns(sequences) * (2 if any(one.tokens == 1 for one in items) else 1)

    def ids_out_ns(self, sequences: int) -> int:
        """Sampled ids into the memory with PIM."""
        assert self._pim is not None
        return int(self._pim.pim.latency_ns) + int(4 * sequences / int(self._pim.pim.bytes_per_ns))

    def row_ns(self, name: str, tokens: int) -> int:
        """A kernel by the tokens of its step."""
        return round(float(self._tables.dense[name].at(tokens)) * 1000)

    def _message_ns(self, size_bytes: int, dimension: int) -> int:
        place = min(dimension, len(self._link.bandwidth_gb_per_s) - 1)
        bytes_per_ns = self._link.bandwidth_gb_per_s[place] * 2**30 / 1e9
        return int(self._link.latency_ns[place] + size_bytes / bytes_per_ns)

    def _ring_ns(self, size_bytes: int, dimension: int, steps: int, reduces: int) -> int:
        """``steps`` messages, and the small terms of ASTRA-Sim's system layer."""
        small = _RING_ENDPOINT_NS * (steps + 1) + 3 * reduces * (size_bytes // self._local_bytes_per_ns)
        return steps * self._message_ns(size_bytes, dimension) + small

    def all_reduce_ns(self, tokens: int) -> int:
        """A ring over the tensor-parallel ranks."""
        ranks = self.instance.tp_size
        if ranks == 1:
            return 0
        return self._ring_ns(tokens * self._row_bytes // ranks, 0, 2 * (ranks - 1), ranks - 1)

    def _expert_dimensions(self) -> list[tuple[int, int]]:
        """(dimension, ranks) that expert parallelism spans, innermost first."""
        tp, ep = self.instance.tp_size, self.instance.experts.ep_size
        outer = 1 if self.instance.pp_size == 1 else 2
        spans = [(0, min(tp, ep))] + ([(outer, ep // tp)] if ep > tp else [])
        return [(dimension, ranks) for dimension, ranks in spans if ranks > 1]

    def _experts_ns(self, tokens: int) -> int:
        """An all-gather of hidden states and router logits, the experts of a rank, a reduce-scatter of hidden states.
        The tokens are those of one member, the largest; all of the group's are there after the all-gather."""
        moe = self._moe
        assert moe is not None
        ep = self.instance.experts.ep_size
        picks = moe.experts_per_token
        local = round(tokens * (1 - ((ep - 1) / ep) ** picks))
        activated = min(round(tokens * picks / ep), moe.num_experts // ep)
        time = self._experts.time_ns(local, activated)
        size = max(1, tokens // ep) * (
            self._row_bytes + moe.num_experts * activation_bytes(self.instance.dtype)
        )
        for dimension, ranks in reversed(self._expert_spans):
            time += self._ring_ns(size, dimension, ranks - 1, 0)
            size *= ranks
        size = tokens * self._row_bytes
        for dimension, ranks in self._expert_spans:
            size //= ranks
            time += self._ring_ns(size, dimension, ranks - 1, ranks - 1)
        return time


class ExpertRows:
    """``moe.csv``: linear in tokens, then in activated experts, in whole ns; no row is gone beyond."""

    def __init__(self, path: Path) -> None:
        found: dict[int, dict[int, int]] = defaultdict(dict)
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            tokens, activated, us = line.split(",")
            found[int(activated)][int(tokens)] = round(float(us) * 1000)
        self._rows = {activated: sorted(points.items()) for activated, points in sorted(found.items())}

    def time_ns(self, tokens: int, activated: int) -> int:
        """Of one rank."""
        points = [(experts, _between(row, tokens)) for experts, row in self._rows.items()]
        return int(_between(points, activated))


def shape(items: Sequence[Item]) -> StepShape:
    """The step as Penstock's tables are asked for it."""
    prompts = [one for one in items if one.tokens > 1]
    contexts = [one.context for one in items if one.tokens == 1]
    return StepShape(
        sum(one.tokens for one in prompts),
        sum(one.context for one in prompts),
        len(contexts),
        sum(contexts),
        min(contexts, default=0),
        max(contexts, default=0),
        len(items),
    )


def _between(points: Sequence[tuple[int, Any]], size: int) -> float:
    sizes = [at for at, _ in points]
    place = min(max(bisect_right(sizes, size), 1), len(points) - 1)
    (low, before), (high, after) = points[place - 1], points[place]
    if size <= points[0][0]:
        return points[0][1]
    if size >= points[-1][0]:
        return points[-1][1]
    return before + (after - before) * (size - low) / (high - low)
