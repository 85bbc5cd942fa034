"""What a long command is at, on one line of stderr, where that is a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable


def progress_line() -> Callable[[str], None]:
    """A function that shows a text in place of the one before, cut to the terminal; an empty text takes it away."""
    shows = sys.stderr.isatty()

    def tell(text: str) -> None:
        if shows:
            width = shutil.get_terminal_size((80, 24)).columns - 1
            print(f"\r{text[:width]}\033[K", end="", file=sys.stderr, flush=True)

    return tell
