from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.cost.aiconfigurator.build import decode_ms, prompt_ms, write_wheel

from penstock.cost.aiconfigurator.attention import AttentionFiles, attention_grid, history_slope
from penstock.cost.aiconfigurator.systems import System
from penstock.cost.efficiency import Rates
from penstock.cost.kernels import AttentionShape
from penstock.cost.tables import AttentionGrid

SYSTEM = System("h100_sxm", 132, 128, 0.7)
RATES = Rates(1e9, 3.35e6)
SHAPE = AttentionShape(
    heads=32, kv_heads=8, head_dim=128, kv_bytes_per_token=4096, decode_width=256, prefill_width=256
)


@pytest.fixture
def files(tmp_path: Path) -> AttentionFiles:
    wheel = write_wheel(tmp_path)
    context, generation = (
        wheel.table("h100_sxm", "attention", "vllm", f"{name}_attention")
        for name in ("context", "generation")
    )
    return AttentionFiles(context, generation, "bfloat16")


def grid_of(files: AttentionFiles, shape: AttentionShape = SHAPE) -> AttentionGrid:
    grid = attention_grid(files, shape, SYSTEM, RATES)
    assert grid is not None
    assert np.isfinite(grid.us).all()
    return grid


def test_prompts_and_decodes_are_as_measured(files: AttentionFiles) -> None:
    grid = grid_of(files)
    i, j, k = (np.searchsorted(axis, 1024) for axis in (grid.chunks, grid.decodes, grid.decode_contexts))
    assert grid.us[i, 0, 0, 0] == pytest.approx(1000 * prompt_ms(1024))
    j, k = int(np.searchsorted(grid.decodes, 16)), int(np.searchsorted(grid.decode_contexts, 1023))
    assert grid.us[0, j, 0, k] == pytest.approx(1000 * decode_ms(16, 1023, 8))


def test_what_was_not_measured_of_decodes_follows_their_core(files: AttentionFiles) -> None:
    grid = grid_of(files)
    assert grid.us[0, -1, 0, -1] == pytest.approx(1000 * decode_ms(256, 8191, 8), rel=0.02)


def test_history_costs_a_wave_of_tiles_as_long_as_it_is(files: AttentionFiles) -> None:
    lengths = np.array([64.0, 528.0, 529.0, 1056.0])
    slope = history_slope(lengths, np.array([0.0, 0.0, 0.0, 1056.0**2 / 2e3]), SHAPE, SYSTEM)
    wave = 132 * 128 / 32
    assert slope == pytest.approx(1e-3 * wave * np.array([1, 1, 2, 2]))
    grid = grid_of(files)
    rising = np.diff(grid.us[1:, 0, :, 0], axis=1)
    assert (rising > 0).all()


def test_chunks_beside_decodes_are_the_sum_of_both_less_a_launch(files: AttentionFiles) -> None:
    grid = grid_of(files)
    apart = grid.us[1:, :1] + grid.us[:1, 1:, :1]
    np.testing.assert_allclose(grid.us[1:, 1:], apart - grid.us[0, 1:].min())


def test_heads_between_those_measured_lie_between(files: AttentionFiles) -> None:
    few, some, many = (grid_of(files, replace(SHAPE, heads=heads)).us[5, 0, 0, 0] for heads in (16, 24, 32))
    assert few < some < many


def test_kv_heads_or_widths_that_were_not_measured_are_none(files: AttentionFiles) -> None:
    for change in ({"head_dim": 80}, {"kv_heads": 4}, {"heads": 64}):
        assert attention_grid(files, replace(SHAPE, **change), SYSTEM, RATES) is None
