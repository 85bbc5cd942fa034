from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from penstock.cost.bundle import BundleAddress, read_bundle
from penstock.errors import UserError
from penstock.profiling.imports import import_profile
from penstock.profiling.meta import bundle_identity
from penstock.profiling.old_layout import read_old_layout

PARTS = {
    "embedding": 1000, "input_layernorm": 4000, "q_proj": 10000, "k_proj": 3000, "v_proj": 2000, "rope": 500,
    "attn": 6000, "o_proj": 9000, "post_layernorm": 2000, "gate_proj": 20000, "up_proj": 21000, "act_fn": 700,
    "down_proj": 22000, "final_layernorm": 1500, "lm_head": 300000,
}  # fmt: skip
COLUMNS = (
    "time_stats.attn_prefill.median,time_stats.attn_decode.median,"
    "batch_size,prefill_chunk_size,kv_cache_size,is_prefill"
)


def write_old(directory: Path, degree: int, *, attention: bool = True) -> None:
    folder = directory / f"tp{degree}"
    folder.mkdir(parents=True)
    lines = ["layer_name,input,kv_cache,tp_size,latency(ns)"]
    for tokens in (1, 2, 16, 32, 64):
        lines += [f"{name},{tokens},0,{degree},{ns + tokens}" for name, ns in PARTS.items()]
    (folder / "layers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if attention:
        rows = [
            COLUMNS,
            "0.020,,1,32,64,True",
            ",0.010,1,0,32,False",
            ",0.030,64,0,32,False",
            ",0.001,128,0,32,False",
        ]
        (folder / "attention.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_an_old_profile_becomes_a_bundle(tmp_path: Path) -> None:
    write_old(tmp_path / "old", 1)
    directory, note = import_profile(tmp_path / "old", tmp_path / "new", hardware="A6000", model="a/b")
    tables = read_bundle(BundleAddress(directory, 1), hardware="A6000", model="a/b")
    assert tables.dense["qkv_proj"].at(64) == pytest.approx(15 + 3 * 0.064)
    assert tables.dense["gate_up_proj"].at(1) == pytest.approx(41 + 2 * 0.001)
    assert tables.dense["layernorm"].at(16) == pytest.approx(3 + 0.016)
    assert tables.per_sequence["lm_head"].at(2) == pytest.approx(300.002)
    grid = tables.attention
    assert grid.us[list(grid.chunks).index(32), 0, list(grid.prefill_contexts).index(48), 0] == 20.0
    assert grid.us[0, list(grid.decodes).index(64), 0, 0] == 30.0
    assert 128 not in grid.decodes  # 1 us for 128 sequences: a kernel that did nothing
    assert grid.us[list(grid.chunks).index(16), 0, 0, 0] == pytest.approx(
        6.016
    )  # the whole prompt, no history
    assert "unfused" in note
    meta = yaml.safe_load((directory / "meta.yaml").read_text(encoding="utf-8"))
    assert meta["tp_degrees"] == [1]
    identity = bundle_identity(directory)
    assert (identity.hardware, identity.model, identity.variant) == ("A6000", "a/b", "bf16")


def test_attention_of_a_degree_without_any_is_scaled(tmp_path: Path) -> None:
    write_old(tmp_path, 1, attention=False)
    write_old(tmp_path, 2)
    profiles, note = read_old_layout(tmp_path)
    assert "attention of tp 1 is scaled from tp 2" in note
    one, two = ({row[:4]: row[4] for row in profiles[degree].attention} for degree in (1, 2))
    key = (0, 0, 64, 32)
    launch = min(two.values())
    assert one[key] == pytest.approx(launch + 2 * (two[key] - launch))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("layers.csv", "layer_name,input\n", "no column"),
        ("layers.csv", "layer_name,input,kv_cache,latency(ns)\nattn,1,0,fast\n", ":2"),
        ("layers.csv", "layer_name,input,kv_cache,latency(ns)\nattn,1,0,5\n", "no rows for"),
        ("attention.csv", f"{COLUMNS}\n1,,x,32,64,True\n", ":2"),
    ],
)
def test_broken_files_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_old(tmp_path, 1)
    (tmp_path / "tp1" / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_old_layout(tmp_path)


def test_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no"):
        read_old_layout(tmp_path)
    write_old(tmp_path, 1, attention=False)
    with pytest.raises(UserError, match="no tp degree has"):
        read_old_layout(tmp_path)
    with pytest.raises(UserError, match="neither a directory nor a CSV"):
        import_profile(tmp_path / "x.txt", tmp_path, hardware="A6000", model="a/b")


def test_vidurs_kernels_are_completed(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "vidur" / "compute" / "a100" / "meta-llama" / "Meta-Llama-3-8B" / "mlp.csv"
    directory, note = import_profile(
        source, tmp_path, hardware="A100-80GB", model="meta-llama/Meta-Llama-3-8B"
    )
    tables = read_bundle(BundleAddress(directory, 4), hardware="A100-80GB", model="m")
    assert "roofline" in note
    assert tables.dense["down_proj"].sizes[-1] == 4096
    assert tables.attention.us.min() > 0
