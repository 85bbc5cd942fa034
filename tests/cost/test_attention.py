from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cost.build import make_tables

from penstock.cost.attention import AttentionLookup, attention_lookup
from penstock.cost.tables import SkewTable, interpolate

GRID = make_tables().attention
RANDOM = np.random.default_rng(1)


def linear_ns(chunk: float, history: float, decodes: float, context: float) -> float:
    return 1000 * (2 + 0.5 * chunk + 0.25 * decodes + 0.125 * history + 0.0625 * context)


@given(st.integers(2, 400), st.integers(0, 3000), st.integers(1, 200), st.integers(16, 9000))
def test_a_linear_grid_is_linear_inside_and_beyond(
    chunk: int, history: int, decodes: int, context: int
) -> None:
    lookup = AttentionLookup(GRID, None)
    mixed = lookup.mixed_ns(chunk, history, decodes, decodes * context, context, context)
    assert mixed == pytest.approx(linear_ns(chunk, history, decodes, context))
    alone = lookup.decode_ns(decodes, decodes * context, context, context)
    assert alone == pytest.approx(linear_ns(0, 0, decodes, context))


def test_it_is_multilinear_on_a_rough_grid() -> None:
    us = RANDOM.uniform(1, 100, GRID.us.shape)
    rough = type(GRID)(GRID.chunks, GRID.decodes, GRID.prefill_contexts, GRID.decode_contexts, us)
    lookup = AttentionLookup(rough, None)
    for chunk, history, decodes, context in ((40, 100, 5, 300), (100, 900, 40, 30), (17, 2, 2, 4000)):
        values = us
        for size, axis in zip(
            (chunk, decodes, history, context),
            (GRID.chunks, GRID.decodes, GRID.prefill_contexts, GRID.decode_contexts),
            strict=True,
        ):
            values = interpolate(np.array([float(size)]), axis, values)[0]
        found = lookup.mixed_ns(chunk, history, decodes, decodes * context, context, context)
        assert found == pytest.approx(float(values) * 1000)


def test_contexts_below_the_grid_take_its_first_point() -> None:
    lookup = AttentionLookup(GRID, None)
    assert lookup.decode_ns(1, 3, 3, 3) == pytest.approx(linear_ns(0, 0, 1, 16))


def test_unequal_contexts_move_towards_the_longest_by_alpha() -> None:
    alpha = np.zeros((2, 2, 3, 2, 2))
    alpha[0, 1, 0, 1, 0] = 0.5  # decodes alone, more than 2, rate up to 0.1, longest over 1000
    alpha[1, 1, 2, 1, 1] = -2.0  # chunk, rate over 0.5, some history
    skew = SkewTable(
        np.array([0.0, 100.0]),
        np.array([2.0]),
        np.array([0.1, 0.5]),
        np.array([1000.0]),
        np.array([0.0]),
        alpha,
    )
    lookup = AttentionLookup(GRID, skew)
    mean, longest = linear_ns(0, 0, 4, 575), linear_ns(0, 0, 4, 2000)
    assert lookup.decode_ns(4, 2300, 500, 2000) == pytest.approx(mean + 0.5 * (longest - mean))
    assert lookup.decode_ns(4, 7400, 500, 2000) == pytest.approx(linear_ns(0, 0, 4, 1850))
    mean, longest = linear_ns(90, 5, 4, 1850), linear_ns(90, 5, 4, 2000)
    found = lookup.mixed_ns(90, 5, 4, 7400, 500, 2000)
    assert found == pytest.approx(mean - 2.0 * (longest - mean))
    assert lookup.mixed_ns(90, 0, 4, 7400, 500, 2000) == pytest.approx(linear_ns(90, 0, 4, 1850))


def test_lookups_outside_are_counted_with_the_furthest() -> None:
    lookup = AttentionLookup(GRID, None)
    lookup.decode_ns(4, 4 * 4096, 4096, 4096)
    assert not lookup.outside
    lookup.decode_ns(4, 4 * 5000, 4096, 6000)
    lookup.mixed_ns(200, 0, 70, 70 * 100, 100, 7000)
    assert lookup.outside == {
        "decode context": [2, 7000, 4096],
        "new prefill tokens": [1, 200, 128],
        "decodes": [1, 70, 64],
    }


def test_equal_grids_share_tables_but_not_counters() -> None:
    first, second = attention_lookup(make_tables()), attention_lookup(make_tables())
    first.decode_ns(300, 300 * 20_000, 20_000, 20_000)
    assert first.outside
    assert not second.outside
    assert first.as_arrays()["intercepts"] is second.as_arrays()["intercepts"]
    # Rows that one has asked for are there for the other.
    assert second.as_arrays()["rows"] == first.as_arrays()["rows"] > 300


def test_grids_that_differ_in_one_time_are_told_apart() -> None:
    tables = make_tables()
    us = tables.attention.us.copy()
    us[0, 1, 0, 0] *= 2
    other = replace(tables, attention=replace(tables.attention, us=us))
    load = (1, 16, 16, 16)
    assert attention_lookup(other).decode_ns(*load) == 2 * attention_lookup(tables).decode_ns(*load)
