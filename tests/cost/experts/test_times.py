from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.cost.efficiency import packaged_efficiency
from penstock.cost.experts.moe_csv import read_moe_csv
from penstock.cost.experts.times import ExpertShape, RooflineExperts
from penstock.cost.roofline import hardware_rates
from penstock.errors import UserError
from penstock.spec.hardware import find_hardware

QWEN3_30B = Path("Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1/moe.csv")


def write(path: Path, *rows: str) -> Path:
    file = path / "moe.csv"
    file.write_text("\n".join(("tokens,activated_experts,time_us", *rows)) + "\n")
    return file


def at(times: object, pairs: float, experts: float) -> float:
    return float(times.rank_us(np.array([pairs]), np.array([experts]))[0])  # type: ignore[attr-defined]


def test_a_grid_is_asked_by_pairs_and_linear_between_its_points(tmp_path: Path) -> None:
    grid = read_moe_csv(write(tmp_path, "1,4,20", "8,4,27", "8,8,47", "16,8,55"), experts_per_token=4)
    assert at(grid, 4, 4) == 20
    assert at(grid, 32, 4) == 27
    assert at(grid, 18, 4) == pytest.approx(20 + 7 * 3.5 / 7)
    assert at(grid, 32, 6) == pytest.approx((27 + 47) / 2)
    assert at(grid, 16, 8) == 47  # fewer tokens than were measured of so many experts
    assert at(grid, 128, 8) == pytest.approx(55 + 16)  # as the last two points go on
    assert at(grid, 32, 12) == pytest.approx(47 + 20)


def test_fewer_experts_than_measured_take_their_share_above_the_launches(tmp_path: Path) -> None:
    grid = read_moe_csv(write(tmp_path, "1,8,48", "8,8,48"), experts_per_token=8)
    assert at(grid, 4, 4) == pytest.approx(8 + 40 / 2)
    assert at(grid, 0, 0) == 8


def test_experts_split_over_ranks_take_their_share_above_the_launches(tmp_path: Path) -> None:
    grid = read_moe_csv(write(tmp_path, "1,8,48", "8,8,48"), 8, share=0.25)
    assert at(grid, 8, 8) == pytest.approx(8 + 40 / 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,8"], "moe.csv:2: not a measurement"),
        (["1,8,50", "1,x,50"], "moe.csv:3: not a measurement"),
        (["0,8,50"], "moe.csv:2: not sizes and a time"),
        (["1,8,nan"], "moe.csv:2: not sizes and a time"),
        ([], "moe.csv: holds no measurement"),
    ],
)
def test_a_broken_grid_is_refused_with_its_line(rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_moe_csv(write(tmp_path, *rows), 8)
    assert message in str(error.value)


def test_the_header_must_be_the_one_of_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "moe.csv"
    path.write_text("tokens,experts,us\n1,8,50\n")
    with pytest.raises(UserError, match="tokens,activated_experts,time_us"):
        read_moe_csv(path, 8)


def test_every_measured_point_of_a_profile_comes_back(shared_dir: Path) -> None:
    path = shared_dir / "data" / "llmservingsim" / "perf" / "RTXPRO6000" / QWEN3_30B
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    times = read_moe_csv(path, 8).rank_us(rows[:, 0] * 8, rows[:, 1])
    assert times == pytest.approx(rows[:, 2])


def test_the_roofline_of_experts_meets_a_profile_it_was_not_fitted_to(shared_dir: Path) -> None:
    path = shared_dir / "data" / "llmservingsim" / "perf" / "RTXPRO6000" / QWEN3_30B
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    chip = find_hardware("RTXPRO6000")
    assert chip is not None
    shape = ExpertShape(hidden=2048, width=768, weight_bytes=2, activation_bytes=2)
    experts = RooflineExperts(shape, hardware_rates(chip, "bfloat16"), packaged_efficiency())
    error = experts.rank_us(rows[:, 0] * 8, rows[:, 1]) / rows[:, 2] - 1
    assert abs(np.median(error)) < 0.15
    assert np.percentile(np.abs(error), 90) < 0.3


def test_decode_pays_for_experts_and_prefill_for_pairs() -> None:
    chip = find_hardware("H100")
    assert chip is not None
    shape = ExpertShape(hidden=7168, width=2048, weight_bytes=1, activation_bytes=2)
    experts = RooflineExperts(shape, hardware_rates(chip, "fp8"), packaged_efficiency())
    assert at(experts, 64, 32) < 0.7 * at(experts, 64, 64)
    assert at(experts, 128, 64) < 1.1 * at(experts, 64, 64)
    assert at(experts, 200_000, 64) > 1.7 * at(experts, 100_000, 64)
