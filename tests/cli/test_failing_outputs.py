"""Every command that writes, with a disk that is full, broken or closed at its first, a middle and a late write."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from fuzz.inputs import kinds
from fuzz.kind import Kind, state, write
from fuzz.mutations import called
from penstock.files import writing

RUN = "run --cluster-config c.json --dataset w.jsonl --log-interval 0"
SLO = "--slo ttft_p99<9s --max-requests 100"

LINES = {
    "cluster": f"{RUN} --output n/o.csv --results n/r --trace n/t.json.gz --report n/o.html",
    "capacity": f"capacity c.json --dataset w.jsonl {SLO} --output n/o.json --curve n/c.csv --report n/o.html",
    "advise": "advise c.json --dataset w.jsonl --report n/o.html",
    "study": "explore s.yaml -o n/r --workers 1",
    "size": (
        "size --model mixture.json --rate 5 --slo ttft_p99<9s --hardware H100:1 --workload w.jsonl "
        "--max-requests 100 --workers 1 --report n/o.html -o n/r"
    ),
    "chakra": "export chakra c.json --dataset w.jsonl --output n/et",
    "results": "compare A B --report n/o.html",
    "recording": "validate schedule r.json --dump n/o.jsonl",
    "measured run": "validate measured m --dataset w.jsonl --plot n/o.html",
    "vllm bench": "validate bench c.json --bench b.json --json n/o.json --report n/o.html",
    "calibrate": "calibrate c.json --bench b.json --log l.log -o n/o.json --report n/o.html",
    "experts": "profile fit p/H100/meta-llama/Llama-3.1-8B/bf16 -o n/o.json",
    "old profile": "profile import old -o n/q --hardware H100 --model a/b",
    "profiles to calibrate": "profile calibrate perf -o n/o.json",
    "links": "profile network net -o n/o.json",
    "lengths": "workload generate -n 5 --lengths-from w.jsonl -o n/o.jsonl",
    "packed workload": "workload convert w.gz -o n/o.jsonl.gz",
    "mix": "workload mix --part w.jsonl:1 --part a.csv:2:1 -n 5 -o n/o.jsonl",
    "azure": "init n",
    "model": "demo --report n/o.html",
    "simulated run": (
        "llmservingsim bench validate --bench-dir m --sim-csv s.csv --sim-log s.log --output-subdir n"
    ),
    "conversations": (
        "llmservingsim generators sharegpt --num-reqs 3 --sps 1 --output n/o.jsonl --source chats.json --model tok"
    ),
}
"""By the kind of input that each of them reads."""

FAILURES = (errno.ENOSPC, errno.EIO, errno.EACCES)


def failing(monkeypatch: pytest.MonkeyPatch, at: int | None, code: int = 0) -> list[int]:
    """Let every write from the ``at``-th on fail; the list has one entry, how many were tried."""
    real, tried = writing.write_to, [0]

    def write_to(file: Any, data: Any) -> int:
        tried[0] += 1
        if at is not None and tried[0] > at:
            raise OSError(code, os.strerror(code))
        return real(file, data)

    monkeypatch.setattr(writing, "write_to", write_to)
    return tried


def exit_code(words: list[str], directory: Path) -> int:
    with pytest.raises(SystemExit) as caught:
        called(words, directory)
    return int(caught.value.code or 0)


def whole_lines(data: bytes) -> bool:
    """What a search keeps of a run that failed: nothing, or points that are done."""
    return not data or data.endswith(b"}\n")


@pytest.mark.parametrize("name", LINES)
def test_an_output_that_cannot_be_written_is_one_sentence_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind: Kind = next(one for one in kinds() if one.name == name)
    words = shlex.split(LINES[name])
    whole = tmp_path / "whole"
    write(kind.files, whole)
    with monkeypatch.context() as patched:
        tried = failing(patched, None)
        assert exit_code(words, whole) in ((0, 1) if kind.differs else (0,))
    writes = tried[0]
    assert writes, "it writes through the one place"
    # A page holds times that were measured, so that another run may come to one write fewer.
    late = writes - 2 if writes > 2 else writes - 1
    for at, code in zip((0, writes // 2, late), FAILURES, strict=True):
        place = tmp_path / str(at)
        if place.exists():
            continue
        write(kind.files, place)
        before = state(place)
        capsys.readouterr()
        with monkeypatch.context() as patched:
            failing(patched, at, code)
            assert exit_code(words, place) == 2
        err = capsys.readouterr().err
        told = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(told) == 1
        assert told[0].endswith(f"cannot be written: {os.strerror(code)}")
        assert told[0].startswith(("error: n", "error: m/n/"))
        assert "Traceback" not in err
        after = state(place)
        journal = after.pop("n/r/results.jsonl", b"") if name == "study" else b""
        assert whole_lines(journal)
        assert after == before
        assert (place / "n").exists() == (name == "study")
