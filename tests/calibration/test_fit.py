from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from calibration.self_made import SelfMade, fitted_truth, kernel_truth, make
from penstock.calibration.comparison import Row, compare
from penstock.calibration.fit import Fit, Question, calibrate
from penstock.errors import UserError

LLAMA = {"model_name": "meta-llama/Llama-3.1-8B"}


def fit_of(made: SelfMade, *, log: bool = False, cost: str = "auto") -> Fit:
    logs = (str(made.log),) if log else ()
    return calibrate(Question(cluster=str(made.cluster), benches=(str(made.bench),), logs=logs, cost=cost))


def misses(fit: Fit, truth: dict[str, float]) -> list[str]:
    """Parameters whose truth is outside their interval."""
    return [one.name for one in fit.estimates if not one.low <= truth[one.name] <= one.high]


def test_steps_of_a_log_give_the_fitted_terms_back(tmp_path: Path):
    """Without noise the line through the steps is exact, but for the log's two decimals."""
    truth = fitted_truth(random.Random(3))
    fit = fit_of(make(tmp_path, 3, truth, noise=0.0), log=True)
    assert fit.method == "steps"
    assert fit.cost == "fitted"
    found = fit.values()
    for name in ("host_step_ns", "base_ns", "prefill_token_ns", "decode_context_ns"):
        assert found[name] == pytest.approx(truth[name], rel=0.03), name
    assert found["request_ns"] == pytest.approx(truth["request_ns"], abs=1e6)


@pytest.mark.parametrize("seed", range(4))
def test_steps_of_a_log_give_kernel_factors_back(tmp_path: Path, seed: int):
    truth = kernel_truth(random.Random(seed))
    made = make(tmp_path, seed, truth, hardware="RTXPRO6000", **LLAMA)
    fit = fit_of(made, log=True)
    assert fit.cost == "kernels"
    assert len(misses(fit, truth)) <= 1
    found = fit.values()
    assert found["decode_factor"] == pytest.approx(truth["decode_factor"], rel=0.05)
    assert found["prefill_factor"] == pytest.approx(truth["prefill_factor"], rel=0.08)


def test_what_a_file_cannot_tell_keeps_its_prior(tmp_path: Path):
    """At pp 1 the way to the first stage is part of every step, and no client can tell it from the rest."""
    fit = fit_of(make(tmp_path, 5, fitted_truth(random.Random(5)), count=24), log=True)
    way = next(one for one in fit.estimates if one.name == "host_to_stage_ns")
    assert not way.identified
    assert way.value == way.prior


def test_the_second_half_is_held_out(tmp_path: Path):
    made = make(tmp_path, 6, fitted_truth(random.Random(6)), noise=0.0)
    fit = fit_of(made, log=True)
    rows = {row.name: row for row in fit.held_out[0]}
    assert {f"{metric}_p50" for metric in ("ttft", "tpot", "itl", "e2el")} | {"throughput"} <= set(rows)
    assert abs(error(rows["tpot_p50"])) < 0.03
    second = ~fit.measured[0].benchmark.first_half()
    assert rows["ttft_mean"].measured == pytest.approx(fit.measured[0].benchmark.ttft_s[second].mean())


def error(row: Row) -> float:
    assert row.error is not None
    return row.error


def test_too_few_requests_and_unpaired_logs_are_said_together(tmp_path: Path):
    made = make(tmp_path, 7, fitted_truth(random.Random(7)), count=2)
    question = Question(
        cluster=str(made.cluster), benches=(str(made.bench),), logs=(str(made.log), str(made.log))
    )
    with pytest.raises(UserError) as caught:
        calibrate(question)
    text = str(caught.value)
    assert "2 logs for 1 benchmarks: give one each" in text
    assert "2 requests are too few to fit to: at least 20" in text


def test_kernels_that_nobody_knows(tmp_path: Path):
    made = make(tmp_path, 8, fitted_truth(random.Random(8)), count=24)
    with pytest.raises(UserError, match="no kernel times for 'THATCPU': leave --cost out"):
        fit_of(made, cost="kernels")


@pytest.mark.parametrize("name", ["pp1_sync_moderate", "pp1_async_moderate"])
def test_a_real_run_predicts_its_second_half(shared_dir: Path, name: str):
    run = shared_dir / "oracle" / "bench-cpu" / name
    question = Question(
        cluster=str(run / "cluster.json"),
        benches=(str(run / "bench.json"),),
        logs=(str(run / "server.log.gz"),),
    )
    fit = calibrate(question)
    rows = {row.name: error(row) for row in fit.held_out[0]}
    for metric in ("ttft_p50", "tpot_p50", "e2el_p50"):
        assert abs(rows[metric]) < 0.10, metric
    assert abs(rows["throughput"]) < 0.05
    own = {row.name: error(row) for row in compare(fit.measured[0].benchmark, fit.simulated[0])}
    assert abs(own["tpot_p50"]) < 0.06
    assert json.loads((run / "meta.json").read_text())["run"] == name
