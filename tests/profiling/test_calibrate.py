from __future__ import annotations

import numpy as np
import pytest

from penstock.cost.efficiency import (
    Efficiency,
    Rates,
    efficiency_from_json,
    gemm_roofline,
    packaged_efficiency,
)
from penstock.cost.kernels import Gemm
from penstock.profiling.calibrate import (
    MixedSample,
    Sample,
    calibrate,
    leave_one_out,
    missing_families,
    summary,
)

SIZES = {"gemm": ("balance", "size"), "stream": ("size",), "sampler": ("size",)}
ATTENTION = ("size", "parallel", "length")


def sample(family: str, hardware: str, slowness: float) -> Sample:
    random = np.random.default_rng(3)
    count = 60
    roof = 2.0 ** random.uniform(2, 9, count)
    terms = {"size": np.log2(roof), "balance": random.uniform(-6, 2, count)}
    terms |= {"parallel": random.uniform(8, 11, count), "length": random.uniform(5, 13, count)}
    wanted = SIZES.get(family, ATTENTION)
    return Sample(family, hardware, "m", roof * slowness, roof, {name: terms[name] for name in wanted})


def everything(hardware: str, slowness: float) -> tuple[list[Sample], MixedSample]:
    samples = [
        sample(family, hardware, slowness) for family in ("gemm", "stream", "sampler", "decode", "prefill")
    ]
    decode, prefill = samples[3], samples[4]
    some = np.full(60, 16.0)
    return samples, MixedSample(
        hardware, "m", decode.us + prefill.us, prefill, decode, some, some * 8, some * 4
    )


def test_a_constant_slowness_is_found_and_transferred() -> None:
    parts = [everything(name, 1.5) for name in ("a", "b")]
    samples = [one for own, _ in parts for one in own]
    mixes = [mix for _, mix in parts]
    efficiency = efficiency_from_json(calibrate(samples, mixes, "a test"))
    for one in samples:
        np.testing.assert_allclose(efficiency.factor(one.family, one.terms), 1.5, rtol=0.01)
    lines = leave_one_out(samples, mixes)
    assert {line.left_out for line in lines if line.kind == "hardware"} == {"a", "b"}
    assert max(line.p90 for line in lines if line.kind == "hardware") < 0.02
    assert summary(lines)["hardware"]["gemm"][0] < 0.02


def test_leaving_out_shows_a_chip_that_is_different() -> None:
    parts = [everything("a", 1.0), everything("b", 1.0), everything("slow", 2.0)]
    lines = leave_one_out([one for own, _ in parts for one in own], [mix for _, mix in parts])
    slow = [line for line in lines if line.left_out == "slow" and line.family == "gemm"]
    assert slow[0].p50 == pytest.approx(0.5, abs=0.02)
    assert slow[0].bias == pytest.approx(-0.5, abs=0.02)


def test_the_packaged_curves_state_their_transfer_error() -> None:
    efficiency: Efficiency = packaged_efficiency()
    assert set(efficiency.families) == {"gemm", "stream", "sampler", "decode", "prefill", "mixed"}
    assert efficiency.errors["hardware"]["gemm"][0] < 0.2
    roof, terms = gemm_roofline(Gemm(4096, 4096, 2, 2), np.array([1.0, 256.0, 8192.0]), Rates(1e9, 3e6))
    slowness = efficiency.factor("gemm", terms)
    assert ((roof * slowness)[1:] > (roof * slowness)[:-1]).all()
    assert (slowness > 0.7).all()
    assert (slowness < 4).all()


def test_what_was_not_measured_is_named() -> None:
    samples, _ = everything("a", 1.0)
    assert missing_families(samples) == []
    assert missing_families(samples[:1]) == ["stream", "sampler", "decode", "prefill"]
