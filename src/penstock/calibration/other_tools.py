"""Benchmarks of other tools: GuideLLM, AIPerf and GenAI-Perf, LLMServingSim's CSV, vLLM's request times."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from penstock.calibration.benchmark import Benchmark, FloatArray, checked
from penstock.errors import Problem, UserError
from penstock.files.csv_text import parse_named
from penstock.files.json_text import parse_json
from penstock.units import NS_PER_S, Int64Array

GUIDELLM = "GuideLLM"
AIPERF = "AIPerf"
SERVING_CSV = "LLMServingSim CSV"
VLLM_REQUESTS = "vLLM request metrics"
_MS = 1e-3
_TIME_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def read_guidellm(data: Mapping[str, Any], source: str, choice: int | None) -> Benchmark:
    """GuideLLM's ``benchmarks.json`` (0.4 on: ``GenerativeRequestStats``); ``choice`` is the place of one of its
    benchmarks, from 1. It has no single gaps between tokens, so no ITL.

    Raises:
        UserError: several benchmarks and no choice, failed requests, or missing members.
    """
    runs = data["benchmarks"]
    if choice is None and len(runs) != 1:
        raise UserError(
            [
                Problem(
                    source, f"holds {len(runs)} benchmarks: name one, as {source}#1 to {source}#{len(runs)}"
                )
            ]
        )
    if choice is not None and not 1 <= choice <= len(runs):
        raise UserError([Problem(source, f"has no benchmark {choice}: it holds {len(runs)}")])
    requests = runs[(choice or 1) - 1].get("requests") or {}
    for group in ("errored", "incomplete"):
        _refuse_failed(len(requests.get(group) or []), group, source)
    rows: list[tuple[Any, ...]] = [
        (
            _member(row, "request_start_time", source, place),
            _member(row, "prompt_tokens", source, place),
            _member(row, "output_tokens", source, place),
            _member(row, "time_to_first_token_ms", source, place) * _MS,
            _member(row, "request_latency", source, place),
        )
        for place, row in enumerate(requests.get("successful") or [])
    ]
    return _benchmark(rows, None, source, GUIDELLM, (f"{source}: GuideLLM keeps no single gaps: no ITL",))


def read_aiperf(lines: Sequence[Mapping[str, Any]], source: str) -> Benchmark:
    """AIPerf's ``profile_export.jsonl`` (``MetricRecordInfo``), one request a line; its warm-up is left out.

    Raises:
        UserError: failed or cancelled requests, or members that are missing.
    """
    kept = [line for line in lines if line["metadata"].get("benchmark_phase") != "warmup"]
    failed = sum(bool(line.get("error")) or bool(line["metadata"].get("was_cancelled")) for line in kept)
    _refuse_failed(failed, "failed or cancelled", source)
    rows: list[tuple[Any, ...]] = []
    gaps: list[Any] = []
    for place, line in enumerate(kept):
        metrics = line["metrics"]
        rows.append(
            (
                line["metadata"]["request_start_ns"] / NS_PER_S,
                _metric(metrics, "input_sequence_length", source, place),
                _metric(metrics, "output_sequence_length", source, place),
                _metric(metrics, "time_to_first_token", source, place),
                _metric(metrics, "request_latency", source, place),
            )
        )
        chunks = metrics.get("inter_chunk_latency")
        scale = _TIME_UNITS.get(str(chunks["unit"]), 1.0) if chunks else 1.0
        gaps.append(None if not chunks else np.array(chunks["value"], dtype=np.float64) * scale)
    known = all(own is not None or row[2] == 1 for own, row in zip(gaps, rows, strict=True))
    filled = tuple(np.zeros(0) if own is None else own for own in gaps)
    note = () if known else (f"{source}: it has no inter_chunk_latency: no ITL",)
    return _benchmark(rows, filled if known else None, source, AIPERF, note)


def refuse_aggregate(source: str, tool: str, instead: str) -> UserError:
    """A file that holds no single requests."""
    return UserError([Problem(source, f"{tool} keeps no single requests in this file: give {instead}")])


def read_serving_csv(text: str, source: str) -> Benchmark:
    """LLMServingSim's (and Penstock's) per-request CSV, times in ns of the simulated engine.

    Raises:
        UserError: columns are missing or hold no numbers.
    """
    wanted = ("input", "output", "arrival", "TTFT", "latency")
    reader = parse_named(text, source, wanted)
    rows: list[tuple[Any, ...]] = []
    gaps: list[Any] = []
    for number, row in reader:
        try:
            times = [int(row[name]) / NS_PER_S for name in ("arrival", "TTFT", "latency")]
            rows.append((times[0], int(row["input"]), int(row["output"]), times[1], times[2]))
            listed = row.get("ITL") or ""
            gaps.append(np.array(ast.literal_eval(listed), dtype=np.float64) / NS_PER_S if listed else None)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise UserError([Problem(f"{source}:{number}", "holds something that is no number")]) from None
    known = all(own is not None for own in gaps)
    note = () if known else (f"{source}: its ITL column is empty",)
    return _benchmark(rows, tuple(gaps) if known else None, source, SERVING_CSV, note, engine_clock=True)


def read_vllm_requests(lines: Sequence[Mapping[str, Any]], source: str) -> Benchmark:
    """vLLM's request times (``RequestStateStats``: queued, first token, last token), as LLMServingSim's bench
    writes them, seconds of the engine's clock: no client stands between.

    Raises:
        UserError: members that are missing.
    """
    rows = [
        (
            _member(line, "queued_ts", source, place),
            _member(line, "input_toks", source, place),
            _member(line, "output_toks", source, place),
            _member(line, "first_token_ts", source, place) - line["queued_ts"],
            _member(line, "last_token_ts", source, place) - line["queued_ts"],
        )
        for place, line in enumerate(lines)
    ]
    note = (f"{source}: request times hold no single gaps: no ITL",)
    return _benchmark(rows, None, source, VLLM_REQUESTS, note, engine_clock=True)


def json_lines(text: str, source: str) -> list[Mapping[str, Any]]:
    """Every line as an object.

    Raises:
        UserError: the first line that is none.
    """
    found: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        value = parse_json(line, f"{source}:{number}", finite=False)
        if not isinstance(value, dict):
            raise UserError([Problem(f"{source}:{number}", "is no JSON object")])
        found.append(cast("Mapping[str, Any]", value))
    return found


def _benchmark(
    rows: Iterable[tuple[Any, ...]],
    gaps: tuple[Any, ...] | None,
    source: str,
    kind: str,
    notes: tuple[str, ...],
    *,
    engine_clock: bool = False,
) -> Benchmark:
    table = np.array(list(rows), dtype=np.float64).reshape(-1, 5)
    span = float((table[:, 0] + table[:, 4]).max() - table[:, 0].min()) if len(table) else 0.0
    return checked(
        Benchmark(
            source=source,
            kind=kind,
            start_s=table[:, 0],
            input_tokens=_counts(table[:, 1]),
            output_tokens=_counts(table[:, 2]),
            ttft_s=table[:, 3],
            latency_s=table[:, 4],
            gaps_s=gaps,
            duration_s=span,
            engine_clock=engine_clock,
            notes=notes,
        )
    )


def _refuse_failed(count: int, what: str, source: str) -> None:
    if count:
        raise UserError(
            [
                Problem(
                    source,
                    f"{count} requests {'are ' if what in ('errored', 'incomplete') else ''}{what}; what they cost the "
                    "server is not in the file: benchmark again without failures",
                )
            ]
        )


def _member(row: Mapping[str, Any], name: str, source: str, place: int) -> Any:
    value = row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError([Problem(source, f"request {place} has no {name}")])
    return value


def _metric(metrics: Mapping[str, Any], name: str, source: str, place: int) -> float:
    entry = metrics.get(name)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("value"), int | float):
        raise UserError([Problem(source, f"request {place} has no {name}: benchmark with --streaming")])
    return float(entry["value"]) * _TIME_UNITS.get(str(entry.get("unit")), 1.0)


def _counts(values: FloatArray) -> Int64Array:
    """Whole numbers; what is none, or beyond what an integer holds, becomes one that is refused."""
    return np.clip(np.nan_to_num(values), -1, 2.0**53).astype(np.int64)
