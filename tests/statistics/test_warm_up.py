"""MSER-5: what is cut from series of known shape, and when it says that it cannot tell."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.statistics.warm_up import BATCH, mser5


def plain_mser5(series: np.ndarray) -> int:
    """The rule as it is defined, tail by tail."""
    count = len(series) // BATCH
    means = [float(np.mean(series[BATCH * k : BATCH * (k + 1)])) for k in range(count)]
    errors = []
    for cut in range(count // 2 + 1):
        tail = np.array(means[cut:])
        errors.append(float(((tail - tail.mean()) ** 2).sum()) / len(tail) ** 2)
    return BATCH * int(np.argmin(errors))


def test_a_ramp_is_cut_and_what_follows_it_stays() -> None:
    generator = np.random.default_rng(0)
    series = np.concatenate([np.linspace(0, 50, 200), np.full(800, 50.0)]) + generator.normal(0, 1, 1000)
    found = mser5(series)
    assert found.settled
    assert 170 <= found.length <= 250


def test_noise_alone_loses_next_to_nothing() -> None:
    cut = [mser5(np.random.default_rng(seed).normal(size=1000)).length for seed in range(50)]
    assert np.mean(cut) < 100


def test_a_series_that_rises_to_its_end_is_not_settled() -> None:
    assert not mser5(np.arange(1000.0)).settled


def test_a_start_above_the_rest_is_chance() -> None:
    series = np.concatenate([np.full(100, 9.0), np.full(900, 1.0)])
    assert mser5(series).length == 0


def test_a_few_values_are_too_few_to_tell() -> None:
    assert not mser5([1.0, 2.0, 3.0]).settled


@given(arrays(np.int64, st.integers(20, 200), elements=st.integers(0, 1000)))
def test_it_is_the_rule_as_defined_or_nothing(values: np.ndarray) -> None:
    series = values.astype(np.float64)
    found, plain = mser5(series).length, plain_mser5(series)
    count = len(series) // BATCH
    means = series[: count * BATCH].reshape(count, BATCH).mean(axis=1)
    cut = plain // BATCH
    from_above = cut and means[:cut].mean() >= means[cut:].mean()
    # Tails whose errors are equal but for rounding may be told apart either way.
    tail_found, tail_plain = means[found // BATCH :], means[cut:]
    same = np.isclose(
        tail_found.var() / len(tail_found), tail_plain.var() / len(tail_plain), rtol=1e-9, atol=1e-12
    )
    assert found == plain or from_above or same
