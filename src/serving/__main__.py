"""``python -m serving`` takes the options of ``penstock run``."""

from __future__ import annotations

from penstock.cli.main import main

if __name__ == "__main__":
    main(command="run", program="python -m serving")
