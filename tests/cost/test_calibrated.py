from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cost.calibrated import FittedStageCost, NoisyStageCost, ScaledStageCost, calibrated_stage
from penstock.cost.linear import LinearStage, LinearStageCost
from penstock.cost.step_cost import StepShape
from penstock.spec.cluster import Calibration, StepNoise, StepTerms

TERMS = StepTerms(
    base_ns=5e6,
    prefill_base_ns=1e6,
    prefill_token_ns=2e5,
    prefill_context_ns=100.0,
    decode_ns=1e5,
    decode_context_ns=2000.0,
)
CALIBRATION = Calibration(
    name="calibration.json",
    source="bench.json",
    date="",
    error="",
    hardware="H100",
    model="tiny/model",
    model_shape="",
    dtype="bfloat16",
    tp_size=1,
    host_step_ns=0,
    host_to_stage_ns=0,
    request_ns=0,
    prefill_step_ns=0,
    prefill_factor=1.0,
    decode_factor=1.0,
    step=None,
    noise=None,
)
INNER = LinearStageCost((LinearStage(1e6, 1e4, 10.0), LinearStage(2e6, 2e4, 20.0)))
counts = st.integers(0, 500)


def load(prefill: int, context: int, decodes: int, decode_context: int) -> StepShape:
    return StepShape(prefill, context, decodes, decode_context, 0, 0, decodes)


def test_a_step_is_the_sum_of_its_terms_over_layers():
    cost = FittedStageCost(TERMS, layers=(8, 4))
    whole = 5e6 + 1e6 + 100 * (2e5 + 100.0 * (300 + 50)) + 3 * 1e5 + 900 * 2000.0
    assert cost.stage_ns(load(100, 300, 3, 900)) == [round(whole * 2 / 3), round(whole / 3)]


@given(decodes=st.integers(1, 300), context=st.integers(0, 100_000), turns=st.integers(1, 40))
def test_a_stretch_of_decodes_is_its_steps(decodes: int, context: int, turns: int):
    """To the nanosecond: the engine takes either way."""
    scaled = ScaledStageCost(
        FittedStageCost(TERMS, (7, 5)), replace(CALIBRATION, decode_factor=1.037), layers=(7, 5)
    )
    for cost in (FittedStageCost(TERMS, (7, 5)), scaled):
        together = cost.decode_turns_ns(decodes, context, 0, 0, turns)
        assert together is not None
        steps = [cost.stage_ns(load(0, 0, decodes, context + decodes * turn)) for turn in range(turns)]
        assert np.array_equal(together.T, steps)


@given(prefill=counts, context=counts, decodes=counts, decode_context=counts)
def test_factors_of_one_change_nothing(prefill: int, context: int, decodes: int, decode_context: int):
    step = load(prefill, context, decodes, decode_context)
    assert list(ScaledStageCost(INNER, CALIBRATION, (1, 1)).stage_ns(step)) == list(INNER.stage_ns(step))


def test_factors_and_the_hosts_own_time_apart():
    """100 prefill tokens beside 2 decodes: the decodes' kernels times 2, the rest times 3, 6 ms over the layers."""
    calibration = replace(CALIBRATION, decode_factor=2.0, prefill_factor=3.0, prefill_step_ns=6_000_000)
    cost = ScaledStageCost(INNER, calibration, layers=(2, 1))
    whole, part = INNER.stage_ns(load(100, 0, 2, 50)), INNER.stage_ns(load(0, 0, 2, 50))
    expected = [
        2 * own + 3 * (time - own) + extra
        for time, own, extra in zip(whole, part, (4_000_000, 2_000_000), strict=True)
    ]
    assert cost.stage_ns(load(100, 0, 2, 50)) == expected
    assert cost.stage_ns(load(0, 0, 2, 50)) == [2 * own for own in part]


def test_noise_has_mean_one_and_its_correlation():
    noise = StepNoise(sigma=0.2, correlation=0.6)
    cost = NoisyStageCost(INNER, noise)
    plain = INNER.stage_ns(load(0, 0, 1, 0))[0]
    factors = np.array([cost.stage_ns(load(0, 0, 1, 0))[0] for _ in range(20_000)]) / plain
    logs = np.log(factors)
    assert factors.mean() == pytest.approx(1.0, abs=0.02)
    assert logs.std() == pytest.approx(0.2, abs=0.01)
    assert np.corrcoef(logs[1:], logs[:-1])[0, 1] == pytest.approx(0.6, abs=0.03)


def test_noise_is_the_same_again_and_another_for_a_replica():
    noise = StepNoise(sigma=0.2, correlation=0.5)
    step = load(0, 0, 4, 100)
    first, again = NoisyStageCost(INNER, noise), NoisyStageCost(INNER, noise)
    replica = copy(first)
    drawn = [first.stage_ns(step) for _ in range(5)]
    assert drawn == [again.stage_ns(step) for _ in range(5)]
    assert drawn != [replica.stage_ns(step) for _ in range(5)]


def test_a_fitted_step_needs_no_kernels():
    cost = calibrated_stage(None, replace(CALIBRATION, step=TERMS), (12,))
    assert cost.stage_ns(load(0, 0, 1, 0)) == [5_100_000]
    assert not hasattr(NoisyStageCost(cost, StepNoise(sigma=0.1, correlation=0.0)), "decode_turns_ns")
