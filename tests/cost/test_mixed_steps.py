"""A chunk beside decodes takes at least the longer of both and at most their sum, in fits measured apart."""

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
def test_a_packaged_fit_stays_between_the_longer_part_and_the_sum(path: Path) -> None:
    fit = json.loads(path.read_text(encoding="utf-8"))
    for degree in fit_degrees(fit):
        us = tables_from_fit(fit, degree).attention.us
        chunks, decodes = us[1:, :1, :, :1], us[:1, 1:, :1, :]
        assert np.all(us[1:, 1:] >= np.maximum(chunks, decodes) * (1 - 1e-9))
        assert np.all(us[1:, 1:] <= (chunks + decodes) * (1 + 1e-9))
