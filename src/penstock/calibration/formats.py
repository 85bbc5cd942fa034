"""Which tool wrote a benchmark file, told from its content."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.calibration.benchmark import Benchmark
from penstock.calibration.other_tools import (
    json_lines,
    read_aiperf,
    read_guidellm,
    read_serving_csv,
    read_vllm_requests,
    refuse_aggregate,
)
from penstock.calibration.vllm_bench import is_vllm_bench, read_vllm_bench
from penstock.errors import Problem, UserError

KNOWN = (
    "vllm bench serve (JSON), GuideLLM (JSON), AIPerf (profile_export.jsonl), LLMServingSim (CSV), vLLM request "
    "times (JSONL)"
)


def read_text(path: str | Path) -> str:
    """A text file, gzipped or not (told by its first bytes).

    Raises:
        UserError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8", errors="strict")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError([Problem(str(path), f"cannot be read: {reason}")]) from None
    except ValueError:
        raise UserError([Problem(str(path), "is not UTF-8 text")]) from None


def read_benchmark(path: str) -> Benchmark:
    """Read a benchmark of any known tool; ``FILE#2`` is the second benchmark of a GuideLLM file.

    Raises:
        UserError: the file is of no known kind, or what is wrong with it.
    """
    match = re.fullmatch(r"(.+)#(\d+)", path)
    choice = int(match.group(2)) if match and not Path(path).exists() else None
    source = match.group(1) if match and choice is not None else path
    text = read_text(source)
    start = text.lstrip()[:1]
    if start == "{":
        return _read_json(text, source, choice)
    if text.splitlines() and "arrival" in text.splitlines()[0] and "," in text.splitlines()[0]:
        return read_serving_csv(text, source)
    raise UserError([Problem(source, f"is no benchmark that can be read: {KNOWN}")])


def _read_json(text: str, source: str, choice: int | None) -> Benchmark:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or not lines[1].lstrip().startswith("{"):
            raise UserError([Problem(source, f"broken JSON: {error}")]) from None
        return _read_lines(text, source)
    if is_vllm_bench(data):
        return read_vllm_bench(data, source)
    if isinstance(data.get("benchmarks"), list):
        return read_guidellm(data, source, choice)
    if "experiments" in data:
        message = (
            "GenAI-Perf's profile export has no token counts of prompts: give what its successor AIPerf writes as "
            "profile_export.jsonl"
        )
        raise UserError([Problem(source, message)])
    if isinstance(data.get("request_latency"), Mapping) or "input_config" in data:
        raise refuse_aggregate(source, "AIPerf", "the profile_export.jsonl beside it")
    return _read_lines(text, source)


def _read_lines(text: str, source: str) -> Benchmark:
    lines = json_lines(text, source)
    first: Mapping[str, Any] = lines[0] if lines else {}
    if "metadata" in first and "metrics" in first:
        return read_aiperf(lines, source)
    if "queued_ts" in first:
        return read_vllm_requests(lines, source)
    raise UserError([Problem(source, f"is no benchmark that can be read: {KNOWN}")])
