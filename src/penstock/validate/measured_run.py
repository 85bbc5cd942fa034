"""A measured vLLM run on disk: what was run, and when each request was queued, scheduled and answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.tables import FloatArray
from penstock.errors import Problem, UserError
from penstock.files.json_text import json_lines, load_json
from penstock.spec.check import MAX_PROBLEMS, check_document
from penstock.spec.data_parallel import DataParallelOptions
from penstock.validate.shapes import MeasuredMeta, MeasuredRequest

_TIMES = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
ASYNC_BY_DEFAULT = (0, 14)
"""From this version on vLLM schedules asynchronously at pp 1 unless told otherwise."""
LAST_WITHOUT_SYNC_AT_STEP_1 = (0, 19)
"""The latest version known to balance by 4 x waiting + running and to synchronise its ranks every 32 forwards; 0.32
is known to do otherwise."""


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """One entry per request, in the order of the workload; seconds since the first was queued.

    ``queued`` is when the engine took the request from its input queue: between two steps, so it already waited
    for the step that ran when it arrived.
    """

    output_tokens: FloatArray
    queued: FloatArray
    scheduled: FloatArray
    first_token: FloatArray
    last_token: FloatArray

    def metrics(self) -> dict[str, FloatArray]:
        """TTFT, TPOT (requests of two tokens or more) and latency in seconds."""
        several = self.output_tokens > 1
        decode = (self.last_token - self.first_token)[several]
        return {
            "TTFT": self.first_token - self.queued,
            "TPOT": decode / (self.output_tokens[several] - 1),
            "latency": self.last_token - self.queued,
        }


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """``engine`` are vLLM's options as recorded, ``num_gpu_blocks`` the KV blocks it had, where recorded."""

    directory: Path
    engine: Mapping[str, Any]
    vllm_version: str
    num_gpu_blocks: int | None
    indices: tuple[int, ...]
    times: RequestTimes

    def flags(self) -> dict[str, Any]:
        """The options of :func:`penstock.spec.load.load_cluster` that stand for the run's engine options."""
        names = ("max_num_seqs", "max_num_batched_tokens", "block_size", "enable_prefix_caching")
        flags = {name: self.engine.get(name) for name in (*names, "enable_chunked_prefill", "kv_cache_dtype")}
        if self.engine.get("dtype") not in (None, "auto"):
            flags["dtype"] = self.engine["dtype"]
        flags["async_scheduling"] = self.asynchronous()
        return {name: value for name, value in flags.items() if value is not None}

    @property
    def _version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.vllm_version)[:2])

    def data_parallel(self, ranks: DataParallelOptions) -> DataParallelOptions:
        """How the run's ranks were joined: one client process balanced them (vLLM ``AsyncLLM``), by the formula and
        with the waves of its version."""
        is_old = self._version <= LAST_WITHOUT_SYNC_AT_STEP_1
        return replace(
            ranks,
            load_balancing="internal",
            front_ends=1,
            nodes=1,
            generation="0.19" if is_old else "0.32",
            sync_interval=32 if is_old else 16,
        )

    def asynchronous(self) -> bool:
        """As recorded, else vLLM's default for its version: on at pp 1 from 0.14."""
        given = self.engine.get("async_scheduling")
        if given is not None:
            return bool(given)
        numbers = self._version
        return int(self.engine.get("pipeline_parallel_size") or 1) == 1 and numbers >= ASYNC_BY_DEFAULT


def read_measured_run(directory: Path) -> MeasuredRun:
    """Read ``meta.json`` and ``requests.jsonl``.

    Raises:
        UserError: with every broken line.
    """
    place = directory / "meta.json"
    meta = load_json(place)
    check_document(MeasuredMeta, meta, str(place))
    problems: list[Problem] = []
    rows: list[tuple[float, ...]] = []
    path = directory / "requests.jsonl"
    try:
        for where, line in json_lines(path):
            try:
                rows.append(_read_request(line, where))
            except UserError as error:
                problems += error.problems
            if len(problems) > MAX_PROBLEMS:
                break
    except UserError as error:  # a line that is not JSON ends the reading
        problems += error.problems
    if not rows and not problems:
        problems.append(Problem(str(path), "holds no request"))
    if problems:
        raise UserError(problems)
    table = np.array(sorted(rows), dtype=np.float64)
    start = float(table[:, 2].min())
    cache = meta.get("kv_cache") or {}
    return MeasuredRun(
        directory=directory,
        engine=meta.get("engine_kwargs") or {},
        vllm_version=str(meta.get("vllm_version", "0")),
        num_gpu_blocks=cache.get("num_gpu_blocks"),
        indices=tuple(int(index) for index in table[:, 0]),
        times=RequestTimes(table[:, 1], *(table[:, 2 + i] - start for i in range(4))),
    )


def _read_request(row: Any, where: str) -> tuple[float, ...]:
    check_document(MeasuredRequest, row, where)
    number = re.search(r"([0-9]{1,9})$", str(row["request_id"]))
    if number is None:
        raise UserError([Problem(where, "request_id does not end in a number")])
    return (int(number.group(1)), int(row["output_toks"]), *(float(row[name]) for name in _TIMES))
