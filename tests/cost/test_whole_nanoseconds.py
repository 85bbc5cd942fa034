"""LLMServingSim's way of reading a profile, on tables where each rule shows."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from tests.cost.build import make_tables

from penstock.cost.attention import AttentionLookup, attention_lookup
from penstock.cost.tables import AttentionGrid, Curve, SkewTable
from penstock.cost.whole_nanoseconds import in_whole_nanoseconds

NONE = np.zeros(0)


def grid(at_16: float, at_32: float) -> AttentionGrid:
    """One decode or more at two contexts; chunks of 16 take as much."""
    us = np.zeros((2, 3, 1, 2))
    us[..., 0], us[..., 1] = at_16, at_32
    axes = (np.array([0.0, 16.0]), np.array([0.0, 1.0, 2.0]), np.zeros(1), np.array([16.0, 32.0]))
    return AttentionGrid(*axes, us)


def lookup(at_16: float, at_32: float, alpha: float = 0.5, default: float = 0.25) -> AttentionLookup:
    skew = SkewTable(np.array([0.0, 16.0]), NONE, NONE, NONE, NONE, np.full((2, 1, 1, 1, 1), alpha), default)
    tables = replace(make_tables(), attention=grid(at_16, at_32), skew=skew)
    return attention_lookup(in_whole_nanoseconds(tables))


def test_points_are_rounded_and_what_lies_between_is_cut_off() -> None:
    attention = lookup(8.35233, 8.45867)
    assert attention.decode_ns(1, 16, 16, 16) == 8352
    assert attention.decode_ns(1, 17, 17, 17) == 8358  # 8352 + 107 / 16
    assert attention.decode_ns(1, 32, 32, 32) == 8459
    curve = in_whole_nanoseconds(
        replace(make_tables(), dense={"o_proj": Curve(np.array([1.0, 4.0]), np.array([1.0006, 1.0055]))})
    ).dense["o_proj"]
    assert curve.at([1, 2, 4]) * 1000 == pytest.approx([1001, 1002, 1006])


def test_decodes_count_with_whole_tokens_and_skew_only_upwards() -> None:
    attention = lookup(10.0, 26.0)  # 1 us a token
    assert attention.decode_ns(2, 41, 20, 21) == round(14_000 + 0.5 * 1000)
    falling = lookup(26.0, 10.0)
    assert falling.decode_ns(2, 41, 20, 21) == 22_000


def test_beside_a_chunk_that_was_not_profiled_the_default_holds() -> None:
    attention = lookup(10.0, 26.0)
    assert attention.mixed_ns(16, 0, 2, 40, 18, 22) == 14_000 + 0.5 * 2000
    assert attention.mixed_ns(12, 0, 2, 40, 18, 22) == 14_000 + 0.25 * 2000
    assert attention.mixed_ns(12, 0, 0, 0, 0, 0) == 10_000


def test_a_copy_counts_for_itself() -> None:
    attention = lookup(10.0, 26.0)
    attention.decode_ns(1, 64, 64, 64)
    assert attention.outside["decode context"][0] == 1
    twin = copy(attention)
    assert not twin.outside
    assert twin.decode_ns(2, 41, 20, 21) == attention.decode_ns(2, 41, 20, 21)
