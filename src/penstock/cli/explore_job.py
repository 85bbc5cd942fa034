"""A search from its file to text and files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from penstock.explore.evaluate import PointJob
from penstock.explore.pool import Executor, InProcess, LocalPool
from penstock.explore.ray_pool import RayPool, check_ray
from penstock.explore.report import (
    POINTS_DIRECTORY,
    find_result,
    output_files,
    run_command,
    text_report,
    write_outputs,
    write_point,
)
from penstock.explore.result import PointResult
from penstock.explore.search import Step
from penstock.explore.study import RESULTS_FILE, run_study
from penstock.explore.study_spec import load_study
from penstock.files.use import FileUse
from penstock.files.writing import all_or_nothing

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def run_explore(
    path: Path,
    output: Path | None,
    workers: int,
    ray: str | None,
    point: str | None = None,
    calibration: Path | None = None,
) -> None:
    """Check, search, print, write.

    Raises:
        UserError: mistakes in the file, or a space in which nothing can run.
        KeyboardInterrupt: Ctrl-C; finished points are on disk.
    """
    if ray is not None:
        check_ray()
    directory = output or path.with_name(f"{path.stem}-results")
    files = FileUse(
        reads={"SPEC": path, "--calibration": calibration}, writes={"--output": output_files(directory)}
    )
    files.check()
    spec = load_study(path, calibration)
    files.check()

    def make_executor(evaluate: Callable[[PointJob], PointResult]) -> Executor[PointJob, PointResult]:
        if ray is not None:
            return RayPool(evaluate, address=ray, workers=workers)
        return InProcess(evaluate) if workers == 1 else LocalPool(evaluate, workers)

    bar = StepBar()
    try:
        outcome = run_study(spec, directory, make_executor, bar.show)
    except KeyboardInterrupt:
        bar.close()
        where = directory / RESULTS_FILE
        print(
            f"stopped: finished points are in {where}; the same command goes on from there", file=sys.stderr
        )
        raise
    finally:
        bar.close()
    for notice in outcome.notices:
        print(f"notice: {notice}", file=sys.stderr)
    if point is not None:
        result = find_result(outcome, point)
        stem = directory / POINTS_DIRECTORY / point
        with all_or_nothing():
            written = write_point(spec, result, stem)
        typer.echo(f"{result.point.label}: {result.status}\n{run_command(spec, result, stem)}")
        typer.echo(f"wrote {', '.join(map(str, written))}", err=True)
        return
    written = write_outputs(outcome, directory)
    typer.echo(text_report(outcome, directory))
    typer.echo(f"\nwrote {', '.join(str(one) for one in written[:3])}")


class StepBar:
    """A bar per phase on stderr, where that is a terminal."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: Step) -> None:
        """Draw how far the search is."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            # Points take from a second to minutes: the time left follows from all of them, not from the latest.
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                speed_estimate_period=24 * 3600,
            )
            self._bar.start()
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._bar.add_task(step.phase)
        self._bar.update(self._tasks[step.phase], completed=step.done, total=step.total)

    def close(self) -> None:
        """Remove the bars."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
