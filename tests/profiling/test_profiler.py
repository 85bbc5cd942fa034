from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from penstock.cost.attention import AttentionLookup
from penstock.cost.bundle import BundleAddress, read_bundle
from penstock.cost.kernels import kernel_set
from penstock.errors import UserError
from penstock.profiling.profiler import ProfileJob, measure_us, parse_degrees, run_profile, sizes_up_to
from penstock.profiling.torch_attention import PagedAttention, attention_calls
from penstock.spec.layers import uniform_layers
from penstock.spec.model import ModelSpec

SMALL = ModelSpec(
    name="tiny/small",
    hidden_size=64,
    layers=uniform_layers(
        2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128, has_qk_norm=True
    ),
    vocab_size=256,
    max_position_embeddings=512,
)


def job(**changes: object) -> ProfileJob:
    fields: dict[str, object] = {
        "hardware": "THISCPU",
        "model": SMALL,
        "tp_sizes": (1, 2),
        "device": "cpu",
        "dtype": "float32",
        "max_tokens": 64,
        "max_sequences": 4,
        "max_context": 64,
        "repeats": 1,
    }
    return ProfileJob(**{**fields, **changes})  # type: ignore[arg-type]


def test_sizes_and_degrees() -> None:
    assert sizes_up_to(64, 4) == [1, 4, 16, 64]
    assert sizes_up_to(50, 2) == [1, 2, 4, 8, 16, 32, 50]
    assert parse_degrees("4, 1,2,1") == (1, 2, 4)
    with pytest.raises(UserError, match="not '1,x'"):
        parse_degrees("1,x")


def test_the_median_of_the_repeats_counts() -> None:
    calls: list[int] = []
    assert measure_us(lambda: calls.append(1), "cpu", 5) > 0
    assert len(calls) == 6


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"penstock\[profile\]"):
        run_profile(job(), tmp_path)


def test_a_cpu_is_profiled_into_a_bundle(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="profiling needs the profile extra")
    lines: list[str] = []
    directory = run_profile(job(), tmp_path, lines.append)
    assert directory == tmp_path / "THISCPU" / "tiny" / "small" / "fp32"
    assert "tp 2: attention" in lines
    meta = yaml.safe_load((directory / "meta.yaml").read_text(encoding="utf-8"))
    assert meta["tp_degrees"] == [1, 2]
    tables = read_bundle(BundleAddress(directory, 2), hardware="THISCPU", model="tiny/small")
    assert tables.dense["qk_norm"].sizes.tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert (tables.attention.us > 0).all()
    assert tables.attention.decodes.tolist() == [0, 1, 4]


def test_slow_sweeps_end_early(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="profiling needs the profile extra")
    directory = run_profile(job(tp_sizes=(1,), longest_s=0.0), tmp_path)
    tables = read_bundle(BundleAddress(directory, 1), hardware="THISCPU", model="tiny/small")
    assert tables.dense["o_proj"].sizes.tolist() == [1]


def test_a_degree_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="profiling needs the profile extra")
    with pytest.raises(UserError) as error:
        run_profile(job(tp_sizes=(3,), dtype="int3"), tmp_path)
    assert [problem.where for problem in error.value.problems] == ["--tp", "--dtype"]
    with pytest.raises(UserError, match="finds no CUDA device"):
        run_profile(job(device="cuda"), tmp_path)


@pytest.mark.parametrize("hardware", ["H100", "H200"])
@pytest.mark.parametrize(
    ("model", "tp_size"),
    [("meta-llama/Llama-3.1-8B", 1), ("Qwen/Qwen3-32B", 1), ("meta-llama/Llama-3.1-70B", 4)],
)
def test_measured_gpus_are_read_as_bundles(hardware: str, model: str, tp_size: int) -> None:
    directory = Path(__file__).parents[2] / "examples" / "profiles" / hardware / model / "bf16"
    tables = read_bundle(BundleAddress(directory, tp_size), hardware=hardware, model=model)
    lookup = AttentionLookup(tables.attention, None)
    assert lookup.decode_ns(64, 64 * 4096, 4096, 4096) > lookup.decode_ns(64, 64 * 1024, 1024, 1024)
    assert lookup.mixed_ns(1024, 16384, 0, 0, 0, 0) > lookup.mixed_ns(64, 16384, 0, 0, 0, 0)


def test_paged_attention_takes_chunk_and_decodes_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch", reason="profiling needs the profile extra")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    taken: list[dict[str, Any]] = []
    planned: list[dict[str, Any]] = []

    def plan_of(**given: Any) -> str:
        planned.append(given)
        return "plan"

    def attend(**given: Any) -> None:
        taken.append(given)

    flash = SimpleNamespace(get_scheduler_metadata=plan_of, flash_attn_varlen_func=attend)
    options = {"device": "cpu", "dtype": torch.bfloat16}
    shape = kernel_set(SMALL, SMALL.kinds[0], 1, "bfloat16", "auto").attention
    attention = PagedAttention(torch, flash, shape, options, pool_bytes=1 << 20)
    call = attention(chunk=32, history=100, decodes=3, context=50)
    call()
    call()
    (plan,) = planned
    first, second = taken
    assert first["cu_seqlens_q"].tolist() == [0, 32, 33, 34, 35]
    assert first["seqused_k"].tolist() == [132, 51, 51, 51]
    assert first["block_table"].shape == (4, 9)
    assert first["block_table"].max() < len(first["k"])
    assert (first["block_table"] != second["block_table"]).any()
    assert first["q"].shape == (35, 4, 16)
    assert (first["max_seqlen_q"], first["max_seqlen_k"], first["fa_version"]) == (32, 132, 3)
    assert first["scheduler_metadata"] == "plan"
    assert (plan["batch_size"], plan["max_seqlen_k"]) == (4, 132)


def test_attention_is_pytorch_s_without_a_gpu() -> None:
    torch: Any = pytest.importorskip("torch", reason="profiling needs the profile extra")
    shape = kernel_set(SMALL, SMALL.kinds[0], 1, "float32", "auto").attention
    calls = attention_calls(torch, shape, {"device": "cpu", "dtype": torch.float32})
    chunk, decodes = calls(chunk=8, history=4, decodes=3, context=5)()
    assert chunk.shape == (1, 4, 8, 16)
    assert decodes.shape == (3, 4, 1, 16)
