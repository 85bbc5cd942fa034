"""Run the README's demo command and put the table that it prints into the README."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def main() -> None:
    """Rewrite the README's one ``text`` block; the test in tests/test_readme.py compares it."""
    text = README.read_text(encoding="utf-8")
    (command,) = re.findall(r"^    (python -m serving .*)$", text, re.MULTILINE)
    output = subprocess.run(
        command, shell=True, cwd=README.parent, capture_output=True, text=True, check=True
    ).stdout
    table = output[output.index("throughput  ") : output.index("\nrests on")].rstrip()
    block = f"```text\n{table}\n```\n"
    README.write_text(re.sub(r"(?ms)^```text\n.*?^```\n", lambda _: block, text), encoding="utf-8")


if __name__ == "__main__":
    main()
