"""The examples beside published numbers run, and show the published shapes."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest


def output_of(
    name: str, repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    folder = repository / "examples" / "published"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "shapes", raising=False)
    runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_lm_head_keeps_a_pipeline_of_eight_below_eight(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = re.findall(r"([\d.]+)x$", output_of("lm_head", repository, capsys, monkeypatch), re.MULTILINE)
    assert all(6.0 < float(gain) < 8.0 for gain in gains)


def test_fewer_layers_at_the_ends_give_more_blocks_and_less_time(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = output_of("uneven_split", repository, capsys, monkeypatch)
    even, uneven = (int(blocks) for blocks in re.findall(r"\): (\d+) blocks", text))
    assert uneven > even
    assert re.search(r"^time -\d+%", text, re.MULTILINE)


def test_one_long_prompt_scales_as_published(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = output_of("strong_scaling", repository, capsys, monkeypatch)
    share = re.search(r"pp 8: [\d.]+ s, strong scaling ([\d.]+)%", text)
    assert share is not None
    assert float(share.group(1)) == pytest.approx(69.6, abs=7)


def test_link_bandwidth_hardly_matters(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = output_of("link_bandwidth", repository, capsys, monkeypatch)
    gains = [float(gain) for gain in re.findall(r"\(([+-][\d.]+)%\)", text)]
    assert len(gains) == 6
    assert max(gains) - min(gains[1:]) < 2


def test_a_dense_model_gains_from_two_stages_and_a_small_one_loses(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = output_of("rtx_pro_6000", repository, capsys, monkeypatch)
    dense, small = (
        [int(rate) for rate in re.findall(r"(\d+) \(", line)]
        for line in text.splitlines()
        if "simulated" in line
    )
    assert dense[1] > dense[0]
    assert dense[3] < dense[1]
    assert small == sorted(small, reverse=True)
