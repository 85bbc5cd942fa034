"""Vidur's measurements: ``mlp.csv`` (dense kernels) and ``network/*.csv`` (send/recv, all-reduce)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from penstock.cost.roofline import roofline_tables
from penstock.cost.tables import KernelTables
from penstock.errors import Problem, UserError
from penstock.files.csv_text import measured, named_rows
from penstock.profiling.old_layout import Profile
from penstock.spec.hardware import find_hardware
from penstock.spec.layers import uniform_layers
from penstock.spec.model import ModelSpec

KERNELS: Mapping[str, str] = {
    "embedding": "emb",
    "qkv_proj": "attn_pre_proj",
    "rotary_emb": "attn_rope",
    "o_proj": "attn_post_proj",
    "gate_up_proj": "mlp_up_proj",
    "act_fn": "mlp_act",
    "down_proj": "mlp_down_proj",
}
_NORMS = ("input_layernorm", "post_attention_layernorm")
_SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size")
_MAX_SIZE = 1 << 24
_MAX_TOKENS = 4096
_NOTE = (
    "dense kernels as Vidur measured them, residual additions included in the norms; attention, lm_head and "
    "sampler are from the roofline, which is an estimate"
)


def read_vidur_mlp(path: Path, *, hardware: str, model: str) -> tuple[dict[int, Profile], str]:
    """Every tp degree of an ``mlp.csv``, up to 4096 tokens, completed with what Vidur keeps elsewhere.

    Raises:
        UserError: not Vidur's columns, or hardware the roofline does not know.
    """
    known = find_hardware(hardware)
    if known is None:
        raise UserError(f"--hardware {hardware}: not in the catalogue, so attention cannot be completed")
    profiles: dict[int, Profile] = {}
    shape: ModelSpec | None = None
    medians = [f"time_stats.{name}.median" for name in (*KERNELS.values(), *_NORMS, "add")]
    for line, row in named_rows(path, (*medians, *_SHAPE, "num_tokens", "num_tensor_parallel_workers")):
        try:
            tokens, degree = int(row["num_tokens"]), int(row["num_tensor_parallel_workers"])
            cells = {name: row[f"time_stats.{name}.median"] for name in _names()}
            times = {name: measured(cell) * 1000 if cell else np.nan for name, cell in cells.items()}
            shape = shape or _model(model, row)
        except ValueError as error:
            raise UserError([Problem(f"{path}:{line}", f"not a measurement: {error}")]) from error
        if tokens > _MAX_TOKENS:
            continue
        dense = profiles.setdefault(degree, Profile()).dense
        for layer, name in KERNELS.items():
            if np.isfinite(times[name]):
                dense.setdefault(layer, []).append((tokens, times[name]))
        norm = np.nanmean([times[name] for name in _NORMS]) + times["add"]
        for layer in ("layernorm", "final_layernorm"):
            dense.setdefault(layer, []).append((tokens, float(norm)))
    if shape is None:
        raise UserError([Problem(str(path), "holds no measurement")])
    for degree, profile in profiles.items():
        profile.dense = {layer: sorted(points) for layer, points in profile.dense.items()}
        tables = roofline_tables(
            known,
            shape,
            kind=shape.kinds[0],
            tp_size=degree,
            dtypes=("bfloat16", "auto"),
            max_tokens=_MAX_TOKENS,
        )
        _complete(profile, tables)
    return profiles, _NOTE


def _names() -> tuple[str, ...]:
    return (*KERNELS.values(), *_NORMS, "add")


def _model(name: str, row: Mapping[str, str]) -> ModelSpec:
    heads, kv_heads, hidden, inner, vocab = sizes = [int(row[column]) for column in _SHAPE]
    if not (all(0 < size < _MAX_SIZE for size in sizes) and heads <= hidden):
        raise ValueError(f"{', '.join(_SHAPE)} of {', '.join(map(str, sizes))} are of no model")
    return ModelSpec(
        name=name,
        hidden_size=hidden,
        layers=uniform_layers(
            1,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=hidden // heads,
            intermediate_size=inner,
        ),
        vocab_size=vocab,
        max_position_embeddings=131_072,
    )


def _complete(profile: Profile, tables: KernelTables) -> None:
    for layer, curve in tables.per_sequence.items():
        profile.per_sequence[layer] = [
            (int(size), float(time)) for size, time in zip(curve.sizes, curve.us, strict=True)
        ]
    grid = tables.attention
    every = np.argwhere(np.ones(grid.us.shape, dtype=bool))
    for c, n, p, k in every[:: max(len(every) // 20000, 1)].tolist():
        chunk, decodes, history = grid.chunks[c], grid.decodes[n], grid.prefill_contexts[p]
        if (chunk or decodes) and (chunk or not history) and (decodes or not k):
            context = grid.decode_contexts[k] if decodes else 0.0
            row = (float(chunk), float(history), float(decodes), float(context), float(grid.us[c, n, p, k]))
            profile.attention.append(row)
