"""A taste of the mutation fuzzer: ``make fuzz`` runs it for longer."""

from __future__ import annotations

import os
from pathlib import Path

from fuzz.inputs import kinds
from fuzz.kind import state, write
from fuzz.mutations import called, judged, run

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))


def test_inputs_as_they_are_give_no_defect(tmp_path: Path) -> None:
    refused = ("real run", "bundle to fit")  # of nothing real: for what they hold
    for kind in (one for one in kinds() if one.name not in refused):
        directory = tmp_path / kind.name.replace(" ", "-")
        write(kind.files, directory)
        before = state(directory)
        code: object = 0
        try:
            called(kind.line.split(), directory)
        except SystemExit as end:
            code = end.code or 0
        assert code in ((0, 1) if kind.differs else (0,)), kind.name
        assert judged(kind, code, "x", before, state(directory)) is None


def test_mutations_give_an_answer_or_a_message() -> None:
    _, defects, _ = run(0, 100_000, SECONDS)
    assert not defects
