from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def examples(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts of ``examples`` and ``examples/published`` can be imported by their names."""
    for folder in ("examples", "examples/published"):
        monkeypatch.syspath_prepend(str(repository / folder))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.usefixtures("examples")
def test_a_mixed_step_lies_between_its_parts_and_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    script("mixed_step").main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 7
    for row in rows:
        chunk, decodes, both, apart = map(float, row[1:5])
        assert max(chunk, decodes) < both <= apart
    assert {row[0] for row in rows if row[5] == "estimate"} == {"GH200", "MI300X"}
