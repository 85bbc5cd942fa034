"""A wheel's directory with small tables of known times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from penstock.cost.aiconfigurator.wheel import Wheel

TOKENS = (1, 16, 64, 256, 1024, 4096)
SIZES = (1024, 4096, 16384)


def gemm_ms(m: int, n: int, k: int) -> float:
    """5 us of launch, 2 TB/s, 400 TFLOP/s."""
    return 5e-3 + max(n * k * 2 / 2e9, 2 * m * n * k / 4e11)


def prompt_ms(length: int) -> float:
    """A launch and the square of the length."""
    return 8e-3 + 1e-8 * length**2


def decode_ms(batch: int, step: int, kv_heads: int) -> float:
    """A launch and KV of 128-wide heads at 2 TB/s."""
    return 6e-3 + batch * (step + 1) * kv_heads * 512 / 2e9


def write_wheel(root: Path, system: str = "h100_sxm", version: str = "0.24.0") -> Wheel:
    """GEMMs (bfloat16), attention of 8 and 32 heads over 8 KV heads, all-reduces of 2."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "query_versions.yaml").write_text(
        f'defaults:\n  vllm: {{current: "{version}"}}\noverrides: {{}}\n'
    )
    rows = [("bfloat16", m, n, k, gemm_ms(m, n, k)) for m in TOKENS for n in SIZES for k in SIZES]
    _write(root, system, ("gemm", version, "gemm"), ("gemm_dtype", "m", "n", "k", "latency"), rows)
    shared = ("num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", "window_size", "latency")
    context = [
        (1, isl, heads, 8, 128, "bfloat16", 0, prompt_ms(isl) * heads / 32)
        for heads in (16, 32)
        for isl in (1, 16, 64, 256, 1024, 4096, 16384)
    ]
    _write(root, system, ("attention", version, "context_attention"), ("batch_size", "isl", *shared), context)
    generation = [
        (batch, step, heads, 8, 128, "bfloat16", 0, decode_ms(batch, step, 8))
        for heads in (16, 32)
        for batch in (1, 16, 256)
        for step in (1, 127, 1023, 8191)
        if batch * step <= 300_000
    ]
    _write(
        root,
        system,
        ("attention", version, "generation_attention"),
        ("batch_size", "step", *shared),
        generation,
    )
    return Wheel(root)


def _write(
    root: Path,
    system: str,
    place: tuple[str, str, str],
    columns: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> None:
    family, version, name = place
    folder = root / "data" / system / family / "vllm" / version
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=list(columns), orient="row").write_parquet(folder / f"{name}_perf.parquet")
