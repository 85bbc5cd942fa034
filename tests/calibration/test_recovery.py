"""Benchmarks that Penstock made itself, without a log: fitting by simulation gives their overheads back.

One benchmark here, all twenty with ``make fuzz``.
"""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import settings

from calibration.self_made import kernel_truth, make
from penstock.calibration.fit import Question, calibrate

LLAMA = {"model_name": "meta-llama/Llama-3.1-8B"}
SEEDS = range(20) if settings.default is not None and settings.default.max_examples > 1000 else range(1)


def test_overheads_come_back_within_their_intervals(tmp_path: Path):
    """95% intervals: over all benchmarks and parameters nine in ten must hold the truth, and none may be off by
    more than twice its own width."""
    inside = total = 0
    for seed in SEEDS:
        truth = kernel_truth(random.Random(seed))
        made = make(tmp_path / str(seed), seed, truth, hardware="RTXPRO6000", **LLAMA)
        fit = calibrate(Question(cluster=str(made.cluster), benches=(str(made.bench),)))
        for one in fit.estimates:
            if one.name == "host_to_stage_ns":
                continue
            total += 1
            inside += one.low <= truth[one.name] <= one.high
            width = max(one.high - one.low, 0.02 * one.high)
            assert one.low - width <= truth[one.name] <= one.high + width, (seed, one, truth[one.name])
    assert inside >= 0.9 * total - 1
