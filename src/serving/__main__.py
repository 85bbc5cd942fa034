"""``python -m serving``: ``penstock run`` with LLMServingSim's options beside its own."""

from __future__ import annotations

from penstock.cli.entry import leave, open_streams


def main(arguments: list[str] | None = None, program: str = "python -m serving") -> None:
    """Run the command line; exits."""
    from penstock.cli.main import main as penstock_main
    from penstock.cli.run import run_app
    from serving.flags import OPTIONS, translate

    penstock_main(arguments, program=program, entry=run_app(OPTIONS, translate))


def script() -> None:
    """``penstock-serving``: the same where ``serving`` is another package in the working directory."""
    open_streams()
    try:
        main(program="penstock-serving")
    finally:
        leave()


if __name__ == "__main__":
    open_streams()
    try:
        main()
    finally:
        leave()
