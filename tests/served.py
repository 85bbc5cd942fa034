"""A `penstock serve` as users start it: another process, on a free port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cluster_config(instances: int = 1, **changes: Any) -> dict[str, Any]:
    instance: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "pp_size": 2,
        **changes,
    }
    node = {"num_instances": instances, "instances": [instance] * instances}
    return {"num_nodes": 1, "link_bw": 100, "link_latency": 1000, "nodes": [node]}


class Served:
    """A running server: where it is, and how it ended."""

    def __init__(self, process: subprocess.Popen[str], addresses: list[str]) -> None:
        self.process = process
        self.addresses = addresses
        self.url = addresses[0]
        self.output = ""
        self.errors = ""

    def end(self) -> int:
        """Ask it to stop; returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        if not self.process.stdout or not self.process.stdout.closed:
            self.output, self.errors = self.process.communicate(timeout=20)
        return self.process.returncode


@contextmanager
def serving(path: Path, config: dict[str, Any], *options: str, addresses: int = 1) -> Generator[Served]:
    """A server of ``config``; it must end without a traceback."""
    file = path / "cluster.json"
    file.write_text(json.dumps(config))
    with starting(["--cluster-config", str(file), "--port", "0", *options], addresses=addresses) as served:
        yield served


@contextmanager
def starting(arguments: Sequence[str], *, addresses: int = 1) -> Generator[Served]:
    """`penstock serve` with these arguments; it must end without a traceback, unless it was killed."""
    command = [sys.executable, "-c", "from penstock.cli.main import main; main()", "serve", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found: list[str] = []
    lines: list[str] = []
    while len(found) < addresses:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the server ended: {lines} {process.communicate()[1]}")
        lines.append(line)
        if " on http" in line:
            found.append(line.split(" on ")[1].split()[0])
    served = Served(process, found)
    try:
        yield served
    finally:
        code = served.end()
        assert "Traceback" not in served.errors, served.errors
        assert code in (0, -signal.SIGKILL), served.errors
