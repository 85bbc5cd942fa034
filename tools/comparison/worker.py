"""Runs cases with one checkout: imports it once, then forks a child for every command line.

Reads a JSON object per line (``directory``, ``commands``) and answers each with an empty line when its files are
there: what the commands wrote, and ``<n>.stdout``, ``<n>.stderr``, ``<n>.code`` of each.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

PRELOADED = (
    "penstock.cli.main",
    "penstock.cli.run",
    "penstock.cli.job",
    "penstock.rendering.report",
    "polars",
)


def serve() -> None:
    """Take cases from standard input until it ends."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        case = json.loads(line)
        for number, command in enumerate(case["commands"]):
            child = os.fork()
            if not child:
                _become(case["directory"], number, command)
            _, status = os.waitpid(child, 0)
            code = str(os.waitstatus_to_exitcode(status))
            Path(case["directory"], f"{number}.code").write_text(code + "\n", encoding="utf-8")
        print(flush=True)


def _become(directory: str, number: int, command: list[str]) -> None:
    """Run one command line in this process, which ends with it."""
    code = 70
    try:
        os.chdir(directory)
        for name, stream in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = _run(command)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(command: list[str]) -> int:
    program, *arguments = command
    try:
        if program == "python":
            sys.argv = ["-c", *arguments[1:]]
            exec(compile(arguments[0], "<script>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [program, *arguments]
            module = "serving" if program == "serving" else "penstock.cli.main"
            if program == "serving":
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            else:
                importlib.import_module(module).main(arguments)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    return 0


if __name__ == "__main__":
    serve()
