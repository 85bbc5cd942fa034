from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cost.aiconfigurator.build import TOKENS, gemm_ms, write_wheel

from penstock.cost.aiconfigurator.gemm import GemmTable, read_gemms
from penstock.cost.efficiency import Rates
from penstock.cost.kernels import Gemm

RATES = Rates(1e9, 3.35e6)


@pytest.fixture
def table(tmp_path: Path) -> GemmTable:
    found = read_gemms(write_wheel(tmp_path).table("h100_sxm", "gemm", "vllm", "gemm"), "bfloat16")
    assert found is not None
    return found


def test_a_measured_shape_is_as_measured(table: GemmTable) -> None:
    curve = table.curve(Gemm(4096, 16384, 2, 2), RATES)
    assert curve.sizes.tolist() == list(TOKENS)
    np.testing.assert_allclose(curve.us, [1000 * gemm_ms(m, 16384, 4096) for m in TOKENS], rtol=1e-9)


@pytest.mark.parametrize(("inner", "outer"), [(4096, 6144), (8192, 1024), (11008, 5120)])
def test_a_shape_between_takes_the_share_of_the_roofline_of_those_around(
    table: GemmTable, inner: int, outer: int
) -> None:
    curve = table.curve(Gemm(inner, outer, 2, 2), RATES)
    np.testing.assert_allclose(curve.us, [1000 * gemm_ms(m, outer, inner) for m in TOKENS], rtol=0.12)


def test_a_shape_beyond_keeps_the_share_of_the_last(table: GemmTable) -> None:
    curve = table.curve(Gemm(4096, 128256, 2, 2), RATES)
    np.testing.assert_allclose(curve.us, [1000 * gemm_ms(m, 128256, 4096) for m in TOKENS], rtol=0.12)


def test_no_weights_are_read_faster_than_memory_allows(table: GemmTable) -> None:
    slow = Rates(1e9, 1e6)
    assert table.curve(Gemm(4096, 4096, 2, 2), slow).us[0] == pytest.approx(4096 * 4096 * 2 / (0.85 * 1e6))


def test_a_dtype_that_was_not_measured_is_none(tmp_path: Path) -> None:
    assert read_gemms(write_wheel(tmp_path).table("h100_sxm", "gemm", "vllm", "gemm"), "nvfp4") is None
