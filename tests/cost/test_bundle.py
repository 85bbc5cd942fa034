from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cost.build import TINY, make_tables, write_bundle

from penstock.cost.attention import AttentionLookup
from penstock.cost.bundle import BundleAddress, attention_grid, read_attention_rows, read_bundle, tp_degrees
from penstock.errors import UserError


def test_measured_points_come_back(tmp_path: Path) -> None:
    directory = write_bundle(tmp_path)
    tables = read_bundle(BundleAddress(directory, 1), hardware="H100", model=TINY.name)
    expected = make_tables()
    for name, curve in expected.dense.items():
        np.testing.assert_allclose(tables.dense[name].us, curve.us)
    np.testing.assert_allclose(tables.attention.us[1:, 1:], expected.attention.us[1:, 1:])
    np.testing.assert_allclose(tables.attention.us[0, 1:, 0], expected.attention.us[0, 1:, 0])
    assert tables.skew is None
    assert tp_degrees(directory) == (1,)


def test_missing_grid_points_are_interpolated_within_their_slice() -> None:
    rows = [(0, 0, 1, 16, 10.0), (0, 0, 1, 256, 34.0), (0, 0, 4, 16, 20.0), (0, 0, 4, 64, 32.0)]
    rows += [(16, 0, 0, 0, 5.0), (16, 0, 1, 16, 15.0)]
    grid = attention_grid(np.array(rows, dtype=np.float64))
    assert grid.decode_contexts.tolist() == [16, 64, 256]
    assert grid.us[0, 1, 0].tolist() == [10.0, 14.8, 34.0]  # 64 lies on the line from 16 to 256
    assert grid.us[0, 2, 0].tolist() == [20.0, 32.0, 80.0]  # 256 extrapolates the top two
    assert grid.us[1, 1, 0].tolist() == [15.0, 15.0, 15.0]  # a single point holds
    assert grid.us[0, 0].max() == 10.0  # nothing measured without chunk and decodes: the fewest decodes


def test_chunks_never_measured_beside_decodes_are_added_to_them() -> None:
    rows = [(0, 0, 1, 16, 10.0), (0, 0, 2, 16, 12.0), (32, 0, 0, 0, 50.0)]
    grid = attention_grid(np.array(rows, dtype=np.float64))
    assert grid.us[1, :, 0, 0].tolist() == [50.0, 50.0, 52.0]


def test_chunks_shorter_than_any_measured_alone_take_as_long_as_the_first() -> None:
    rows = [(0, 0, 1, 16, 10.0), (32, 0, 0, 0, 50.0), (32, 4096, 0, 0, 90.0)]
    lookup = AttentionLookup(attention_grid(np.array(rows, dtype=np.float64)), None)
    assert lookup.mixed_ns(4, 0, 0, 0, 0, 0) == 50_000.0
    assert lookup.mixed_ns(4, 4096, 0, 0, 0, 0) == 90_000.0  # its history is read however short it is


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("dense.csv", "layer,tokens,time_us\nlayernorm,1,fast\n", "dense.csv:2"),
        ("dense.csv", "layer,tokens\n", "dense.csv:1"),
        ("dense.csv", "layer,tokens,time_us\nlayernorm,1,nan\n", "dense.csv:2"),
        ("dense.csv", "layer,tokens,time_us\nlayernorm,1,2\n", "no rows for layer 'qkv_proj'"),
        ("attention.csv", "a,b\n1,2\n", "attention.csv:1"),
        (
            "attention.csv",
            "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,-1\n",
            "none negative",
        ),
    ],
)
def test_broken_bundles_name_file_and_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    directory = write_bundle(tmp_path)
    (directory / "tp1" / file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_bundle(BundleAddress(directory, 1), hardware="H100", model=TINY.name)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    directory = write_bundle(tmp_path)
    (directory / "tp1" / "per_sequence.csv").unlink()
    with pytest.raises(UserError, match="per_sequence"):
        read_bundle(BundleAddress(directory, 1), hardware="H100", model=TINY.name)


def test_real_bundles_give_their_own_points_back(shared_dir: Path) -> None:
    root = shared_dir / "data" / "llmservingsim" / "perf"
    directories = sorted(path.parent for path in root.glob("*/*/*/*/meta.yaml"))
    assert len(directories) == 4
    for directory in directories:
        degree = tp_degrees(directory)[-1]
        tables = read_bundle(BundleAddress(directory, degree), hardware="x", model="y")
        rows = read_attention_rows(directory / f"tp{degree}" / "attention.csv")
        lookup = AttentionLookup(tables.attention, None)
        for chunk, history, decodes, context, us in rows[:: len(rows) // 300]:
            n, k = int(decodes), int(context)
            if chunk:
                ns = lookup.mixed_ns(int(chunk), int(history), n, n * k, k, k)
            else:
                ns = lookup.decode_ns(n, n * k, k, k)
            assert ns == pytest.approx(us * 1000, rel=1e-9)
        assert not lookup.outside
