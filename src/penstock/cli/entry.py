"""Where the process begins: before anything is imported, Ctrl-C is made to end it at once, as it ends any program.

Nothing is written yet then, so there is nothing to clear away; :mod:`penstock.cli.guard` takes over when the command
line is read. At the top only what the interpreter has loaded already: ``signal`` itself is not among it.
"""

import _signal  # pyright: ignore[reportMissingImports]
import gc
import os
import sys

_WITH_SIGINT = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
if _WITH_SIGINT:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def main() -> None:
    """``penstock``; exits."""
    open_streams()
    # What is imported stays: to look for cycles among it again and again takes a fifth of the time to start.
    gc.set_threshold(100_000)
    # Pydantic's plugins are not sought in all that is installed: none takes part. No matrix here is worth a second
    # thread, and threads that wait for one take time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from penstock.cli.main import main as command_line

    try:
        command_line()
    finally:
        leave()


def open_streams() -> None:
    """Give streams that the shell has closed (``>&-``) a place: else the first file that is opened is taken for one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if not number else "w", closefd=False))  # noqa: SIM115


def leave() -> None:
    """The interpreter is about to end: Ctrl-C ends it at once again, and what is left is not searched for cycles."""
    gc.freeze()
    if _WITH_SIGINT:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
