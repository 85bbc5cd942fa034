"""Bytes of a placed model: what each device holds, what each step loads, and what the NPU keeps room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from penstock.cost.kernels import kernel_set
from penstock.cost.placed import PlacedPart, Source
from penstock.cost.weights import (
    activation_bytes,
    embedding_weight_bytes,
    kv_bytes_per_token_layer,
    layer_weight_bytes,
    shard_of,
    weight_bytes,
)
from penstock.spec.cluster import ClusterSpec, InstanceSpec
from penstock.spec.layers import LayerGroup, LayerKind, MoeMlp, StageLayers, count_layers
from penstock.spec.placement import PlacementSpec

LEAST_PREFETCH = 2
"""Layers of room where all do not fit: one computes while the next is loaded."""


Held = tuple[str, int, int]
"""A device, and how many bytes of a layer it holds in how many tensors."""


@dataclass(frozen=True, slots=True)
class PlacedStage:
    """A stage on one NPU: bytes of weights per device by layer (the ends of the model as layers of their own), and of
    KV per token by device, and layers whose KV stays."""

    layers: tuple[tuple[Held, ...], ...]
    kv: tuple[tuple[str, int], ...]
    kv_at_home: StageLayers

    @property
    def weights_bytes(self) -> int:
        """Of all devices."""
        return sum(size for layer in self.layers for _, size, _ in layer)

    def buffer_bytes(self, prefetch: int) -> int:
        """Room on the NPU for that many layers' loads."""
        sizes = [sum(size for _, size, _ in layer) for layer in self.layers]
        windows = (sum(sizes[start : start + prefetch]) for start in range(len(sizes)))
        return max(windows, default=0)


def placed_stage(
    instance: InstanceSpec, placement: PlacementSpec, stages: Sequence[StageLayers], stage: int, tp_size: int
) -> PlacedStage:
    """What a stage's NPUs do not hold."""
    first, last = stage == 0, stage == len(stages) - 1
    layers: list[tuple[Held, ...]] = []
    kv: Counter[str] = Counter()
    table = embedding_weight_bytes(instance.model, tp_size, instance.dtype)
    tied = instance.model.tie_word_embeddings and first and last
    if first:
        layers.append(_placed([(placement.edge_device("embedding"), table, 1)]))
    home: list[LayerKind] = []
    for layer, kind in _numbered(stages, stage):
        rows = row_bytes(instance, kind, tp_size).items()
        layers.append(
            _placed(
                (placement.weight_device(layer, row), size, 2 if row == "layernorm" else 1)
                for row, size in rows
            )
        )
        device = placement.kv[layer]
        if device is None:
            home.append(kind)
        else:
            kv[device] += kv_bytes_per_token_layer(kind, tp_size, instance.dtype, instance.kv_cache_dtype)
    if last:
        norm = instance.model.norm_elements * activation_bytes(instance.dtype)
        ends = [(placement.edge_device("final_layernorm"), norm, 1)]
        if not tied:
            ends.append((placement.edge_device("lm_head"), table, 1))
        layers.append(_placed(ends))
    return PlacedStage(tuple(layers), tuple(kv.items()), _grouped(home))


def row_bytes(instance: InstanceSpec, kind: LayerKind, tp_size: int) -> dict[str, int]:
    """Weights of a layer on one NPU by row; what has no matrix of its own is the experts', or else the norms'."""
    model, dtype = instance.model, instance.dtype
    kernels = kernel_set(model, kind, tp_size, dtype, instance.kv_cache_dtype)
    attention = weight_bytes(model.attention_dtype or dtype)
    rows = {
        name: round(gemm.inner * gemm.outer * (attention if name not in _MLP else weight_bytes(dtype)))
        for name, gemm in kernels.gemms.items()
        if name != "lm_head"
    }
    whole = layer_weight_bytes(model, kind, shard_of(instance, tp_size), dtype)
    rest = "expert" if isinstance(kind.mlp, MoeMlp) else "layernorm"
    return {**rows, rest: max(whole - sum(rows.values()), 0)}


