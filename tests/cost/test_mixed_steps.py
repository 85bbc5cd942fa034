"""A chunk beside decodes takes at most what both take one after the other, in every fit that was measured apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import penstock.data
from penstock.cost.fitted import fit_degrees, tables_from_fit

FITS = sorted((Path(penstock.data.__path__[0]) / "fits").glob("*.json"))
APART = [path for path in FITS if "AIConfigurator" in json.loads(path.read_text(encoding="utf-8"))["source"]]
"""Fits whose chunks and decodes were measured apart; the others hold what their kernels took for both, which on cards
with FlashAttention 2 is more than the sum."""


def test_there_are_such_fits() -> None:
    assert APART


@pytest.mark.parametrize("path", APART, ids=lambda path: path.stem)
def test_a_packaged_fit_stays_below_the_sum(path: Path) -> None:
    fit = json.loads(path.read_text(encoding="utf-8"))
    for degree in fit_degrees(fit):
        us = tables_from_fit(fit, degree).attention.us
        apart = us[1:, :1, :, :1] + us[:1, 1:, :1, :]
        assert np.all(us[1:, 1:] <= apart * (1 + 1e-9))
        assert np.all(us[1:, 1:] > 0)
