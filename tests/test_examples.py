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


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize("number", [0, 1])
def test_the_mlperf_submissions_start(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    mlperf = script("mlperf_llama2_70b")
    monkeypatch.setattr(mlperf, "REQUESTS", 400)
    system = mlperf.SYSTEMS[number]
    # Kernels of the roofline: the wheel may not be there.
    rate, result = mlperf.serve(system, system.rate, None)
    assert len(result.requests) == 400
    assert result.requests["output_tokens"].mean() == pytest.approx(mlperf.MEAN_ANSWER, rel=0.01)
    assert 0 < rate < 1.1 * system.rate * mlperf.MEAN_ANSWER  # no more than what arrives


@pytest.mark.usefixtures("examples")
def test_stages_of_a_prefill_server_carry_more_than_one_stage_of_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefill = script("prefill_pp8")
    prefill.main(24)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == list(prefill.WAYS)
    rates = {name: prefill.served(way, 24, 0) for name, way in prefill.WAYS.items()}
    assert rates["PP8"][0] > 1.45 * rates["TP8"][0]
    alone = {name: prefill.served(way, 1, 0)[1] for name, way in prefill.WAYS.items()}
    assert alone["PP8"] > alone["TP8"]  # one prompt walks through the stages by itself


@pytest.mark.usefixtures("examples")
def test_asynchronous_scheduling_gains_over_stages(capsys: pytest.CaptureFixture[str]) -> None:
    pp4 = script("async_pp4")
    pp4.main(requests=8, answer=16)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:5]]
    assert all(float(row[-2].rstrip("%")) > 0 > float(row[-1].rstrip("%")) for row in rows), rows


@pytest.mark.usefixtures("examples")
def test_a_host_shorter_than_a_stage_is_hidden_and_a_longer_one_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ascend = script("async_ascend")
    ascend.main(requests=16, answer=4, hosts_ms=(10,))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:18].strip() for line in lines[1:]] == list(ascend.WAYS)
    sync, hidden = (ascend.WAYS[name] for name in ("TP4 x PP4", "async scheduling"))
    assert ascend.served(hidden, 5, 64, 16)[2] < ascend.served(sync, 5, 64, 16)[2]
    slow = [ascend.served(way, 40, 64, 16)[2] for way in (sync, hidden)]
    assert slow[1] > 0.95 * slow[0]
