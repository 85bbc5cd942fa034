"""AIConfigurator's tables of a model on a chip, written as a profile bundle or packed as a fit."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.aiconfigurator.source import GEMM_DTYPES, covered, measured_tables
from penstock.cost.aiconfigurator.systems import SYSTEMS
from penstock.cost.aiconfigurator.wheel import ENGINES, EXTRA, PACKAGE, find_wheel
from penstock.cost.architecture import Architecture
from penstock.cost.fitted import FIT_FORMAT
from penstock.cost.question import CostQuestion
from penstock.cost.tables import AttentionGrid, KernelTables
from penstock.errors import Problem, UserError, nearest
from penstock.files.place import Place
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.profiling.fit import FitResult, as_json, count_numbers, curve_error, fit_curve
from penstock.spec.model import ModelSpec
from penstock.spec.model_files import ModelLibrary, load_model
from penstock.units import Int64Array

MAX_TOKENS = 16384
_LICENCE = " (Apache-2.0, Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which times to take: of a model on a chip, by an engine, at tp degrees."""

    hardware: str
    model: ModelSpec
    dtype: str = "bfloat16"
    kv_cache_dtype: str = "auto"
    engine: str = "vllm"
    degrees: tuple[int, ...] = (1,)

    def question(self, degree: int) -> CostQuestion:
        """At one tp degree."""
        return CostQuestion(
            hardware=self.hardware,
            model=self.model,
            kind=self.model.kinds[0],
            tp_size=degree,
            dtype=self.dtype,
            kv_cache_dtype=self.kv_cache_dtype,
            max_tokens=MAX_TOKENS,
            engine=self.engine,
        )


def wanted_tables(hardware: str, model: str, tp: str, dtypes: tuple[str, str], engine: str) -> Wanted:
    """From what a command line says; ``dtypes`` = (weights, KV cache).

    Raises:
        UserError: every member that is not understood.
    """
    problems: list[Problem] = []
    degrees = [int(one) for one in tp.split(",") if one.strip().isdigit() and int(one) > 0]
    if len(degrees) != len(tp.split(",")):
        problems.append(Problem("--tp", f"must be tp degrees like 1,2,4, not '{tp}'"))
    if engine not in ENGINES:
        problems.append(
            Problem(
                "--engine", f"must be one of {', '.join(ENGINES)}, not '{engine}'{nearest(engine, ENGINES)}"
            )
        )
    for option, value, known in (
        ("--dtype", dtypes[0], tuple(GEMM_DTYPES)),
        ("--kv-cache-dtype", dtypes[1], ("auto", "fp8")),
    ):
        if value not in known:
            problems.append(
                Problem(option, f"must be one of {', '.join(known)}, not '{value}'{nearest(value, known)}")
            )
    found = load_model(model, ModelLibrary.near(None), None, Place("--model"), problems)
    if problems or found is None:
        raise UserError(problems)
    return Wanted(
        hardware=hardware,
        model=found,
        dtype=dtypes[0],
        kv_cache_dtype=dtypes[1],
        engine=engine,
        degrees=tuple(dict.fromkeys(degrees)),
    )


def database_tables(wanted: Wanted) -> tuple[KernelTables, ...]:
    """The tables of each degree.

    Raises:
        UserError: the wheel is not installed or broken, or has no such measurements.
    """
    wheel = find_wheel()
    if wheel is None:
        raise UserError([Problem(PACKAGE, f"is not installed: {EXTRA}")])
    problems: list[Problem] = []
    tables: list[KernelTables] = []
    for degree in wanted.degrees:
        question = wanted.question(degree)
        obstacle = wanted.model.tensor_parallel_obstacle(degree)
        found = covered(question)
        own = None if found is None or obstacle is not None else measured_tables(question, found, wheel)
        if obstacle is not None:
            problems.append(Problem("--tp", obstacle))
        elif own is None:
            problems.append(Problem(PACKAGE, _missing(wanted, degree)))
        else:
            tables.append(own)
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return tuple(tables)


def _missing(wanted: Wanted, degree: int) -> str:
    return (
        f"has no kernels of {wanted.engine} for {wanted.model.name} in {wanted.dtype} at tp {degree} on "
        f"'{wanted.hardware}' ({', '.join(SYSTEMS)}; dense models with grouped-query attention)"
    )


def import_database(wanted: Wanted, root: Path) -> Path:
    """Write the tables as a bundle under a profile root: ``<root>/<hardware>/<model>/<variant>``, which it returns.

    Raises:
        UserError: as :func:`database_tables`, or the bundle cannot be written.
    """
    tables = database_tables(wanted)
    directory = root / tables[0].hardware / wanted.model.name / wanted.question(1).variants()[0]
    with all_or_nothing():
        _write_bundle(directory, wanted, tables)
    return directory


