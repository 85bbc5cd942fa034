"""Ctrl-C at any instant, imports included: one word, no traceback of ours, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from explore.studies import write_study

CLUSTER = "configs/cluster/single_node_pp_instance.json"
PROGRAM = "from penstock.cli.entry import main; main()"
INSTANTS = int(os.environ.get("SIGNAL_INSTANTS", "8"))
"""``make fuzz`` takes 50."""


def interrupted_after(
    seconds: float, words: list[str], cwd: Path, number: int = signal.SIGINT
) -> tuple[int, str]:
    """Exit code and stderr of a command whose process group is sent a signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def check(code: int, err: str, seconds: float) -> None:
    """Ended by the signal, or done before it came."""
    if err.startswith(
        "Fatal Python error: init_"
    ):  # before the first line of ours, told in the interpreter's words
        assert "penstock" not in err, (seconds, err)
        return
    assert code in (0, 130, -signal.SIGINT), (seconds, code, err)
    # The interpreter's own start-up, before the first line of ours, may tell it in its own words.
    if "Traceback" in err:
        assert "penstock" not in err, (seconds, err)
    else:
        lines = [line for line in err.splitlines() if not line.startswith(("stopped: ", "notice: ", "\r"))]
        assert lines in ([], ["interrupted"]), (seconds, err)


@pytest.fixture
def place(repository: Path, tmp_path: Path) -> Path:
    """A directory with a workload, beside the configs."""
    line = json.dumps({"input_toks": 500, "output_toks": 60, "arrival_time_ns": 0})
    (tmp_path / "w.jsonl").write_text(f"{line}\n" * 2000)
    (tmp_path / "configs").symlink_to(repository / "configs")
    return tmp_path


def test_a_run_is_interrupted_at_random_instants(place: Path) -> None:
    random_ = random.Random(19)
    words = ["run", "--cluster-config", CLUSTER, "--dataset", "w.jsonl", "--log-interval", "0"]
    words += ["--output", "out/o.csv", "--results", "out/r"]
    for _ in range(INSTANTS):
        seconds = random_.random() ** 2 * 3
        code, err = interrupted_after(seconds, words, place)
        check(code, err, seconds)
        left = [path.name for path in place.rglob("*") if path.name.startswith(".penstock-")]
        assert not left, (seconds, left)
        if code:
            assert not (place / "out" / "o.csv").exists() or (place / "out" / "r" / "summary.json").exists()


def test_a_search_is_interrupted_while_its_workers_import(place: Path) -> None:
    random_ = random.Random(20)
    write_study(place)
    for _ in range(max(INSTANTS // 4, 1)):
        seconds = 0.5 + random_.random() * 3
        code, err = interrupted_after(seconds, ["explore", "study.yaml", "--workers", "2"], place)
        check(code, err, seconds)
        assert "Traceback" not in err


def test_an_interrupt_in_the_midst_of_importing_what_writes(place: Path) -> None:
    script = (
        "import importlib.util, sys\n"
        "from penstock.cli import guard\n"
        "sys.modules.pop('penstock.files.writing', None)\n"
        "spec = importlib.util.find_spec('penstock.files.writing')\n"
        "spec._initializing = True\n"
        "sys.modules[spec.name] = importlib.util.module_from_spec(spec)\n"
        "guard.end_now(2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_streams_that_are_closed_and_terminals_of_few_characters(place: Path) -> None:
    script = f"import sys; sys.argv = ['penstock', *sys.argv[1:]]; {PROGRAM}"
    words = [sys.executable, "-c", script, "workload", "convert", "w.jsonl", "--num-reqs", "3"]
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        line = subprocess.list2cmdline(words)
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *words], cwd=place, capture_output=True, check=False
        )
        assert done.returncode == 0, (closed, line, done.stderr)
        assert b"Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", script, "compare", "é", "\udcff"],
        cwd=place,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 2
    assert b"error: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_help_into_a_pipe_that_nobody_reads(place: Path) -> None:
    command = f'"{sys.executable}" -c "{PROGRAM}" --help; echo $? >&2'
    done = subprocess.run(
        ["sh", "-c", f"({command}) | true"], cwd=place, capture_output=True, check=False, text=True
    )
    assert done.stderr.strip() in ("0", "141")


def test_a_full_disk_behind_standard_output(place: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "workload", "convert", "w.jsonl", "--num-reqs", "3"],
            cwd=place,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: cannot read or write: No space left on device"]
