"""How long 300 ShareGPT requests take here, process and all, beside what LLMServingSim takes for the same.

Modules are compiled to bytecode once, as an installation has them; that run does not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WORKLOAD = "sharegpt-llama-3.1-8b-300-sps10"
_CONFIG = "single_node_single_instance"
_STAGES_AND_SECONDS = ((1, 216, 23), (2, 368, 66), (4, 635, 266))
"""(pipeline stages, CPU seconds of LLMServingSim at 5daddb2 as it is, wall seconds where its conversion of a step runs
in its own process, as in its later versions). Measured once, on another day, with two cores."""

_REPEATS = 3


def times(data: Path) -> Iterator[str]:
    """The table, line by line: the least of three runs; and what else the machine did."""
    load = os.getloadavg()[0]
    yield (
        "| deployment | LLMServingSim, CPU s | conversion in-process, wall s | here, CPU s | here, wall s "
        "| CPU, times as fast |"
    )
    yield "|---|---|---|---|---|---|"
    for stages, theirs_s, in_process_s in _STAGES_AND_SECONDS:
        with tempfile.TemporaryDirectory() as folder:
            config = _staged(data, Path(folder), stages)
            runs = [_run_s(data, config, Path(folder)) for _ in range(1 + _REPEATS)][1:]
        cpu_s, wall_s = min(cpu for cpu, _ in runs), min(wall for _, wall in runs)
        name = "one GPU" if stages == 1 else f"pp {stages}"
        yield (
            f"| {name} | {theirs_s} | {in_process_s} | {cpu_s:.2f} | {wall_s:.2f} | {theirs_s / cpu_s:,.0f} |"
        )
    yield ""
    yield f"Here: Python {sys.version.split()[0]}, {os.cpu_count()} cores, load average {load:.1f} when it began."


def _staged(data: Path, folder: Path, stages: int) -> Path:
    """Its config of one GPU, in so many stages."""
    whole = json.loads((data / "configs" / "cluster" / f"{_CONFIG}.json").read_text(encoding="utf-8"))
    for instance in whole["nodes"][0]["instances"]:
        instance |= {"pp_size": stages, "num_npus": stages}
    path = folder / "cluster.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def _run_s(data: Path, config: Path, folder: Path) -> tuple[float, float]:
    """(CPU, wall) of one process from its start to the CSV with all ITLs."""
    command = [sys.executable, "-m", "serving", "--cluster-config", str(config)]
    command += ["--dataset", str(data / "workloads" / f"{WORKLOAD}.jsonl")]
    command += ["--profile-root", str(data / "perf"), "--output", str(folder / "run.csv")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    before, begin = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after, end = os.times(), time.perf_counter()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu_s, end - begin
