from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.cost.aiconfigurator.build import TOKENS, gemm_ms, write_wheel

from penstock.cost.aiconfigurator.gemm import GemmTable, Kin, read_gemms
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


def disturbed(table: GemmTable, factor: float) -> GemmTable:
    """The table with one time longer by ``factor``: 64 tokens through 4096 x 4096."""
    us = table.us.copy()
    us[list(table.rows).index(64), list(table.outer).index(4096), list(table.inner).index(4096)] *= factor
    return replace(table, us=us)


def at_64(table: GemmTable, kin: Kin) -> float:
    return float(table.curve(Gemm(4096, 4096, 2, 2), RATES, kin).at(64)) / (1000 * gemm_ms(64, 4096, 4096))


def test_a_disturbed_time_gives_way_to_the_slowest_of_like_chips(table: GemmTable) -> None:
    kin = [(table, RATES), (disturbed(table, 1.2), RATES)]
    assert at_64(disturbed(table, 4.0), kin) == pytest.approx(1.2)
    assert at_64(disturbed(table, 1.5), kin) == pytest.approx(
        1.5
    )  # within 1.5 of the slowest: a difference of chips


def test_one_like_chip_proves_nothing(table: GemmTable) -> None:
    assert at_64(disturbed(table, 4.0), [(table, RATES)]) == pytest.approx(4.0)
    elsewhere = replace(table, outer=table.outer + 1)
    assert at_64(disturbed(table, 4.0), [(table, RATES), (elsewhere, RATES)]) == pytest.approx(4.0)


def test_like_chips_are_compared_by_their_own_roofline(table: GemmTable) -> None:
    half, half_rates = replace(table, us=2 * table.us), Rates(0.5e9, 3.35e6 / 2)
    cut = at_64(disturbed(table, 4.0), [(half, half_rates)] * 2)
    assert cut == pytest.approx(1.0, rel=0.15)  # the launch within a roofline does not grow with the rates
