"""``--report FILE.html``: one page that needs nothing but a browser, no network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from penstock.files.writing import atomic_write
from penstock.rendering.report_data import RunView, page_data, view_of
from penstock.rendering.result import SimulationResult


def write_report(result: SimulationResult, path: str | Path) -> None:
    """Write the page of one run. The chart of the pipeline needs a run that kept its stages' times.

    Raises:
        UserError: the file cannot be written.
    """
    dataset = Path(str(result.context.inputs.get("dataset", "a workload"))).name
    cluster = Path(str(result.context.inputs.get("cluster", "a cluster"))).name
    write_page([view_of(result)], path, title=f"{dataset} on {cluster}")


def write_page(views: Sequence[RunView], path: str | Path, *, title: str, differences: str = "") -> None:
    """Write a page on one run, or on several side by side; ``differences`` is HTML below the verdicts.

    Raises:
        UserError: the file cannot be written.
    """
    data = json.dumps({"runs": [page_data(view) for view in views]}, separators=(",", ":"), allow_nan=False)
    assets = files("penstock.rendering") / "assets"

    def read(name: str) -> str:
        return (assets / name).read_text(encoding="utf-8")

    plotly = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title),
        "CSS": read("report.css"),
        "DIFFERENCES": differences,
        # Only "</" could end the element early.
        "DATA": data.replace("</", "<\\/"),
        "PLOTLY": plotly,
        "GANTT": read("gantt.js"),
        "SCRIPT": read("report.js"),
    }
    with atomic_write(path) as file:
        for place, part in enumerate(read("report.html").split("@@")):
            file.write(parts[part] if place % 2 else part)
