"""``python -m benchmarks``: measure, print the tables, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.cases import GROUPS as CASES
from benchmarks.goals import goals
from benchmarks.inputs import REPOSITORY, cost_basis, profile_root
from benchmarks.report import MEASURED, PROFILED, render, update_docs

GROUPS = {"goals": goals, **CASES}
OUTPUT = REPOSITORY / "outputs" / "bench.json"
DOCS = REPOSITORY / "docs" / "performance.md"


def main() -> None:
    """Measure what the options ask for."""
    arguments = _parser().parse_args()
    output = Path(arguments.output)
    if arguments.line_profile:
        from benchmarks.lines import profile

        _show(PROFILED, profile(), update=arguments.update_docs)
        return
    if arguments.from_json:
        report = json.loads(output.read_text(encoding="utf-8"))
    else:
        report = _measure(arguments.only or list(GROUPS), quick=arguments.quick)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {output}", file=sys.stderr)
    _show(MEASURED, render(report), update=arguments.update_docs)


def _show(part: str, text: str, *, update: bool) -> None:
    print(text)
    if update:
        update_docs(DOCS, part, text)
        print(f"updated {DOCS}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the cases that take minutes")
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="one group; may be repeated")
    parser.add_argument("--output", default=str(OUTPUT), help="the JSON file [outputs/bench.json]")
    parser.add_argument("--update-docs", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument(
        "--from-json", action="store_true", help="measure nothing: take the JSON file as it is"
    )
    parser.add_argument(
        "--line-profile",
        action="store_true",
        help="instead, profile the hot loop by line (needs line_profiler)",
    )
    return parser


def _measure(names: list[str], *, quick: bool) -> dict[str, Any]:
    if profile_root() is None:
        print(f"notice: costs from {cost_basis()}", file=sys.stderr)
    report: dict[str, Any] = {
        "quick": quick,
        "cost_basis": cost_basis(),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "groups": {},
    }
    for name in names:
        rows = report["groups"][name] = []
        for row in GROUPS[name](quick=quick):
            rows.append(row)
            label = row.get("name") or f"{row['shape']}, {row['requests']:,} requests, {row['what']}"
            print(f"{name}: {label}: {row['min_cpu_s']:.3f} CPU s, {row['peak_mb']:.0f} MB", file=sys.stderr)
    return report


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU"
    )


if __name__ == "__main__":
    main()
