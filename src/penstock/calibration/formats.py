"""Which tool wrote a benchmark file, told from its content."""

from __future__ import annotations

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
from penstock.files.document import understood
from penstock.files.json_text import parse_json
from penstock.files.reading import read_text

KNOWN = (
    "vllm bench serve (JSON), GuideLLM (JSON), AIPerf (profile_export.jsonl), LLMServingSim (CSV), vLLM request "
    "times (JSONL)"
)


def read_benchmark(path: str) -> Benchmark:
    """Read a benchmark of any known tool; ``FILE#2`` is the second benchmark of a GuideLLM file.

    Raises:
        UserError: the file is of no known kind, or what is wrong with it.
    """
    match = re.fullmatch(r"(.+)#(\d+)", path)
    choice = int(match.group(2)) if match and not Path(path).exists() else None
    source = match.group(1) if match and choice is not None else path
    text = read_text(source)
    with understood(source, "is no benchmark that can be read"):
        return _read(text, source, choice)


def _read(text: str, source: str, choice: int | None) -> Benchmark:
    start = text.lstrip()[:1]
    if start == "{":
        return _read_json(text, source, choice)
    if text.splitlines() and "arrival" in text.splitlines()[0] and "," in text.splitlines()[0]:
        return read_serving_csv(text, source)
    raise UserError([Problem(source, f"is no benchmark that can be read: {KNOWN}")])


def _read_json(text: str, source: str, choice: int | None) -> Benchmark:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[1].lstrip().startswith("{") and lines[0].rstrip().endswith("}"):
        return _read_lines(text, source)
    data = parse_json(text, source, finite=False)
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
    if len(lines) > 1:
        raise UserError([Problem(source, f"is no benchmark that can be read: {KNOWN}")])
    return _read_lines(text, source)


def _read_lines(text: str, source: str) -> Benchmark:
    lines = json_lines(text, source)
    first: Mapping[str, Any] = lines[0] if lines else {}
    if "metadata" in first and "metrics" in first:
        return read_aiperf(lines, source)
    if "queued_ts" in first:
        return read_vllm_requests(lines, source)
    raise UserError([Problem(source, f"is no benchmark that can be read: {KNOWN}")])
