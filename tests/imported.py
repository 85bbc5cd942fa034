"""What a command imports, told by a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence


def imported(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Those modules of ``names`` that ``penstock`` with ``arguments`` imports, in order; the command has to succeed."""
    code = (
        "import sys\nfrom penstock.cli.main import main\n"
        f"try:\n    main({[*arguments]!r})\nexcept SystemExit as left:\n    assert not left.code\n"
        f"print('imported:', *sorted({set(names)!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, *found = done.stdout.splitlines()[-1].split(" ")
    return found
