"""Benchmarks that Penstock made itself, without a log: the fit gives their overheads back, twenty times."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from calibration.self_made import kernel_truth, make
from penstock.calibration.fit import SIMULATION, TOKENS, Question, calibrate
from penstock.calibration.parameters import Estimate

MODEL = "meta-llama/Llama-3.1-8B"


def within_twice_its_width(estimate: Estimate, truth: float) -> bool:
    """Whether the truth is in the interval, or beside it by no more than its width."""
    width = max(estimate.high - estimate.low, 0.02 * estimate.high)
    return estimate.low - width <= truth <= estimate.high + width


def test_overheads_come_back_within_their_intervals(tmp_path: Path):
    """95% intervals: over all benchmarks and parameters nine in ten must hold the truth, and none may be off by
    more than twice its own width."""
    inside = total = 0
    for seed in range(20):
        truth = kernel_truth(random.Random(seed))
        made = make(tmp_path / str(seed), seed, truth, hardware="RTXPRO6000", model_name=MODEL)
        fit = calibrate(Question(cluster=str(made.cluster), benches=(str(made.bench),)))
        assert fit.method == TOKENS
        for one in fit.estimates:
            if one.name == "host_to_stage_ns":
                continue
            total += 1
            inside += one.low <= truth[one.name] <= one.high
            assert within_twice_its_width(one, truth[one.name]), (seed, one, truth[one.name])
    assert inside >= 0.9 * total


@pytest.mark.parametrize("seed", [0, 1])
def test_two_stages_are_fitted_by_simulation(tmp_path: Path, seed: int):
    truth = {**kernel_truth(random.Random(seed)), "host_to_stage_ns": 0.3e6}
    made = make(tmp_path, seed, truth, hardware="RTXPRO6000", pp_size=2, model_name=MODEL)
    fit = calibrate(Question(cluster=str(made.cluster), benches=(str(made.bench),)))
    assert fit.method == SIMULATION
    found = fit.values()
    assert found["decode_factor"] == pytest.approx(truth["decode_factor"], rel=0.08)
    # A step with a chunk takes longer by a factor or by a constant: only the lengths of prompts tell which.
    for one in fit.estimates:
        assert within_twice_its_width(one, truth[one.name]), (one, truth[one.name])
    assert abs(next(row.error or 0.0 for row in fit.held_out[0] if row.name == "tpot_p50")) < 0.10


def test_without_single_gaps_ttft_and_tpot_are_fitted_to(tmp_path: Path):
    """Messages of several tokens: a gap between them is no ITL, measured or simulated."""
    truth = {**kernel_truth(random.Random(0)), "decode_factor": 1.1}
    made = make(tmp_path, 0, truth, hardware="RTXPRO6000", model_name=MODEL)
    result = json.loads(made.bench.read_text(encoding="utf-8"))
    result["itls"] = [gaps[1:] for gaps in result["itls"]]
    made.bench.write_text(json.dumps(result), encoding="utf-8")
    fit = calibrate(Question(cluster=str(made.cluster), benches=(str(made.bench),)))
    assert fit.method == SIMULATION
    assert fit.values()["decode_factor"] == pytest.approx(truth["decode_factor"], rel=0.05)
    assert abs(next(row.error or 0.0 for row in fit.held_out[0] if row.name == "tpot_p50")) < 0.05
