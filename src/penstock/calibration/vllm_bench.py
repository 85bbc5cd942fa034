"""The result of ``vllm bench serve --save-result --save-detailed`` (vLLM ``benchmarks/serve.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.calibration.benchmark import Benchmark, FloatArray, checked
from penstock.errors import Problem, UserError
from penstock.units import Int64Array

KIND = "vllm bench serve"
_PER_REQUEST = ("input_lens", "output_lens", "ttfts", "itls", "errors")
_LATER_VERSIONS = ("start_times",)


def is_vllm_bench(data: Any) -> bool:
    """Whether a JSON value looks like such a result."""
    return isinstance(data, Mapping) and "total_input_tokens" in data and "duration" in data


def read_vllm_bench(data: Mapping[str, Any], source: str) -> Benchmark:
    """Check and convert a result.

    Raises:
        UserError: it was saved without ``--save-detailed``, requests failed, or lists do not fit together.
    """
    missing = [name for name in _PER_REQUEST if not isinstance(data.get(name), list)]
    if missing:
        raise UserError(
            [
                Problem(
                    source,
                    f"was saved without --save-detailed: it lacks {', '.join(missing)}, the times of single requests",
                )
            ]
        )
    if not isinstance(data.get("start_times"), list):
        raise UserError(
            [
                Problem(
                    source,
                    "lacks start_times, which older versions of vLLM do not write: "
                    "when each request was sent is not known",
                )
            ]
        )
    _check_failures(data, source)
    lengths = {name: len(data[name]) for name in (*_PER_REQUEST, *_LATER_VERSIONS)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError([Problem(source, f"its lists differ in length ({shown}): the file is damaged")])
    try:
        gaps = tuple(np.array(own, dtype=np.float64) for own in data["itls"])
        ttfts = _floats(data["ttfts"])
        own_latencies = data.get("latencies")
        if isinstance(own_latencies, list) and len(own_latencies) == len(ttfts):
            latencies = _floats(own_latencies)
        else:
            latencies = ttfts + np.array([own.sum() for own in gaps])
        benchmark = Benchmark(
            source=source,
            kind=KIND,
            start_s=_floats(data["start_times"]),
            input_tokens=_counts(data["input_lens"]),
            output_tokens=_counts(data["output_lens"]),
            ttft_s=ttfts,
            latency_s=latencies,
            gaps_s=gaps,
            date=str(data.get("date") or ""),
            duration_s=float(data["duration"]),
            notes=_notes(data, source),
        )
    except (TypeError, ValueError) as error:
        raise UserError([Problem(source, f"its lists hold something that is no number: {error}")]) from None
    return checked(benchmark)


def _check_failures(data: Mapping[str, Any], source: str) -> None:
    errors = data["errors"]
    failed = [place for place, text in enumerate(errors) if text]
    count = max(int(data.get("failed") or 0), len(failed))
    if not count:
        return
    first = (
        f", the first is request {failed[0]}: {str(errors[failed[0]]).strip().splitlines()[-1][:80]}"
        if failed
        else ""
    )
    raise UserError(
        [
            Problem(
                source,
                f"{count} of {len(errors)} requests failed{first}; what they cost the server is not in the file: "
                "benchmark again without failures",
            )
        ]
    )


def _notes(data: Mapping[str, Any], source: str) -> tuple[str, ...]:
    if data.get("max_concurrency") is None:
        return ()
    note = (
        f"{source}: closed loop of {data['max_concurrency']}: requests are sent at their recorded times, whatever the "
        "simulated server does"
    )
    return (note,)


def _floats(values: list[Any]) -> FloatArray:
    return np.array(values, dtype=np.float64)


def _counts(values: list[Any]) -> Int64Array:
    return np.array(values, dtype=np.int64)
