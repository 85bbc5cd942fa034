"""Two checkouts beside each other: ``python -m benchmarks.beside COMMIT``.

The cases of this checkout on the package of a commit and on that of the working tree, there in plain Python and in
machine code, in turn, so that whatever else the machine does meets all alike. The table gives the best of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cases import generated, job
from benchmarks.inputs import MODES, REPOSITORY, SHAPES, SHAREGPT_300, profile_root, write_cluster_config
from benchmarks.measure import check_out, run_child

RUN = [sys.executable, "-c", "from penstock.cli.main import main; main()"]

WAYS = ((None, "1"), (REPOSITORY / "src", "1"), (REPOSITORY / "src", "0"))
"""Where the package comes from, and whether it is plain Python; the first is the commit's."""


def cases(folder: Path, requests: int, *, long: bool) -> dict[str, tuple[list[str], bool]]:
    """Commands by name, and whether they answer with the seconds and iterations inside the run."""
    found: dict[str, tuple[list[str], bool]] = {}

    def worker(name: str, task: dict[str, Any]) -> None:
        found[name] = [sys.executable, "-m", "benchmarks.worker", json.dumps(task)], True

    alone = {"repeats": 1, "burst": True}
    for mode in MODES:
        worker(f"pp 4, 128 running, {mode}", job("pp4", requests, mode=mode, **alone))
    worker("pp 4, 128 running, 16 shared prefixes", job("pp4", requests, prefixes=True, **alone))
    worker("pp 1, 10 requests/s", job("tp1", requests, repeats=1))
    if SHAREGPT_300.is_file():
        cluster = write_cluster_config(SHAPES["pp4"], folder / "cluster.json")
        files = ["--dataset", str(SHAREGPT_300), "--output", str(folder / "requests.csv")]
        root = profile_root()
        measured = [] if root is None else ["--profile-root", str(root)]
        command = [*RUN, "run", "--cluster-config", str(cluster), *files, *measured]
        found["300 ShareGPT requests, whole process"] = command, False
    if long:
        dataset = generated(100_000, "pp4", folder)
        cluster = write_cluster_config(SHAPES["pp4"], folder / "cluster.json")
        files = ["--dataset", str(dataset), "--output", str(folder / "requests.csv"), "--no-itl"]
        found["100,000 requests, CSV without ITL, whole process"] = (
            [*RUN, "run", "--cluster-config", str(cluster), *files],
            False,
        )
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--long", action="store_true", help="with the case that takes minutes in Python")
    parser.add_argument("--case", action="append", help="only cases with this in their name; may be repeated")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} when it began\n")
    print(
        f"| case | {arguments.commit[:7]}, CPU s | Python, CPU s | machine code, CPU s | iterations/s | times |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_out(arguments.commit, folder)
        for title, (command, answers) in cases(folder, arguments.requests, long=arguments.long).items():
            if arguments.case and not any(part in title for part in arguments.case):
                continue
            best = [1e9] * len(WAYS)
            iterations = 0
            for _ in range(arguments.repeats):
                for place, (source, pure) in enumerate(((folder / "src", "1"), *WAYS[1:])):
                    settings = [f"PYTHONPATH={source}:{REPOSITORY}", f"PENSTOCK_PURE={pure}"]
                    usage, output = run_child(["env", *settings, *command])
                    answer = json.loads(output.splitlines()[-1]) if answers else {"min_cpu_s": usage.cpu_s}
                    best[place] = min(best[place], answer["min_cpu_s"])
                    iterations = answer.get("iterations", 0)
            before, python, machine = best
            rate = f"{iterations / python:,.0f} / {iterations / machine:,.0f}" if iterations else ""
            print(
                f"| {title} | {before:.3f} | {python:.3f} | {machine:.3f} | {rate} | {before / machine:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