def _write_bundle(directory: Path, wanted: Wanted, tables: Sequence[KernelTables]) -> None:
    for own in tables:
        folder = directory / f"tp{own.tp_size}"
        _write(folder / "dense.csv", ("layer", "tokens", "time_us"), _curve_rows(own.dense))
        _write(folder / "per_sequence.csv", ("layer", "sequences", "time_us"), _curve_rows(own.per_sequence))
        _write(folder / "attention.csv", _ATTENTION_COLUMNS, _attention_rows(own.attention))
        if own.skew is not None:
            row = (0, "all", "all", "all", "all", own.skew.alpha.item(), 0)
            _write(folder / "skew_fit.csv", _SKEW_COLUMNS, [row])
    with atomic_write(directory / "meta.yaml") as file:
        file.write(_meta(wanted, tables))


_ATTENTION_COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
_SKEW_COLUMNS = ("pc", "n_label", "skew_rate_label", "kv_big_label", "kp_label", "alpha", "n_samples")


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _curve_rows(curves: Any) -> Iterator[tuple[str, int, str]]:
    for layer, curve in curves.items():
        for size, us in zip(curve.sizes.tolist(), curve.us.tolist(), strict=True):
            yield layer, int(size), f"{us:.6g}"


def _attention_rows(grid: AttentionGrid) -> Iterator[tuple[int, int, int, int, str]]:
    """Decodes alone, then chunks alone; readers add the two where both are in a step, less a launch."""
    for j, decodes in enumerate(grid.decodes.tolist()[1:], start=1):
        for k, context in enumerate(grid.decode_contexts.tolist()):
            yield 0, 0, int(decodes), int(context), f"{grid.us[0, j, 0, k]:.6g}"
    for i, chunk in enumerate(grid.chunks.tolist()[1:], start=1):
        for p, history in enumerate(grid.prefill_contexts.tolist()):
            yield int(chunk), int(history), 0, 0, f"{grid.us[i, 0, p, 0]:.6g}"


def _meta(wanted: Wanted, tables: Sequence[KernelTables]) -> str:
    import yaml

    bins = {name: [0, 1] for name in ("n_bins", "skew_rate_bins", "kv_big_bins", "kp_bins")}
    labels = {name: ["all"] for name in ("n_labels", "skew_rate_labels", "kv_big_labels", "kp_labels")}
    meta = {
        "hardware": tables[0].hardware,
        "model": wanted.model.name,
        "variant": wanted.question(1).variants()[0],
        "source": tables[0].basis[0].removeprefix("compute: "),
        "skew_fit": {"enabled": True, "bucket_axes": bins | labels},
    }
    return yaml.safe_dump(meta, sort_keys=False, width=120)


def pack_database(wanted: Wanted) -> FitResult:
    """The tables as a packaged fit: dense kernels in straight pieces, attention as its two tables and a slope.

    Raises:
        UserError: as :func:`database_tables`.
    """
    tables = database_tables(wanted)
    architecture = Architecture.of(wanted.model, wanted.model.kinds[0])
    assert architecture is not None, "covered"
    parts: dict[str, Any] = {}
    errors: list[Any] = []
    for own in tables:
        curves = {**own.dense, **own.per_sequence}
        fitted = {name: fit_curve(name, curve) for name, curve in curves.items()}
        errors += [curve_error(own.tp_size, name, curve, fitted[name]) for name, curve in curves.items()]
        packed = _pack_attention(own.attention)
        assert own.skew is not None, "of vLLM's kernels"
        skew = own.skew.alpha.item()
        errors.append(replace(errors[-1], kernel="attention", p50=0.0, p90=0.0, largest=0.0))
        parts[str(own.tp_size)] = {
            "dense": {name: as_json(fitted[name]) for name in own.dense},
            "per_sequence": {name: as_json(fitted[name]) for name in own.per_sequence},
            "attention": packed,
            "skew": {"decode_edges": [], "rate_edges": [], "pure": [[skew]], "mixed": [[skew]]},
        }
    data = {
        "format": FIT_FORMAT,
        "hardware": tables[0].hardware,
        "model": wanted.model.name,
        "architecture": architecture.as_json(),
        "variant": wanted.question(1).variants()[0],
        "source": tables[0].basis[0].removeprefix("compute: ") + _LICENCE,
        "error": {
            f"tp{line.tp_size} {line.kernel}": [
                round(line.p50, 4),
                round(line.p90, 4),
                round(line.largest, 3),
            ]
            for line in errors
        },
        "tp": parts,
    }
    return FitResult(data, tuple(errors), sum(count_numbers(part) for part in parts.values()))


def _pack_attention(grid: AttentionGrid) -> dict[str, Any]:
    first, last = grid.us[1:, 0, 0, 0], grid.us[1:, 0, -1, 0]
    return {
        "lengths": _whole(grid.chunks[1:].astype(np.int64)),
        "prompt_us": _short(first),
        "history_us": _short((last - first) / grid.prefill_contexts[-1]),
        "decodes": _whole(grid.decodes[1:].astype(np.int64)),
        "contexts": _whole(grid.decode_contexts.astype(np.int64)),
        "decode_us": [_short(row) for row in grid.us[0, 1:, 0, :]],
    }


def _whole(values: Int64Array) -> list[int]:
    return [int(value) for value in values]


def _short(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
