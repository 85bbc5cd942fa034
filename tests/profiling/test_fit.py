from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cost.build import TINY, write_bundle

from penstock.cost.fitted import attention_from_fit, read_fit, tables_from_fit
from penstock.cost.tables import Curve
from penstock.errors import UserError
from penstock.profiling.attention_fit import fit_attention, nonnegative_least_squares, predict, regimes
from penstock.profiling.calibration_run import named_model
from penstock.profiling.fit import fit_bundle, fit_report, write_fit
from penstock.profiling.segments import fit_segments


def test_pieces_follow_the_steps_of_tiles() -> None:
    sizes = np.arange(1.0, 513.0)
    us = 10.0 * np.ceil(sizes / 128)
    fitted = fit_segments(Curve(sizes, us), max_pieces=8, tolerance=0.001)
    assert len(fitted.sizes) == 8
    np.testing.assert_allclose(fitted.at(sizes), us)


def test_a_straight_line_is_one_piece() -> None:
    sizes = np.array([1.0, 2.0, 64.0, 500.0])
    fitted = fit_segments(Curve(sizes, 3 + 0.5 * sizes), max_pieces=8, tolerance=0.01)
    assert fitted.sizes.tolist() == [1.0, 500.0]


def test_no_more_pieces_than_allowed() -> None:
    sizes = np.arange(1.0, 65.0)
    noisy = 10 + np.random.default_rng(1).uniform(0, 10, 64)
    assert len(fit_segments(Curve(sizes, noisy), max_pieces=5, tolerance=1e-9).sizes) <= 10


def test_coefficients_are_never_negative() -> None:
    random = np.random.default_rng(2)
    design = random.uniform(0, 1, (50, 4))
    assert nonnegative_least_squares(design, design @ np.array([1.0, -2.0, 0.5, 3.0])).min() >= 0
    exact = nonnegative_least_squares(design, design @ np.array([1.0, 0.0, 0.5, 3.0]))
    np.testing.assert_allclose(exact, [1.0, 0.0, 0.5, 3.0], atol=1e-6)


def measured_points() -> np.ndarray:
    """A kernel with launch, a rate that saturates with the batch, and chunks that overlap decodes."""
    rows: list[tuple[float, ...]] = []
    for chunk in (0, 16, 64, 256, 1024):
        for decodes in (0, 1, 4, 16, 64):
            for history in (0, 64, 512, 4096) if chunk else (0,):
                for context in (16, 128, 1024, 8192) if decodes else (0,):
                    if chunk or decodes:
                        read = 0.003 * decodes * context * (1 + 2 / (1 + decodes))
                        work = 0.0002 * chunk * (history + chunk / 2)
                        rows.append(
                            (chunk, history, decodes, context, 5 + max(read, work) + 0.3 * min(read, work))
                        )
    return np.array(rows)


def test_attention_is_met_closely_and_evaluated_alike() -> None:
    rows = measured_points()
    fit = fit_attention(rows)
    grid = attention_from_fit(fit)
    for name, mask in regimes(rows).items():
        own = rows[mask]
        error = np.abs(predict(fit[name], own) / own[:, 4] - 1)
        assert np.percentile(error, 50) < 0.05
        for chunk, history, decodes, context, _ in own:
            i = np.searchsorted(grid.chunks, chunk), np.searchsorted(grid.decodes, decodes)
            j = np.searchsorted(grid.prefill_contexts, history)
            k = np.searchsorted(grid.decode_contexts, context)
            expected = predict(fit[name], np.array([[chunk, history, decodes, context or 1.0]]))[0]
            assert grid.us[(*i, j, min(k, len(grid.decode_contexts) - 1))] == pytest.approx(
                expected, rel=1e-6
            )


def test_a_bundle_is_fitted_written_and_read_back(tmp_path: Path) -> None:
    directory = write_bundle(tmp_path)
    result = fit_bundle(directory, hardware="H100", model=TINY, variant="bf16", source="a test")
    path = tmp_path / "fit.json"
    write_fit(result, path)
    again = tmp_path / "again.json"
    write_fit(fit_bundle(directory, hardware="H100", model=TINY, variant="bf16", source="a test"), again)
    assert path.read_bytes() == again.read_bytes()
    fit = read_fit(path)
    assert json.loads(path.read_text(encoding="utf-8"))["source"] == "a test"
    tables = tables_from_fit(fit, 1)
    assert tables.dense["o_proj"].at(100) == pytest.approx(5.0, rel=0.02)
    assert f"{result.coefficients} coefficients" in fit_report(result)


def test_no_bundle_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no profile bundle"):
        fit_bundle(tmp_path, hardware="H100", model=TINY, variant="bf16", source="")


def test_the_packaged_fit_is_within_its_bounds_of_the_measurement(shared_dir: Path) -> None:
    from penstock.cost.fitted import PACKAGED_FITS

    root = shared_dir / "data" / "llmservingsim" / "perf" / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16"
    result = fit_bundle(
        root, hardware="RTX4090", model=named_model("meta-llama/Llama-3.1-8B"), variant="bf16", source=""
    )
    for line in result.errors:
        assert line.p50 < 0.03, line
        assert line.p90 < 0.08, line
    packaged = tables_from_fit(read_fit(PACKAGED_FITS / "RTX4090--meta-llama--Llama-3.1-8B--bf16.json"), 1)
    again = tables_from_fit(result.data, 1)
    np.testing.assert_allclose(packaged.attention.us, again.attention.us, rtol=0.05)
    np.testing.assert_allclose(
        packaged.block_us(np.arange(1, 2049)), again.block_us(np.arange(1, 2049)), rtol=0.01
    )
