"""Percentiles of sorted values are numpy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.statistics.percentiles import percentile_of_sorted

VALUES = st.lists(
    st.one_of(st.floats(0, 1e18), st.integers(0, 10**15).map(float)), min_size=1, max_size=300
).map(lambda values: np.sort(np.array(values)))
PERCENTS = st.sampled_from([50.0, 90.0, 95.0, 99.0]) | st.floats(0, 100)


@given(VALUES, PERCENTS)
def test_it_is_numpys_to_the_bit(values: np.ndarray, percent: float) -> None:
    assert percentile_of_sorted(values, percent) == float(np.percentile(values, percent))


@given(VALUES, PERCENTS, st.integers(1, 20))
def test_beside_infinite_values_the_higher_neighbour_is_taken(
    values: np.ndarray, percent: float, infinite: int
) -> None:
    values = np.append(values, np.full(infinite, np.inf))
    assert percentile_of_sorted(values, percent, upper=True) == float(
        np.percentile(values, percent, method="higher")
    )
