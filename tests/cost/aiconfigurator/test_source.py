from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from tests.cost.aiconfigurator.build import gemm_ms, write_wheel
from tests.cost.test_sources import LLAMA, ask

from penstock.cost import sources
from penstock.cost.aiconfigurator.wheel import VERSION, Wheel, find_wheel
from penstock.cost.sources import kernel_tables
from penstock.errors import UserError

ODD = replace(LLAMA, name="you/odd", vocab_size=100_000)
"""Llama-3.1-8B with a vocabulary that no packaged fit has."""


class Installed:
    """What ``importlib.metadata`` says of a wheel."""

    def __init__(self, version: str, root: Path) -> None:
        self.version = version
        self._root = root

    def locate_file(self, name: str) -> Path:
        return self._root / name


def install(monkeypatch: pytest.MonkeyPatch, root: Path, version: str = VERSION) -> None:
    def distribution(name: str) -> Installed:
        assert name == "aiconfigurator-core"
        return Installed(version, root)

    monkeypatch.setattr(metadata, "distribution", distribution)


def test_without_the_wheel_the_estimate_says_what_it_would_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_wheel", lambda: None)
    basis = kernel_tables(ask("H100", ODD), None).basis
    assert "an estimate" in basis[0]
    assert basis[1] == "pip install 'penstock[aiconfigurator]' has measured kernels of this chip"
    assert len(kernel_tables(ask("MI300X", ODD), None).basis) == 1


def test_with_it_kernels_are_as_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "find_wheel", lambda: write_wheel(tmp_path))
    tables = kernel_tables(ask("NVIDIA H100 80GB HBM3", ODD), None)
    assert "kernels measured by AIConfigurator" in tables.basis[0]
    assert f"{VERSION}, h100_sxm, vllm 0.24.0" in tables.basis[0]
    assert tables.dense["o_proj"].at(1) == pytest.approx(1000 * gemm_ms(1, 4096, 4096))
    assert tables.skew is not None
    assert (tables.block_us(np.arange(1, 4096)) > 0).all()


@pytest.mark.parametrize(
    ("hardware", "system", "skew"), [("H100", "h100_sxm", 0.7), ("A100", "a100_sxm", 0.06)]
)
def test_unequal_contexts_cost_what_the_chips_attention_makes_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hardware: str, system: str, skew: float
) -> None:
    monkeypatch.setattr(sources, "find_wheel", lambda: write_wheel(tmp_path, system))
    found = kernel_tables(ask(hardware, ODD), None).skew
    assert found is not None
    assert found.alpha.ravel().tolist() == [skew]


def test_arithmetic_takes_longer_in_a_server_than_in_a_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "find_wheel", lambda: write_wheel(tmp_path))
    curve = kernel_tables(ask("H100", ODD), None).dense["o_proj"]
    alone = 1000 * gemm_ms(4096, 4096, 4096)
    assert alone * 1.1 < curve.at(4096) < alone * 1.26


def test_a_dtype_or_chip_that_was_not_measured_is_estimated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "find_wheel", lambda: write_wheel(tmp_path))
    for question in (ask("H100", ODD, dtype="fp8"), ask("H100", ODD, dtype="fp4"), ask("MI300X", ODD)):
        assert "an estimate" in kernel_tables(question, None).basis[0]


def test_another_version_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "0.13.0")
    with pytest.raises(
        UserError, match=r"aiconfigurator-core 0\.13\.0: is installed, but kernel times are read from"
    ):
        kernel_tables(ask("H100", ODD), None)


def test_a_broken_wheel_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="no such directory: aiconfigurator-core is broken, install it anew"):
        find_wheel()
    root = tmp_path / "aiconfigurator_core" / "systems"
    table = write_wheel(root).table("h100_sxm", "gemm", "vllm", "gemm")
    table.write_bytes(b"not a table")
    with pytest.raises(UserError, match="cannot be read"):
        kernel_tables(ask("H100", ODD), None)


def test_a_table_that_the_current_version_lacks_is_filled_from_one_before(tmp_path: Path) -> None:
    write_wheel(tmp_path, version="0.9.0")
    wheel = write_wheel(tmp_path, version="0.24.0")
    current = wheel.table("h100_sxm", "gemm", "vllm", "gemm")
    assert current.parent.name == "0.24.0"
    current.unlink()
    assert wheel.table("h100_sxm", "gemm", "vllm", "gemm").parent.name == "0.9.0"


@pytest.fixture
def installed() -> Wheel:
    wheel = find_wheel()
    if wheel is None:
        pytest.skip("needs penstock[aiconfigurator]")
    return wheel


@pytest.mark.parametrize(
    ("hardware", "dtypes"),
    [
        ("A100", ("bfloat16",)),
        ("H100", ("bfloat16", "fp8")),
        ("H200", ("fp8_block",)),
        ("B300", ("bfloat16", "fp8", "nvfp4")),
        ("GB200", ("bfloat16", "fp8", "nvfp4")),
        ("L40S", ("bfloat16", "fp8")),
    ],
)
def test_the_installed_wheel_answers(installed: Wheel, hardware: str, dtypes: tuple[str, ...]) -> None:
    del installed
    times = [kernel_tables(ask(hardware, ODD, 2, dtype), None) for dtype in dtypes]
    for tables in times:
        assert "kernels measured by AIConfigurator" in tables.basis[0]
        assert np.isfinite(tables.attention.us).all()
    large = [float(tables.dense["gate_up_proj"].at(4096)) for tables in times]
    assert large == sorted(large, reverse=True)


def test_a_row_of_the_installed_wheel(installed: Wheel) -> None:
    del installed
    tables = kernel_tables(ask("H100", ODD), None)
    assert tables.dense["qkv_proj"].at(1) == pytest.approx(19.9, abs=0.05)
