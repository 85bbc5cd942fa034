"""``penstock profile import``: profiles of other layouts written as bundles in LLMServingSim's present one.

LLMServingSim's old layout has, per tp degree, ``layers.csv`` (every kernel at 1 to 2048 tokens, nanoseconds)
and, for some, ``attention.csv`` in Vidur's columns (chunks and decodes apart, milliseconds).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.cost.bundle import BundleAddress
from penstock.errors import Problem, UserError
from penstock.files.csv_text import measured, named_rows
from penstock.files.writing import all_or_nothing, atomic_write

TOKEN_SIZES = tuple(sorted({*range(1, 17), *range(16, 64, 4), *range(64, 2049, 16)}))
SEQUENCE_SIZES = tuple(size for size in TOKEN_SIZES if size <= 256)
_SUMS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding",),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "rotary_emb": ("rope",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "act_fn": ("act_fn",),
    "down_proj": ("down_proj",),
    "final_layernorm": ("final_layernorm",),
}
_LEAST_SHARE = 0.8
"""A batch that takes less than this share of its first sequence alone, at the shortest context, is a kernel that
did nothing: left out."""

_NOTE = (
    "q, k, v and gate, up were measured apart and are added; layer norms and rotary embedding are unfused; "
    "attention was measured for chunks and decodes apart, of chunks against a number of keys without the causal "
    "mask, so the history here is that number less half the chunk; no sampler"
)


@dataclass(slots=True)
class Profile:
    """Rows of one tp degree, microseconds: ``dense[layer]`` and ``per_sequence[layer]`` are (size, time),
    ``attention`` (chunk, history, decodes, context, time)."""

    dense: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    per_sequence: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    attention: list[tuple[float, ...]] = field(default_factory=list)


def read_old_layout(directory: Path) -> tuple[dict[int, Profile], str]:
    """Every tp degree under ``directory`` (``tp<N>/layers.csv``), and a note on what was derived.

    A degree without ``attention.csv`` gets the nearest other degree's, the time above a launch scaled by the
    heads on a rank.

    Raises:
        UserError: nothing there, or no degree has attention.
    """
    degrees = sorted(
        int(path.parent.name[2:])
        for path in directory.glob("tp*/layers.csv")
        if path.parent.name[2:].isdigit()
    )
    if not degrees:
        raise UserError([Problem(str(directory), "holds no tp<N>/layers.csv")])
    profiles = {degree: _read_layers(directory / f"tp{degree}" / "layers.csv") for degree in degrees}
    measured = [degree for degree in degrees if (directory / f"tp{degree}" / "attention.csv").is_file()]
    if not measured:
        raise UserError([Problem(str(directory), "no tp degree has an attention.csv")])
    note = _NOTE
    for degree in measured:
        rows = _read_vidur_attention(directory / f"tp{degree}" / "attention.csv")
        profiles[degree].attention = list(
            {row[:4]: row for row in (*profiles[degree].attention, *rows)}.values()
        )
    for degree in set(degrees) - set(measured):
        donor = min(measured, key=lambda other, own=degree: max(other, own) / min(other, own))
        profiles[degree].attention = _scaled(profiles[donor].attention, donor / degree)
        note += f"; attention of tp {degree} is scaled from tp {donor}"
    return profiles, note


def _scaled(rows: Iterable[tuple[float, ...]], share: float) -> list[tuple[float, ...]]:
    rows = list(rows)
    launch = min(row[-1] for row in rows)
    return [(*row[:-1], launch + (row[-1] - launch) * share) for row in rows]


def _read_layers(path: Path) -> Profile:
    times: dict[str, dict[int, float]] = {}
    for line, row in named_rows(path, ("layer_name", "input", "kv_cache", "latency(ns)")):
        try:
            if int(row["kv_cache"]) == 0:
                times.setdefault(row["layer_name"], {})[int(row["input"])] = (
                    measured(row["latency(ns)"]) / 1000
                )
        except ValueError as error:
            raise UserError([Problem(f"{path}:{line}", f"not a measurement: {error}")]) from error
    sums = {**_SUMS, "layernorm": ("input_layernorm", "post_layernorm")}
    missing = sorted({part for parts in sums.values() for part in (*parts, "lm_head", "attn")} - set(times))
    if missing:
        raise UserError([Problem(str(path), f"no rows for {', '.join(missing)}")])
    profile = Profile()
    for layer, parts in sums.items():
        share = 0.5 if layer == "layernorm" else 1.0
        sizes = [size for size in TOKEN_SIZES if all(size in times[part] for part in parts)]
        profile.dense[layer] = [(size, share * sum(times[part][size] for part in parts)) for size in sizes]
    profile.per_sequence["lm_head"] = [
        (size, times["lm_head"][size]) for size in SEQUENCE_SIZES if size in times["lm_head"]
    ]
    whole = [size for size in _octaves(16, 2048) if size in times["attn"]]
    profile.attention = [(size, 0, 0, 0, times["attn"][size]) for size in whole]
    return profile


def _read_vidur_attention(path: Path) -> list[tuple[float, ...]]:
    """Thinned to two points an octave on each axis; chunks need no thinning."""
    columns = ("is_prefill", "batch_size", "prefill_chunk_size", "kv_cache_size")
    medians = {"True": "time_stats.attn_prefill.median", "False": "time_stats.attn_decode.median"}
    kept: list[tuple[float, ...]] = []
    batches, contexts = set(_octaves(1, 256)), set(_octaves(32, 65536))
    for line, row in named_rows(path, (*columns, *medians.values())):
        try:
            chunk, context = int(row["prefill_chunk_size"]), int(row["kv_cache_size"])
            batch, time = int(row["batch_size"]), measured(row[medians[row["is_prefill"]]]) * 1000
        except (ValueError, KeyError) as error:
            raise UserError([Problem(f"{path}:{line}", f"not a measurement: {error!r}")]) from error
        if chunk and chunk in _octaves(16, 2048):
            kept.append((chunk, context - chunk / 2, 0, 0, time))
        elif not chunk and batch in batches and context in contexts:
            kept.append((0, 0, batch, context, time))
    alone = [row for row in kept if row[2] == 1]
    least = _LEAST_SHARE * min(alone, key=lambda row: row[3])[4] if alone else 0.0
    return [row for row in kept if row[0] or row[4] >= least]


def _octaves(first: int, last: int) -> list[int]:
    """Powers of two from ``first`` to ``last`` and the sizes half-way between."""
    sizes: list[int] = []
    size = first
    while size <= last:
        sizes += [size, size * 3 // 2] if size * 3 // 2 <= last else [size]
        size *= 2
    return sizes


def write_bundle(directory: Path, profiles: Mapping[int, Profile], meta: Mapping[str, object]) -> list[Path]:
    """Write ``meta.yaml`` and the CSV files of every degree, all or none; returns their paths.

    Raises:
        UserError: a file cannot be written.
    """
    with all_or_nothing():
        return _write_bundle(directory, profiles, meta)


def _write_bundle(directory: Path, profiles: Mapping[int, Profile], meta: Mapping[str, object]) -> list[Path]:
    import yaml

    written: list[Path] = []
    for degree, profile in sorted(profiles.items()):
        folder = BundleAddress(directory, degree).tables
        for name, column, layers in (
            ("dense.csv", "tokens", profile.dense),
            ("per_sequence.csv", "sequences", profile.per_sequence),
        ):
            lines = [f"layer,{column},time_us"]
            lines += [
                f"{layer},{size},{time:.6g}"
                for layer, points in sorted(layers.items())
                for size, time in points
            ]
            written.append(_write(folder / name, lines))
        lines = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
        lines += [",".join(f"{value:.6g}" for value in row) for row in sorted(profile.attention)]
        written.append(_write(folder / "attention.csv", lines))
    text = yaml.safe_dump({**meta, "tp_degrees": sorted(profiles)}, sort_keys=False)
    written.append(_write(directory / "meta.yaml", text.splitlines()))
    return written


def _write(path: Path, lines: Iterable[str]) -> Path:
    with atomic_write(path) as file:
        file.writelines(f"{line}\n" for line in lines)
    return path
