"""Recordings of the real vLLM scheduler in virtual time: reading them, and writing ours in their schema."""

from __future__ import annotations

import json
from array import array
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.cost.linear import LinearStage, linear_hop, linear_pipeline
from penstock.cost.step_cost import PipelineCost
from penstock.errors import Problem, UserError
from penstock.files.json_text import json_lines, load_json
from penstock.files.reading import MAX_TABLE_BYTES
from penstock.spec.options import SchedulerOptions
from penstock.validate.shapes import check_recording
from penstock.workload.request import Request

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_NEEDED = ("config", "requests", "iterations", "per_request")


@dataclass(frozen=True, slots=True)
class Recording:
    """One case: ``data`` is the recorded JSON object, ``source`` the file (and line) it came from."""

    source: str
    data: Mapping[str, Any]

    @property
    def case(self) -> str:
        """The case's name; the file's where it has none."""
        return str(self.data.get("case", self.source))

    @property
    def request_ids(self) -> list[str]:
        """Names of the requests in their own order, by which vLLM breaks ties of priority and arrival; a
        request's index is its place here."""
        return sorted(entry["req_id"] for entry in self.data["requests"])

    @property
    def num_gpu_blocks(self) -> int:
        """Blocks in the pool, the null block included."""
        return int(self.data["config"]["num_gpu_blocks"])

    def options(self) -> SchedulerOptions:
        """The engine options of the recording."""
        config = self.data["config"]
        asynchronous = bool(config.get("async_scheduling", False))
        default_depth = config.get("pp_size", 1) + asynchronous
        return SchedulerOptions(
            max_num_seqs=config["max_num_seqs"],
            max_num_batched_tokens=config["max_num_batched_tokens"],
            max_model_len=config.get("max_model_len", 131_072),
            block_size=config["block_size"],
            long_prefill_token_threshold=config.get("long_prefill_token_threshold", 0),
            enable_chunked_prefill=config.get("enable_chunked_prefill", True),
            enable_prefix_caching=config.get("enable_prefix_caching", False),
            reserve_full_isl=config.get("scheduler_reserve_full_isl", True),
            watermark=config.get("watermark", 0.0),
            max_in_flight=self.data.get("batch_queue_size", default_depth),
            async_scheduling=asynchronous,
            v2_model_runner=config.get("v2_model_runner", False),
            engine_idle_sleep_ns=config.get("engine_idle_sleep_ns", 0),
            scheduling_policy=config.get("policy", "fcfs"),
        )

    def cost(self) -> PipelineCost:
        """The recording's linear stage costs and hop, as the engine takes them."""
        config = self.data["config"]
        stages = [LinearStage(stage["a"], stage["b"], stage["c"]) for stage in config["stages"]]
        hop = config.get("hop", {"d": 0, "e": 0})
        link = linear_hop(hop["d"], hop["e"], config["max_num_batched_tokens"])
        return linear_pipeline(stages, link, config["max_num_seqs"], "the recording's own linear costs")

    def requests(self) -> list[Request]:
        """The requests in file order."""
        index_of = {name: index for index, name in enumerate(self.request_ids)}
        return [_request(index_of[entry["req_id"]], entry) for entry in self.data["requests"]]


def _request(index: int, entry: Mapping[str, Any]) -> Request:
    input_ids, output_ids = entry.get("input_tok_ids"), entry.get("output_tok_ids")
    return Request(
        index=index,
        arrival_ns=entry["arrival_time_ns"],
        input_tokens=entry["input_toks"],
        output_tokens=entry["output_toks"],
        input_ids=array("i", input_ids) if input_ids else None,
        output_ids=array("i", output_ids) if output_ids else None,
        priority=entry.get("priority", 0),
    )


def read_recordings(path: Path) -> Generator[Recording]:
    """All recordings of a file, or of a directory's ``*.json``, ``*.jsonl`` and their ``.gz``, by file name.

    Other JSON files in a directory are passed over; a file that is named must be a recording.

    Raises:
        UserError: nothing there, not JSON, or not a recording.
    """
    for file in recording_files(path):
        for source, data in _objects(file):
            missing = _missing(data)
            if not missing:
                check_recording(data, source)
                yield Recording(source, cast("Mapping[str, Any]", data))
            elif not path.is_dir():
                raise UserError([Problem(source, f"not a recording: {missing}")])


def recording_files(path: Path) -> list[Path]:
    """A file itself, or those of a directory whose names are a recording's, sorted.

    Raises:
        UserError: the directory has none, or cannot be listed.
    """
    try:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(SUFFIXES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError([Problem(str(path), f"cannot be read: {reason}")]) from None
    if not files:
        raise UserError([Problem(str(path), f"no recordings ({', '.join('*' + s for s in SUFFIXES)})")])
    return files


def _missing(data: Any) -> str | None:
    if not isinstance(data, dict):
        return "not a JSON object"
    keys = cast("dict[str, Any]", data)
    if "instances" in keys:
        return _missing_of_several(keys)
    missing = [key for key in _NEEDED if key not in keys]
    return f"missing {', '.join(missing)}" if missing else None


def _missing_of_several(keys: Mapping[str, Any]) -> str | None:
    """What a recording of several instances lacks."""
    missing = [key for key in ("requests", "instances", "transfer", "proxy") if key not in keys]
    return f"missing {', '.join(missing)}" if missing else None


def _objects(file: Path) -> Iterator[tuple[str, Any]]:
    if ".jsonl" in file.name:
        return json_lines(file)
    return iter([(str(file), load_json(file, MAX_TABLE_BYTES))])


@dataclass(frozen=True, slots=True)
class NamedTrace:
    """What an engine did, in the recordings' schema, with the recording's names for the requests.

    ``rejected`` are ``(request name, reason)`` of those refused before they reached the scheduler.
    """

    iterations: list[dict[str, Any]]
    per_request: list[dict[str, Any]]
    rejected: list[tuple[str, str]]
    counters: dict[str, int]
    deadlock: bool

    @property
    def unfinished(self) -> list[str]:
        """Names of accepted requests that never finished."""
        return [row["req_id"] for row in self.per_request if row["finish_ns"] is None]

    def as_recording(self, case: str) -> dict[str, Any]:
        """The JSON object of one case."""
        return {
            "case": case,
            "num_iterations": len(self.iterations),
            **self.counters,
            "deadlock": self.deadlock,
            "livelock": False,
            "unfinished": self.unfinished,
            "rejected": [{"req_id": name, "reason": reason} for name, reason in self.rejected],
            "iterations": self.iterations,
            "per_request": self.per_request,
        }


def write_lines(objects: Iterable[Mapping[str, Any]]) -> Generator[str]:
    """JSON Lines, compact, one object a line."""
    for item in objects:
        yield json.dumps(item, separators=(",", ":")) + "\n"
