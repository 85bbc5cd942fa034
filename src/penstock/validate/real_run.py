"""A measured two-process vLLM run as it lies on disk: requests, client, iterations, summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.json_text import json_lines, load_json, shown_text
from penstock.spec.check import check_document
from penstock.spec.options import SchedulerOptions
from penstock.validate.shapes import RealClientRow, RealIteration, RealRequest, RealSummary

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
        return len(self.steps[0]["stages"])

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
    for name, shape in (("requests", RealRequest), ("client", RealClientRow), ("iterations", RealIteration)):
        tables[name] = []
        try:
            for where, row in json_lines(directory / f"{name}.jsonl.gz"):
                check_document(shape, row, where)
                tables[name].append(row)
        except UserError as error:
            problems += error.problems
        else:
            if not tables[name]:
                problems.append(Problem(str(directory / f"{name}.jsonl.gz"), "holds no row"))
    summary: Row = {}
    try:
        summary = load_json(directory / "summary.json")
        check_document(RealSummary, summary, str(directory / "summary.json"))
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    stages = {len(row["stages"]) for row in tables["iterations"] if row["scheduled"]}
    if len(stages) != 1 or 0 in stages:
        message = "its steps differ in their stages, or have none"
        raise UserError([Problem(str(directory / "iterations.jsonl.gz"), message)])
    tables["requests"].sort(key=lambda row: row["arrival_time_ns"])
    by_name = {row["req_id"]: row for row in tables["client"]}
    alone = next((row["req_id"] for row in tables["requests"] if row["req_id"] not in by_name), None)
    if alone is not None:
        raise UserError(
            [Problem(str(directory / "client.jsonl.gz"), f"has no row of request '{shown_text(alone)}'")]
        )
    client = [by_name[row["req_id"]] for row in tables["requests"]]
    return RealRun(tables["requests"], client, tables["iterations"], summary)
