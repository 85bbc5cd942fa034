"""Build the documentation's site into ``site``: docs/ with the README as its front page. Fails on any warning.

The README is written for a checkout: its links into docs/ become links beside it, its other ones name the file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def front_page(readme: str) -> str:
    """The README as a page of the site."""
    text = readme.replace("](docs/README.md)", "](README.md)").replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?:NOTICE|LICENSE)\)", r"\1", text)


def navigation(index: str) -> str:
    """The tables of docs/README.md as mkdocs' navigation: a section for each, a page for each row."""
    lines = ["nav:", "  - Penstock: index.md", "  - All pages: all-pages.md"]
    for line in index.splitlines():
        heading = re.fullmatch(r"(To [\w ]+):", line)
        row = re.match(r"\| \[([\w -]+)\]\(([\w-]+\.md)\) \|", line)
        if heading is not None:
            lines.append(f"  - {heading[1]}:")
        elif row is not None:
            lines.append(f"      - {row[1].capitalize().replace('-', ' ')}: {row[2]}")
    return "\n".join(lines) + "\n"


def build(target: Path) -> None:
    """Write the site.

    Raises:
        CalledProcessError: mkdocs found a fault.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        shutil.copytree(ROOT / "docs", copy / "docs")
        index = (copy / "docs/README.md").read_text(encoding="utf-8")
        (copy / "docs/README.md").rename(copy / "docs/all-pages.md")
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        page = (
            front_page(readme)
            .replace("](README.md)", "](all-pages.md)")
            .replace("docs/README.md", "all pages")
        )
        (copy / "docs/index.md").write_text(page, encoding="utf-8")
        config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        config = config.replace("paths: [src]", f"paths: [{ROOT / 'src'}]")
        (copy / "mkdocs.yml").write_text(config + navigation(index), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
        subprocess.run(command, cwd=copy, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve())
