"""The README's command runs as written and prints what the README shows."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path


def test_the_demo_prints_the_readme_s_table(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    (python -m serving .*)$", readme, re.MULTILINE)
    assert f"\t{command}\n" in (repository / "Makefile").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        command,
        shell=True,
        cwd=repository,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert shown in run.stdout

    with (repository / "outputs/pp2_run.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["request id"]) for row in rows] == list(range(100))
    assert all(len(row["ITL"].strip("[]").split(",")) == max(int(row["output"]) - 1, 1) for row in rows)


def test_links_of_the_documents_lead_somewhere(repository: Path) -> None:
    documents = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    links = [
        (document, target)
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    ]
    assert links
    assert [str(link) for link in links if not (link[0].parent / link[1]).exists()] == []