_MLP = ("gate_up_proj", "down_proj")


def stage_parts(
    instance: InstanceSpec,
    cluster: ClusterSpec,
    stages: Sequence[StageLayers],
    stage: int,
    kinds: Sequence[LayerKind],
) -> tuple[tuple[PlacedPart, ...], tuple[Source, ...]]:
    """A stage for :class:`~penstock.cost.placed.PlacedStageCost`: piece 0 is the embedding, then ``kinds``, then the
    head. Loads are those of all ranks."""
    placement = instance.placement
    assert placement is not None
    ranks = instance.tp_size
    placed = placed_stage(instance, placement, stages, stage, ranks)
    users = device_users(cluster)
    names = [device.name for device in placement.devices]
    sources = tuple(
        Source(device.bytes_per_ns / max(users.get(device.name, 1), 1), device.latency_ns)
        for device in placement.devices
    )
    first, last = stage == 0, stage == len(stages) - 1
    parts: list[PlacedPart] = []
    row = instance.model.hidden_size * activation_bytes(instance.dtype)
    rest = list(placed.layers)
    if first:
        rest.pop(0)
        device = placement.edge_device("embedding")
        looked_up = () if device is None else ((names.index(device), row),)
        parts.append(PlacedPart(0, per_token=looked_up))
    for layer, kind in _numbered(stages, stage):
        device = placement.kv[layer]
        kv: tuple[tuple[int, int], ...] = ()
        if device is not None:
            size = kv_bytes_per_token_layer(kind, ranks, instance.dtype, instance.kv_cache_dtype)
            kv = ((names.index(device), size * ranks),)
        fixed = tuple((names.index(name), size * ranks, count) for name, size, count in rest.pop(0))
        parts.append(PlacedPart(1 + kinds.index(kind), fixed, kv, kv))
    if last:
        fixed = tuple((names.index(name), size * ranks, count) for name, size, count in rest.pop(0))
        parts.append(PlacedPart(1 + len(kinds), fixed))
    return tuple(parts), sources


def device_users(cluster: ClusterSpec) -> Counter[str]:
    """How many stages of all instances load from each device."""
    users: Counter[str] = Counter()
    for instance in cluster.instances:
        placement = instance.placement
        if placement is not None:
            used = {device for layer in (*placement.weights, placement.edges) for _, device in layer}
            for device in (used | set(placement.kv)) - {None}:
                users[str(device)] += instance.pp_size
    return users


def host_bytes_per_step(instance: InstanceSpec) -> float:
    """Placed weights that every step reads, of all ranks and layers."""
    placement = instance.placement
    if placement is None:
        return 0.0
    whole = placed_stage(instance, placement, (instance.model.layers,), 0, instance.tp_size)
    table = embedding_weight_bytes(instance.model, instance.tp_size, instance.dtype)
    looked_up = table if placement.edge_device("embedding") is not None else 0
    return float((whole.weights_bytes - looked_up) * instance.tp_size)


def _numbered(stages: Sequence[StageLayers], stage: int) -> Iterator[tuple[int, LayerKind]]:
    layer = sum(count_layers(one) for one in stages[:stage])
    for group in stages[stage]:
        for _ in range(group.count):
            yield layer, group.kind
            layer += 1


def _placed(rows: Iterable[tuple[str | None, int, int]]) -> tuple[Held, ...]:
    sizes: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for device, size, count in rows:
        if device is not None and size:
            sizes[device] += size
            tensors[device] += count
    return tuple((device, size, tensors[device]) for device, size in sizes.items())


def _grouped(kinds: Sequence[LayerKind]) -> StageLayers:
    return tuple(LayerGroup(kind, kinds.count(kind)) for kind in dict.fromkeys(kinds))
