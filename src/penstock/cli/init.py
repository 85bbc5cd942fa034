"""``penstock init``: files to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.registry import GuardedCommand

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(cls=GuardedCommand)
def init(
    *,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write them.")] = Path(),
) -> None:
    """Write an example cluster, workload and search into a directory, and say what to do with them."""
    from penstock.cli.examples import CLUSTER, STUDY, WORKLOAD, example
    from penstock.errors import Problem, UserError
    from penstock.files.use import FileUse
    from penstock.files.writing import all_or_nothing, atomic_write

    names = (CLUSTER, WORKLOAD, STUDY)
    there = [directory / name for name in names if (directory / name).exists()]
    if there:
        raise UserError([Problem(str(path), "is there already: it is not overwritten") for path in there])
    FileUse(reads={}, writes={"DIR": [directory / name for name in names]}).check()
    with all_or_nothing():
        for name in names:
            with atomic_write(directory / name) as file:
                file.write(example(name).read_text(encoding="utf-8"))
    cluster, workload, study = (directory / name for name in names)
    typer.echo(
        f"wrote {cluster}, {workload}, {study}\n\n"
        f"one run        penstock run {cluster} --dataset {workload} --report report.html\n"
        f"what helps     penstock advise {cluster} --dataset {workload}\n"
        f"how much       penstock capacity {cluster} --dataset {workload} --slo 'ttft p99 < 2 s'\n"
        f"which is best  penstock explore {study}"
    )
