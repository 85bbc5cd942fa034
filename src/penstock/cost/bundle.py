"""Profile bundles in LLMServingSim's layout: ``<root>/<hardware>/<model>/<variant>/tp<N>/*.csv``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from penstock.cost.tables import (
    DENSE_BLOCK_LAYERS,
    DENSE_EDGE_LAYERS,
    PER_SEQUENCE_LAYERS,
    AttentionGrid,
    Curve,
    FloatArray,
    KernelTables,
    SkewTable,
    interpolate,
)
from penstock.errors import Problem, UserError
from penstock.files.csv_text import rows_of, shown_row
from penstock.files.document import understood
from penstock.files.json_text import shown_text
from penstock.files.reading import MAX_CONFIG_BYTES, read_text

_ATTENTION_HEADER = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
MAX_SIZE = 1e12
MAX_US = 1e12
"""Of a measured size and time: eleven days."""

_REQUIRED_LAYERS = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "lm_head")


@dataclass(frozen=True, slots=True)
class BundleAddress:
    """Where a bundle stands: the directory with ``meta.yaml``, and the tp degree wanted of it."""

    directory: Path
    tp_size: int

    @property
    def tables(self) -> Path:
        """The directory of the CSV files."""
        return self.directory / f"tp{self.tp_size}"


def files_of(address: BundleAddress) -> tuple[Path, ...]:
    """What the tables are read from: the first three must be there."""
    folder = address.tables
    names = ("dense.csv", "per_sequence.csv", "attention.csv", "skew_fit.csv")
    return (*(folder / name for name in names), address.directory / "meta.yaml")


def tp_degrees(directory: Path) -> tuple[int, ...]:
    """The degrees a bundle holds, ascending; empty if it is none."""
    degrees = [int(path.name[2:]) for path in directory.glob("tp*") if _is_degree(path.name[2:])]
    return tuple(sorted(degree for degree in degrees if (directory / f"tp{degree}" / "dense.csv").is_file()))


def _is_degree(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 5 and int(text) > 0


def read_bundle(address: BundleAddress, *, hardware: str, model: str) -> KernelTables:
    """The tables of one tp degree.

    Raises:
        UserError: a file is missing or broken; names file and line.
    """
    dense_path, sequences_path, attention_path, skew_path, meta_path = files_of(address)
    dense = _curves(dense_path, "tokens")
    per_sequence = _curves(sequences_path, "sequences")
    missing = [
        Problem(str(dense_path), f"no rows for layer '{layer}'")
        for layer in (*DENSE_BLOCK_LAYERS, *DENSE_EDGE_LAYERS)
        if layer not in dense and layer in _REQUIRED_LAYERS
    ]
    missing += [
        Problem(str(sequences_path), f"no rows for layer '{layer}'")
        for layer in PER_SEQUENCE_LAYERS
        if layer not in per_sequence and layer in _REQUIRED_LAYERS
    ]
    if missing:
        raise UserError(missing)
    return KernelTables(
        hardware=hardware,
        model=model,
        tp_size=address.tp_size,
        dense=dense,
        per_sequence=per_sequence,
        attention=attention_grid(read_attention_rows(attention_path)),
        skew=_skew(skew_path, meta_path, address.tp_size),
    )


def _curves(path: Path, size_column: str) -> dict[str, Curve]:
    rows = rows_of(path)
    _, header = next(rows, (1, []))
    if header != ["layer", size_column, "time_us"]:
        raise UserError([Problem(f"{path}:1", f"the header must be layer,{size_column},time_us")])
    points: dict[str, list[tuple[float, float]]] = {}
    for line, row in rows:
        try:
            layer, size, time = row
            point = (float(size), float(time))
        except ValueError:
            raise UserError([Problem(f"{path}:{line}", f"not a measurement: {shown_row(row)}")]) from None
        if not (0 <= point[0] <= MAX_SIZE and 0 <= point[1] <= MAX_US):
            raise UserError([Problem(f"{path}:{line}", f"not a size and a time: {shown_row(row)}")])
        points.setdefault(layer, []).append(point)
    return {layer: _curve(sorted(values)) for layer, values in points.items()}


def _curve(points: Sequence[tuple[float, float]]) -> Curve:
    table = np.array(points, dtype=np.float64)
    sizes, first = np.unique(table[:, 0], return_index=True)
    return Curve(sizes, table[first, 1])


def read_attention_rows(path: Path) -> FloatArray:
    """The measured points of an ``attention.csv``, shape (n, 5), columns as in the file."""
    lines = read_text(path).splitlines()
    if not lines or lines[0].strip() != _ATTENTION_HEADER:
        raise UserError([Problem(f"{path}:1", f"the header must be {_ATTENTION_HEADER}")])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = np.loadtxt(lines[1:], delimiter=",", dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise UserError([Problem(str(path), f"not numbers: {shown_text(str(error))}")]) from error
    sound = np.isfinite(table) & (table >= 0) & (table <= MAX_US)
    if table.shape[0] == 0 or table.shape[1] != 5 or not sound.all():
        raise UserError([Problem(str(path), "needs rows of five finite numbers, none negative")])
    missing = [what for what, column in (("chunks", 0), ("decodes", 2)) if not (table[:, column] > 0).any()]
    if missing:
        raise UserError([Problem(str(path), f"has no rows of {' and '.join(missing)}")])
    return table


def attention_grid(rows: FloatArray) -> AttentionGrid:
    """A full product grid from measured points; ``rows`` (n, 5) as in ``attention.csv``.

    The measured points form slices (chunk, decodes, prefill context) of their own decode contexts. Each is
    brought to the union of all axes, inner axis first, linearly; beyond a slice's last point its top two
    points extrapolate; where a slice is missing altogether, the nearest stands in. Chunks that were never
    measured beside decodes are added to them, less the launch they share. Chunks shorter than the first lie between
    the fewest decodes and it; where no chunk was measured beside decodes, they take as long as it.
    """
    order = np.lexsort((rows[:, 3], rows[:, 1], rows[:, 2], rows[:, 0]))
    rows = rows[order]
    rows = rows[np.any(np.diff(rows[:, :4], axis=0, prepend=np.nan) != 0, axis=1)]
    chunks = np.unique(np.append(rows[:, 0], 0.0))
    decodes = np.unique(np.append(rows[:, 2], 0.0))
    prefill_contexts = np.unique(np.append(rows[:, 1], 0.0))
    decode_contexts = np.unique(rows[rows[:, 2] > 0, 3])
    if len(decode_contexts) == 0:
        decode_contexts = np.array([1.0])
    us = np.full((len(chunks), len(decodes), len(prefill_contexts), len(decode_contexts)), np.nan)
    starts = np.flatnonzero(np.any(np.diff(rows[:, [0, 2]], axis=0, prepend=np.nan) != 0, axis=1))
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        block = rows[start:stop]
        i = int(np.searchsorted(chunks, block[0, 0]))
        j = int(np.searchsorted(decodes, block[0, 2]))
        us[i, j] = _slice(block, prefill_contexts, decode_contexts)
    _fill_missing_decodes(us, decodes)
    if np.isnan(us[0, 0]).any() and len(decodes) > 1:
        us[0, 0] = us[0, 1, :, :1]
    add_unmeasured_mixes(us)
    for i in np.flatnonzero(np.isnan(us).any(axis=(1, 2, 3))):
        _fill_missing_chunk(us, chunks, int(i))
    return AttentionGrid(chunks, decodes, prefill_contexts, decode_contexts, np.maximum(us, 0.0))


def _slice(block: FloatArray, prefill_contexts: FloatArray, decode_contexts: FloatArray) -> FloatArray:
    """Points of one (chunk, decodes) as (prefill contexts, decode contexts)."""
    histories, starts = np.unique(block[:, 1], return_index=True)
    stops = [*starts[1:], len(block)]
    lengths = {int(stop - start) for start, stop in zip(starts, stops, strict=True)}
    first = block[: stops[0], 3]
    if len(lengths) == 1 and np.array_equal(block[:, 3], np.tile(first, len(starts))):
        table = block[:, 4].reshape(len(starts), -1)
        rows = interpolate(decode_contexts, first, np.ascontiguousarray(table.T)).T
    else:
        rows = np.array(
            [
                interpolate(decode_contexts, block[start:stop, 3], block[start:stop, 4])
                for start, stop in zip(starts, stops, strict=True)
            ]
        )
    return interpolate(prefill_contexts, histories, rows)


def _fill_missing_decodes(us: FloatArray, decodes: FloatArray) -> None:
    """Within one chunk: numbers of decodes never measured with it, from those that were (at least one)."""
    for i in range(us.shape[0]):
        known = ~np.isnan(us[i, :, 0, 0])
        positive = known & (decodes > 0)
        missing = ~known & (decodes > 0)
        if positive.any() and missing.any():
            us[i, missing] = interpolate(decodes[missing], decodes[positive], us[i, positive])


def add_unmeasured_mixes(us: FloatArray) -> None:
    """Where chunks and decodes were measured apart only, fill ``us[1:, 1:]`` with their sum less a launch, and no less
    than the longer of both: the shortest chunk may take less than what stands for a launch, the shortest decode."""
    unmeasured = np.isnan(us[1:, 1:])
    if not unmeasured.size or not unmeasured.all() or np.isnan(us[0, 1:]).any() or np.isnan(us[1:, 0]).any():
        return
    chunks, decodes = us[1:, :1], us[:1, 1:, :1]
    us[1:, 1:] = np.maximum(chunks + decodes - float(us[0, 1:].min()), np.maximum(chunks, decodes))
    fill_shorter_chunks(us)


def fill_shorter_chunks(us: FloatArray) -> None:
    """Below the first chunk, which was measured alone: what is shorter reads all of its history too, so it takes as
    long. Decodes without a chunk are at no history, and stay."""
    us[0, 0] = us[1, 0]
    us[0, 1:, 1:] = us[1, 1:, 1:]


HISTORIES = np.concatenate([[0.0], 64.0 * 2.0 ** np.arange(12)])
"""History before a chunk, to 128K tokens, on a grid where time is linear in it."""


def separate_grid(
    prompts: tuple[FloatArray, FloatArray, FloatArray], decodes: tuple[FloatArray, FloatArray, FloatArray]
) -> AttentionGrid:
    """A grid of what was measured apart: ``prompts`` = (lengths, us, us per token of history), all (n,), ``decodes`` =
    (numbers, contexts, us of both). Both in one step take their sum, less a launch."""
    lengths, prompt_us, slope = prompts
    counts, contexts, decode_us = decodes
    us = np.full((len(lengths) + 1, len(counts) + 1, len(HISTORIES), len(contexts)), np.nan)
    us[0, 1:] = decode_us[:, None, :]
    us[1:, 0] = (prompt_us[:, None] + slope[:, None] * HISTORIES)[:, :, None]
    add_unmeasured_mixes(us)
    return AttentionGrid(
        np.concatenate([[0.0], lengths]), np.concatenate([[0.0], counts]), HISTORIES, contexts, us
    )


def _fill_missing_chunk(us: FloatArray, chunks: FloatArray, i: int) -> None:
    """Slices no interpolation inside the chunk can give (no decodes measured, or none but decodes)."""
    for j in range(us.shape[1]):
        if not np.isnan(us[i, j]).any():
            continue
        donors = [k for k in range(us.shape[0]) if not np.isnan(us[k, j]).any()]
        if donors:
            nearest = min(donors, key=lambda k: abs(chunks[k] - chunks[i]))
            us[i, j] = us[nearest, j]
        else:
            us[i, j] = us[i, ~np.isnan(us[i, :, 0, 0])][0] if not np.isnan(us[i]).all() else 0.0


def _skew(path: Path, meta_path: Path, tp_size: int) -> SkewTable | None:
    """The alpha table of a bundle, or None where it has none."""
    if not path.is_file() or not meta_path.is_file():
        return None
    fit = _skew_meta(meta_path)
    if fit is None:
        return None
    with understood(str(path), f"does not match the bins of {meta_path}"):
        return _alphas(fit, path, tp_size)


def _alphas(fit: Mapping[str, Mapping[str, Sequence[float]]], path: Path, tp_size: int) -> SkewTable:
    axes = cast("Mapping[str, list[str]]", fit["bucket_axes"])
    edges = {name: np.array(fit["bucket_axes"][f"{name}_bins"], dtype=np.float64) for name in _SKEW_AXES}
    labels = {name: {label: i for i, label in enumerate(axes[f"{name}_labels"])} for name in _SKEW_AXES}
    rows = [row for _, row in rows_of(path)][1:]
    chunks = np.unique(np.array([float(row[0]) for row in rows]))
    position = {chunk: i for i, chunk in enumerate(chunks.tolist())}
    per_tp = cast("Mapping[object, Mapping[str, float]]", fit.get("per_tp", {}))
    default = float(per_tp.get(tp_size, per_tp.get(str(tp_size), {})).get("alpha_default", 0.0))
    alpha = np.full((len(chunks), *(len(labels[name]) for name in _SKEW_AXES)), default)
    for row in rows:
        where = tuple(labels[name][row[1 + k]] for k, name in enumerate(_SKEW_AXES))
        alpha[(position[float(row[0])], *where)] = float(row[5])
    if not np.all(np.isfinite(alpha)):
        raise ValueError("alphas must be finite")
    inner = {name: values[1:-1] for name, values in edges.items()}
    return SkewTable(chunks, inner["n"], inner["skew_rate"], inner["kv_big"], inner["kp"], alpha, default)


_SKEW_AXES = ("n", "skew_rate", "kv_big", "kp")


def _skew_meta(path: Path) -> dict[str, dict[str, list[float]]] | None:
    text = read_text(path, MAX_CONFIG_BYTES)
    start = text.find("\nskew_fit:")
    if start < 0:
        return None
    from penstock.files.yaml_text import parse_measured

    loaded = parse_measured(text[start:], str(path))
    fit = loaded.get("skew_fit") if isinstance(loaded, dict) else None
    if not isinstance(fit, dict) or not fit.get("enabled", True) or "bucket_axes" not in fit:
        return None
    return cast("dict[str, dict[str, list[float]]]", fit)
