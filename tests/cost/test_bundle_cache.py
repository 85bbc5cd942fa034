"""Tables from the cache are those that the files give, and follow the files."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from penstock.cost import bundle_cache
from penstock.cost.bundle import BundleAddress, read_bundle
from penstock.cost.bundle_cache import cached_bundle


def same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other


def test_a_second_reading_gives_the_same(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "kept"))
    source = shared_dir / "data/llmservingsim/perf/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16"
    folder = tmp_path / "bf16"
    for tp_size in (1, 2):
        (folder / f"tp{tp_size}").mkdir(parents=True)
        for path in (source / f"tp{tp_size}").glob("*.csv"):
            shutil.copyfile(path, folder / f"tp{tp_size}" / path.name)
    shutil.copyfile(source / "meta.yaml", folder / "meta.yaml")
    names = {"hardware": "RTXPRO6000", "model": "meta-llama/Llama-3.1-8B"}
    for tp_size in (1, 2):
        address = BundleAddress(folder, tp_size)
        expected = asdict(read_bundle(address, **names))
        first = asdict(cached_bundle(address, **names))
        with monkeypatch.context() as patched:
            patched.setattr(bundle_cache, "read_bundle", None)
            assert same(asdict(cached_bundle(address, **names)), expected)
        assert same(first, expected)
    dense = folder / "tp1" / "dense.csv"
    lines = dense.read_text(encoding="utf-8").splitlines(keepends=True)
    dense.write_text("".join(lines[:-1]), encoding="utf-8")
    address = BundleAddress(folder, 1)
    assert same(asdict(cached_bundle(address, **names)), asdict(read_bundle(address, **names)))
