"""A step's time on each stage, row by row: kernels, and the collectives between them. Their sum is the stage's time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.cost.building_blocks import group_link
from penstock.cost.compile import cost_question, layer_tables
from penstock.cost.stage import TabulatedStageCost
from penstock.cost.step_cost import StepLoad
from penstock.cost.tables import DENSE_BLOCK_LAYERS, PER_SEQUENCE_LAYERS, KernelTables
from penstock.cost.weights import activation_bytes
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.layers import LayerKind, StageLayers

_AFTER_ATTENTION = ("o_proj", "layernorm", "gate_up_proj", "act_fn", "down_proj", "moe")


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel of ``duration_ns``, or, with ``all_reduce_bytes``, an all-reduce over the stage's ranks."""

    name: str
    duration_ns: int
    all_reduce_bytes: int = 0


class StepRows:
    """The rows of an instance's steps, for stages of one hardware and layers of one kind of attention.

    Raises:
        LookupError: it is another kind of instance; says which.
    """

    def __init__(
        self,
        instance: InstanceSpec,
        cluster: ClusterSpec,
        stages: Sequence[StageLayers],
        stage_cost: object,
        profile_root: Path | None,
    ) -> None:
        kinds = instance.model.kinds
        if not isinstance(stage_cost, TabulatedStageCost):
            raise LookupError(
                "its stages differ in hardware, or are calibrated, placed or computed elsewhere"
            )
        if instance.in_lockstep:
            raise LookupError("it runs in lock-step with other ranks")
        if len({kind.attention for kind in kinds}) > 1:
            raise LookupError("its layers attend in several ways")
        self._instance = instance
        self._stages = stages
        self._cost = stage_cost
        self._link = group_link(cluster.link, instance.tp_size, instance.where)
        self._tables = {
            kind: layer_tables(cost_question(instance, instance.hardware, kind), instance, profile_root)
            for kind in kinds
        }

    def rows(self, stage: int, load: StepLoad) -> list[Row]:
        """Of one stage, in order; nothing where the step has no tokens."""
        tokens = load.prefill_tokens + load.decodes
        attention = self._cost.attention_ns(load)
        found: list[Row] = []
        if stage == 0:
            found += self._edge("embedding", tokens)
        layer = 0
        for group in self._stages[stage]:
            block = list(self._block(group.kind, tokens, attention))
            for _ in range(group.count):
                found += [Row(f"{row.name}_{layer}", row.duration_ns, row.all_reduce_bytes) for row in block]
                layer += 1
        if stage == len(self._stages) - 1:
            found += self._edge("final_layernorm", tokens)
            tables = self._any()
            heads = [(n, float(tables.per_sequence[n].at(load.sampled)) * 1e3) for n in self._heads()]
            found += [Row(name, ns) for name, ns in _whole(heads)] if load.sampled else []
        return found

    def hop_bytes(self, load: StepLoad) -> int:
        """What each rank sends to the next stage: its slice of each tensor."""
        instance = self._instance
        tensor = (load.prefill_tokens + load.decodes) * self._row_bytes()
        return instance.activation_tensors * tensor // instance.tp_size

    def _block(self, kind: LayerKind, tokens: int, attention: int) -> Iterator[Row]:
        tables = self._tables[kind]
        names = [name for name in _order(tables) if name == "attention" or name in tables.dense]
        times = [
            (name, 0.0 if name == "attention" else float(tables.dense[name].at(tokens)) * 1e3)
            for name in names
        ]
        size = tokens * self._row_bytes()
        ranks = self._instance.tp_size
        reduce = Row("all_reduce", self._link.all_reduce_ns(size, ranks), size)
        for place, (name, ns) in enumerate(_whole(times)):
            yield Row(name, attention if name == "attention" else ns)
            if ranks > 1 and (name == "o_proj" or place == len(times) - 1):
                yield reduce

    def _edge(self, name: str, tokens: int) -> list[Row]:
        curve = self._any().dense.get(name)
        return [] if curve is None else [Row(name, int(np.rint(float(curve.at(tokens)) * 1000.0)))]

    def _heads(self) -> list[str]:
        return [name for name in PER_SEQUENCE_LAYERS if name in self._any().per_sequence]

    def _any(self) -> KernelTables:
        return next(iter(self._tables.values()))

    def _row_bytes(self) -> int:
        return self._instance.model.hidden_size * activation_bytes(self._instance.dtype)


def _order(tables: KernelTables) -> list[str]:
    """Rows of a block as they run."""
    before = [name for name in DENSE_BLOCK_LAYERS if name not in _AFTER_ATTENTION and name in tables.dense]
    after = [name for name in _AFTER_ATTENTION if name in tables.dense]
    norm = ["layernorm"] if "layernorm" in tables.dense else []
    return [*norm, *(name for name in before if name != "layernorm"), "attention", *after]


def _whole(times: Sequence[tuple[str, float]]) -> Iterator[tuple[str, int]]:
    """In whole ns, whose sum is the rounded sum."""
    total, told = 0.0, 0
    for name, ns in times:
        total += ns
        rounded = int(np.rint(total))
        yield name, rounded - told
        told = rounded
