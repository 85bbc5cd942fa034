"""Where weights and KV lie: on the NPU, in the node's host memory, or on a CXL device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """Memory outside the NPUs, read by one transfer at a time: ``latency_ns`` + bytes / ``bytes_per_ns``."""

    name: str
    size_bytes: int
    bytes_per_ns: float
    latency_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSpec:
    """``weights[l]`` maps rows of layer l (``qkv_proj``, ``down_proj``, ...; "" is all others) to devices; ``edges``
    the embedding, final_layernorm and lm_head. ``kv[l]`` is where layer l's KV lies. None is the NPU.
    ``prefetch_layers`` is how many layers' loads may be under way or waiting on the NPU at once, None as many as fit.
    """

    devices: tuple[MemoryDevice, ...]
    weights: tuple[tuple[tuple[str, str | None], ...], ...]
    edges: tuple[tuple[str, str | None], ...]
    kv: tuple[str | None, ...]
    prefetch_layers: int | None = None

    def device(self, name: str) -> MemoryDevice:
        """By name: ``cpu:0``, ``cxl:1``."""
        return next(one for one in self.devices if one.name == name)

    def weight_device(self, layer: int, row: str) -> str | None:
        """Of a row of a layer."""
        rows = dict(self.weights[layer])
        return rows[row] if row in rows else rows.get("")

    def edge_device(self, row: str) -> str | None:
        """Of ``embedding``, ``final_layernorm`` or ``lm_head``."""
        return dict(self.edges).get(row)

    @property
    def is_all_on_npu(self) -> bool:
        """Nothing lies elsewhere."""
        rows = [device for layer in (*self.weights, self.edges) for _, device in layer]
        return not any((*rows, *self.kv))
