"""``--report FILE.html``: one page that needs nothing but a browser, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.files.writing import atomic_write
from penstock.rendering.page import asset, document
from penstock.rendering.report_data import page_data
from penstock.rendering.result import SimulationResult
from penstock.rendering.run_view import RunView, view_of


def write_report(result: SimulationResult, path: str | Path) -> None:
    """Write the page of one run. The chart of the pipeline needs a run that kept its stages' times.

    Raises:
        UserError: the file cannot be written.
    """
    write_page([view_of(result)], path, title=title_of(result))


def title_of(result: SimulationResult) -> str:
    """``requests.jsonl on cluster.json``"""
    dataset = Path(str(result.context.inputs.get("dataset", "a workload"))).name
    cluster = Path(str(result.context.inputs.get("cluster", "a cluster"))).name
    return f"{dataset} on {cluster}"


def write_page(
    views: Sequence[RunView], path: str | Path, *, title: str, verdict: str = "", differences: str = ""
) -> None:
    """Write a page on one run, or on several side by side, for which ``verdict`` and ``differences`` are HTML above
    and below the verdicts of each.

    Raises:
        UserError: the file cannot be written.
    """
    body = asset("report.html").replace("@@VERDICT@@", verdict).replace("@@DIFFERENCES@@", differences)
    data = {"runs": [page_data(view) for view in views]}
    with atomic_write(path) as file:
        file.write(document(title, body, data=data, scripts=("gantt.js", "kv.js", "report.js")))
