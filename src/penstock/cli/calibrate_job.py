"""A calibration from options to text and files, and a benchmark checked against one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from penstock.calibration.benchmark import Benchmark
from penstock.calibration.calibration_file import report as fit_report
from penstock.calibration.calibration_file import to_text
from penstock.calibration.comparison import Row, compare, table
from penstock.calibration.comparison import to_text as rows_to_text
from penstock.calibration.fit import Question, calibrate, load_measured
from penstock.calibration.replay import Prompts, Replay
from penstock.cli.progress import progress_line
from penstock.errors import Problem, UserError, nearest
from penstock.files.use import FileUse
from penstock.files.writing import all_or_nothing, atomic_write
from penstock.spec.calibration import load_calibration
from penstock.spec.load import load_cluster
from penstock.workload.formats import load_workload

COSTS = ("auto", "kernels", "fitted")


def given_prompts(dataset: str | None, prefix_tokens: int, groups: int) -> Prompts | None:
    """What the options say that prompts share; None where they say nothing.

    Raises:
        UserError: the workload cannot be read, or two options say it.
    """
    if dataset is None:
        return Prompts(shared_tokens=prefix_tokens, groups=groups) if prefix_tokens else None
    if prefix_tokens:
        raise UserError([Problem("--prefix-tokens", "is said by --dataset already")])
    return Prompts(workload=load_workload(dataset, 0))


def run_calibrate(question: Question, output: Path, report: Path | None) -> None:
    """Check everything, fit, print, write.

    Raises:
        UserError: with what is wrong with the inputs.
    """
    files = FileUse(
        reads={"CLUSTER": question.cluster, "--bench": question.benches, "--log": question.logs},
        writes={"--output": output, "--report": report},
    )
    problems = files.problems()
    if question.cost not in COSTS:
        hint = nearest(question.cost, COSTS)
        problems.append(Problem("--cost", f"must be one of {', '.join(COSTS)}, not '{question.cost}'{hint}"))
    if problems:
        raise UserError(problems)
    tell = progress_line()
    fit = calibrate(question, tell)
    files.check()
    tell("")
    typer.echo("\n".join(fit_report(fit)))
    written = [str(output)]
    with all_or_nothing():
        with atomic_write(output) as file:
            file.write(to_text(fit))
        if report is not None:
            from penstock.calibration.page import fit_page

            with atomic_write(report) as file:
                file.write(fit_page(fit))
            written.append(str(report))
    typer.echo(f"\nwrote {', '.join(written)}")


def run_validate_bench(
    cluster: str,
    bench: str,
    calibration: str | None,
    *,
    log: str | None = None,
    prompts: Prompts | None = None,
    profile_root: str | None = None,
    json_path: Path | None = None,
    report: Path | None = None,
) -> None:
    """Simulate a benchmark's requests and compare; nothing is fitted.

    Raises:
        UserError: with what is wrong with the inputs.
    """
    files = FileUse(
        reads={"CLUSTER": cluster, "--bench": bench, "--calibration": calibration, "--log": log},
        writes={"--json": json_path, "--report": report},
    )
    files.check()
    known = None if calibration is None else load_calibration(calibration)
    spec = load_cluster(cluster, profile_root=profile_root, calibration=known)
    measured = load_measured(spec, bench, log, prompts)
    files.check()
    replay = Replay(spec, measured.benchmark, prompts=measured.prompts)
    simulated = replay.serve(profile_root=profile_root)
    rows = compare(measured.benchmark, simulated)
    for notice in (*spec.notices, *measured.benchmark.notes):
        print(f"notice: {notice}", file=sys.stderr)
    typer.echo("\n".join(_lines(measured.benchmark, rows, replay.basis(profile_root))))
    with all_or_nothing():
        if json_path is not None:
            with atomic_write(json_path) as file:
                file.write(rows_to_text(rows))
        if report is not None:
            from penstock.calibration.page import bench_page

            basis = replay.basis(profile_root)
            with atomic_write(report) as file:
                file.write(
                    bench_page(measured.benchmark, replace(simulated, source="simulated"), rows, basis)
                )


def _lines(benchmark: Benchmark, rows: list[Row], basis: tuple[str, ...]) -> list[str]:
    return [
        f"{benchmark.source}: {len(benchmark)} requests, {benchmark.kind}; nothing is fitted to it",
        *table(rows),
        "",
        *(f"- {line}" for line in basis),
    ]
