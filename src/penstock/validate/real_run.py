"""A measured two-process vLLM run as it lies on disk: requests, client, iterations, summary."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.spec.options import SchedulerOptions

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RealRun:
    """``iterations`` holds every engine turn, empty ones too, in order; ``client`` what the client saw."""

    requests: list[Row]
    client: list[Row]
    iterations: list[Row]
    summary: Row

    @property
    def steps(self) -> list[Row]:
        """The turns that scheduled something."""
        return [row for row in self.iterations if row["scheduled"]]

    @property
    def pp_size(self) -> int:
        """Pipeline stages."""
        return len(self.iterations[0]["stages"])

    def options(self) -> SchedulerOptions:
        """The engine options of the run."""
        arguments = self.summary["engine_args"]
        return SchedulerOptions(
            max_num_seqs=arguments["max_num_seqs"],
            max_num_batched_tokens=arguments["max_num_batched_tokens"],
            max_model_len=arguments["max_model_len"],
            block_size=arguments["block_size"],
            enable_prefix_caching=arguments["enable_prefix_caching"],
            max_in_flight=self.summary["batch_queue_size"],
            async_scheduling=self.summary["async_scheduling"],
            v2_model_runner=self.summary["v2_model_runner"],
            engine_idle_sleep_ns=0 if self.summary["args"].get("no_idle_sleep") else 1_000_000,
        )


def read_real_run(directory: Path) -> RealRun:
    """Read the four files of a run.

    Raises:
        UserError: a file is missing or not what it should be.
    """
    problems: list[Problem] = []
    tables: dict[str, list[Row]] = {}
    for name in ("requests", "client", "iterations"):
        try:
            with gzip.open(directory / f"{name}.jsonl.gz", "rt", encoding="utf-8") as text:
                tables[name] = [json.loads(line) for line in text]
        except (OSError, EOFError, ValueError) as error:
            problems.append(Problem(str(directory / f"{name}.jsonl.gz"), f"cannot be read: {error}"))
    summary: Row = {}
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(Problem(str(directory / "summary.json"), f"cannot be read: {error}"))
    if problems:
        raise UserError(problems)
    tables["requests"].sort(key=lambda row: row["arrival_time_ns"])
    by_name = {row["req_id"]: row for row in tables["client"]}
    client = [by_name[row["req_id"]] for row in tables["requests"]]
    return RealRun(tables["requests"], client, tables["iterations"], summary)
