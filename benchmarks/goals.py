"""What is asked of the engine, beside plain Python and a commit before: ``python -m benchmarks.goals``.

Each case in three ways, in turn, so that whatever else the machine does meets all alike: the package of ``BEFORE``
(from git), this one in plain Python, and this one in machine code. The best of the repeats counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Row, generated, job
from benchmarks.inputs import REPOSITORY, SHAPES, SHAREGPT_300, profile_root, write_cluster_config
from benchmarks.measure import check_out, run_child

BEFORE = "80ccc72"
WAYS = ("before", "plain", "compiled")
RUN = (sys.executable, "-c", "from penstock.cli.entry import main; main()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A case: ``mode`` of a burst of ``requests`` at pp 4, or else ``shape`` of a whole process. Goals are iterations
    per CPU second at least, or CPU seconds and MB at most; None: none is set."""

    name: str
    requests: int
    mode: str = ""
    shape: str = ""
    prefixes: bool = False
    compiled: float
    plain: float | None = None
    peak_mb: float | None = None
    is_long: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return bool(self.mode)


GOALS = (
    Goal(
        name="pp 4, 128 running, synchronous",
        requests=3_000,
        mode="synchronous",
        compiled=1.5e6,
        plain=200_000,
    ),
    Goal(
        name="pp 4, 128 running, async scheduling",
        requests=3_000,
        mode="async scheduling",
        compiled=1e6,
        plain=100_000,
    ),
    Goal(name="pp 4, 128 running, decode-cap", requests=3_000, mode="decode-cap", compiled=500_000),
    Goal(name="pp 4, 128 running, sglang", requests=3_000, mode="sglang", compiled=500_000),
    Goal(name="pp 4, 128 running, gllm", requests=3_000, mode="gllm", compiled=500_000),
    Goal(
        name="prefix caching with ids, 16 shared prefixes",
        requests=3_000,
        mode="synchronous",
        prefixes=True,
        compiled=500_000,
    ),
    Goal(name="300 ShareGPT requests, whole process", requests=300, shape="pp4", compiled=0.35),
    Goal(
        name="100,000 requests, pp 4, CSV without ITL, whole process",
        requests=100_000,
        shape="pp4",
        compiled=3,
        peak_mb=250,
        is_long=True,
    ),
    Goal(
        name="1,000,000 requests, 128 x pp 4, whole process",
        requests=1_000_000,
        shape="128 x pp4",
        compiled=40,
        peak_mb=1500,
        is_long=True,
    ),
)


def goals(*, quick: bool, only: Sequence[str] = (), ways: Sequence[str] = WAYS) -> Iterator[Row]:
    """A row for each case in each way; ``quick`` leaves out those that take minutes."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        if "before" in ways:
            check_out(BEFORE, folder)
        for goal in GOALS:
            if (quick and goal.is_long) or (only and not any(part in goal.name for part in only)):
                continue
            if goal.requests == 300 and not SHAREGPT_300.is_file():
                continue
            yield from _measured(goal, folder, ways)


def _measured(goal: Goal, folder: Path, ways: Sequence[str]) -> Iterator[Row]:
    command = _command(goal, folder)
    repeats = 1 if goal.is_long else 2 if goal.is_rate else 4  # a worker warms up by itself
    rows: dict[str, Row] = {}
    for _ in range(repeats):
        for way in ways:
            source = folder if way == "before" else REPOSITORY
            settings = [
                f"PYTHONPATH={source / 'src'}:{REPOSITORY}",
                f"PENSTOCK_PURE={int(way != 'compiled')}",
            ]
            usage, output = run_child(["env", *settings, *command])
            answer = json.loads(output.splitlines()[-1]) if goal.is_rate else {"min_cpu_s": usage.cpu_s}
            row = rows.setdefault(way, {"min_cpu_s": float("inf"), "peak_mb": 0.0})
            if answer["min_cpu_s"] < row["min_cpu_s"]:
                row |= {"min_cpu_s": answer["min_cpu_s"], "iterations": answer.get("iterations", 0)}
            row["peak_mb"] = max(row["peak_mb"], usage.peak_mb)
    for way, row in rows.items():
        value = row["iterations"] / row["min_cpu_s"] if goal.is_rate else row["min_cpu_s"]
        yield {"name": goal.name, "way": way, "value": value, "load": os.getloadavg()[0], **row}


def _command(goal: Goal, folder: Path) -> list[str]:
    if goal.is_rate:
        task = job(
            "pp4", goal.requests, mode=goal.mode, prefixes=goal.prefixes, burst=True, repeats=2, seconds=30.0
        )
        return [sys.executable, "-m", "benchmarks.worker", json.dumps(task)]
    dataset = SHAREGPT_300 if goal.requests == 300 else generated(goal.requests, goal.shape, folder)
    cluster = write_cluster_config(SHAPES[goal.shape], folder / "cluster.json")
    command = [*RUN, "run", "--cluster-config", str(cluster), "--dataset", str(dataset)]
    command += ["--output", str(folder / "requests.csv")]
    command += ["--no-itl", "--record", "requests"] if goal.is_long else []
    root = profile_root()
    return command if root is None else [*command, "--profile-root", str(root)]


def main() -> None:
    """Measure and print the table."""
    from benchmarks.report import goals_table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.goals", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the cases that take minutes")
    parser.add_argument("--case", action="append", help="only cases with this in their name; may be repeated")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this way; may be repeated")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in goals(quick=arguments.quick, only=arguments.case or (), ways=arguments.way or WAYS):
        rows.append(row)
        print(f"{row['name']}, {row['way']}: {row['value']:,.3f}, load {row['load']:.1f}", file=sys.stderr)
    print("\n".join(goals_table(rows)))


if __name__ == "__main__":
    main()
