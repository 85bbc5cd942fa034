"""Small instances, tables and bundles for the tests of the cost side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.tables import AttentionGrid, Curve, KernelTables
from penstock.spec.cluster import ClusterSpec, InstanceSpec, LinkSpec
from penstock.spec.layers import uniform_layers
from penstock.spec.model import ModelSpec
from penstock.spec.options import SchedulerOptions
from penstock.units import GIB

TINY = ModelSpec(
    name="tiny/model",
    hidden_size=1024,
    layers=uniform_layers(4, num_heads=16, num_kv_heads=4, head_dim=64, intermediate_size=4096),
    vocab_size=32000,
    max_position_embeddings=8192,
)
LAYERS = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj")


def make_instance(**changes: Any) -> InstanceSpec:
    """Llama-like tiny model on a big chip; keywords replace fields."""
    fields: dict[str, Any] = {
        "index": 0,
        "node": 0,
        "model": TINY,
        "hardware": "H100",
        "tp_size": 1,
        "pp_size": 2,
        "memory_bytes": 8 * GIB,
        "memory_bandwidth_gb_per_s": 1000.0,
        "memory_utilization": 0.9,
        "dtype": "bfloat16",
        "kv_cache_dtype": "auto",
        "scheduler": SchedulerOptions(max_num_batched_tokens=512),
        "where": "cluster.json: nodes[0].instances[0]",
    }
    return InstanceSpec(**{**fields, **changes})


def make_cluster(instance: InstanceSpec, bandwidth: Any = (16.0,), latency: Any = (20000.0,)) -> ClusterSpec:
    """One instance on a network."""
    return ClusterSpec(
        source="cluster.json",
        link=LinkSpec(bandwidth_gb_per_s=tuple(bandwidth), latency_ns=tuple(latency)),
        instances=(instance,),
    )


def make_tables() -> KernelTables:
    """Kernel k of LAYERS takes k + 1 us plus 0.01 us a token; attention is linear in everything."""
    sizes = np.array([1.0, 64.0, 512.0])
    dense = {name: Curve(sizes, k + 1 + 0.01 * sizes) for k, name in enumerate(LAYERS)}
    dense["embedding"] = Curve(sizes, 5 + 0.0 * sizes)
    dense["final_layernorm"] = Curve(sizes, 7 + 0.0 * sizes)
    heads = np.array([1.0, 8.0, 256.0])
    chunks, decodes = np.array([0.0, 16.0, 128.0]), np.array([0.0, 1.0, 8.0, 64.0])
    histories, contexts = np.array([0.0, 64.0, 1024.0]), np.array([16.0, 256.0, 4096.0])
    us = (
        2.0
        + 0.5 * chunks[:, None, None, None]
        + 0.25 * decodes[None, :, None, None]
        + 0.125 * histories[None, None, :, None]
        + 0.0625 * contexts[None, None, None, :]
    )
    return KernelTables(
        hardware="H100",
        model=TINY.name,
        tp_size=1,
        dense=dense,
        per_sequence={"lm_head": Curve(heads, 100 + heads), "sampler": Curve(heads, 10 + 0.0 * heads)},
        attention=AttentionGrid(chunks, decodes, histories, contexts, us),
    )


def write_bundle(root: Path, *, tp_size: int = 1, hardware: str = "H100", variant: str = "bf16") -> Path:
    """A bundle of ``make_tables`` on disk; returns its directory."""
    tables = make_tables()
    directory = root / hardware / TINY.name / variant
    folder = directory / f"tp{tp_size}"
    folder.mkdir(parents=True)
    (directory / "meta.yaml").write_text(
        "profiler_version: 1\nskew_fit:\n  enabled: false\n", encoding="utf-8"
    )
    for name, column, curves in (
        ("dense.csv", "tokens", tables.dense),
        ("per_sequence.csv", "sequences", tables.per_sequence),
    ):
        lines = [f"layer,{column},time_us"]
        for layer, curve in curves.items():
            lines += [f"{layer},{int(x)},{y}" for x, y in zip(curve.sizes, curve.us, strict=True)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    grid = tables.attention
    lines = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    for (c, n, p, k), us in np.ndenumerate(grid.us):
        chunk, many = int(grid.chunks[c]), int(grid.decodes[n])
        history, context = int(grid.prefill_contexts[p]), int(grid.decode_contexts[k])
        if (chunk or many) and (chunk or not history) and (many or k == 0):
            value = us if many else us - 0.0625 * grid.decode_contexts[k]
            lines.append(f"{chunk},{history},{many},{context if many else 0},{value}")
    (folder / "attention.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
