"""Run the examples of docs/python.md and put what they print into the page."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "python.md"
EXAMPLE = re.compile(r"(?ms)^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?")


def refreshed(text: str) -> str:
    """The page with each example's output behind it; the examples are run in order, as one program."""
    module = types.ModuleType("page")  # a router is found in it by name
    sys.modules[module.__name__] = module
    names = vars(module)

    def run(match: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(match["code"], str(PAGE), "exec"), names)
        output = f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
        return f"```python\n{match['code']}```\n{output}"

    return EXAMPLE.sub(run, text)


def main() -> None:
    """Rewrite the page; the test in tests/test_python_page.py compares it."""
    os.chdir(ROOT)
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
