from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cost.build import TINY, write_bundle

from penstock.cost.fitted import PACKAGED_FITS, fit_degrees, read_fit, tables_from_fit
from penstock.cost.question import CostQuestion
from penstock.cost.sources import kernel_tables
from penstock.errors import UserError
from penstock.spec.layers import GroupedAttention, LayerGroup, LayerKind, MoeMlp, uniform_layers
from penstock.spec.model import ModelSpec

LLAMA = ModelSpec(
    name="meta-llama/Llama-3.1-8B",
    hidden_size=4096,
    layers=uniform_layers(32, num_heads=32, num_kv_heads=8, head_dim=128, intermediate_size=14336),
    vocab_size=128256,
    max_position_embeddings=131072,
)


def ask(
    hardware: str = "H100", model: ModelSpec = TINY, tp_size: int = 1, dtype: str = "bfloat16"
) -> CostQuestion:
    return CostQuestion(
        hardware=hardware,
        model=model,
        kind=model.kinds[0],
        tp_size=tp_size,
        dtype=dtype,
        kv_cache_dtype="auto",
        max_tokens=512,
    )


def test_a_measured_profile_comes_first(tmp_path: Path) -> None:
    directory = write_bundle(tmp_path)
    tables = kernel_tables(ask(), tmp_path)
    assert tables.basis == (f"compute: measured profile {directory}, tp 1",)


def test_float16_takes_a_bf16_profile_and_says_so(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    tables = kernel_tables(ask(dtype="float16"), tmp_path)
    assert tables.basis[1] == "dtype float16: times of bf16, the bytes are the same"


def test_another_tp_degree_is_derived_and_says_so(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    one, two = kernel_tables(ask(), tmp_path), kernel_tables(ask(tp_size=2), tmp_path)
    assert two.tp_size == 2
    assert two.basis[1].startswith("tp 2: not profiled, derived from tp 1")
    assert two.dense["o_proj"].us[-1] < one.dense["o_proj"].us[-1]
    assert two.dense["layernorm"].us.tolist() == one.dense["layernorm"].us.tolist()
    assert two.attention.us.max() == pytest.approx(2.0 + (one.attention.us.max() - 2.0) / 2, rel=0.02)


def test_the_packaged_fit_stands_in_without_a_profile() -> None:
    tables = kernel_tables(ask("RTXPRO6000", LLAMA, 2), None)
    assert tables.basis[0].startswith(
        "compute: packaged fit RTXPRO6000--meta-llama--Llama-3.1-8B--bf16.json, tp 2"
    )
    assert tables.tp_size == 2


def test_a_packaged_fit_is_found_by_architecture_whatever_the_model_is_called() -> None:
    tuned = replace(LLAMA, name="you/your-fine-tune", layers=LLAMA.layers * 2)
    own, found = kernel_tables(ask("RTXPRO6000", LLAMA), None), kernel_tables(ask("RTXPRO6000", tuned), None)
    assert (found.attention.us == own.attention.us).all()
    assert "layers like those of" not in own.basis[0]
    said = "layers like those of meta-llama/Llama-3.1-8B: hidden 4096, 32 heads (8 KV) x 128, MLP 14336, vocabulary"
    assert said in found.basis[0]


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 128264},
        {"layers": uniform_layers(32, num_heads=32, num_kv_heads=8, head_dim=128, intermediate_size=14592)},
        {"layers": uniform_layers(32, num_heads=32, num_kv_heads=4, head_dim=128, intermediate_size=14336)},
    ],
)
def test_a_packaged_fit_does_not_hold_for_other_dimensions(change: dict[str, Any]) -> None:
    assert "packaged fit" not in kernel_tables(ask("RTXPRO6000", replace(LLAMA, **change)), None).basis[0]


def test_the_dense_part_of_a_mixture_takes_the_fit_of_one() -> None:
    attention = GroupedAttention(num_heads=32, num_kv_heads=4, head_dim=128, has_qk_norm=True)
    moe = LayerKind(attention, MoeMlp(num_experts=64, experts_per_token=4, intermediate_size=512))
    model = replace(
        LLAMA, name="you/mixture", hidden_size=2048, vocab_size=151936, layers=(LayerGroup(moe, 8),)
    )
    tables = kernel_tables(ask("RTXPRO6000", model), None)
    assert "layers like those of Qwen/Qwen3-30B-A3B-Instruct-2507" in tables.basis[0]
    assert "gate_up_proj" not in tables.dense


def test_unprofiled_hardware_is_estimated_with_its_error() -> None:
    tables = kernel_tables(ask("MI300X", LLAMA), None)
    assert "no profile of meta-llama/Llama-3.1-8B on MI300X: an estimate" in tables.basis[0]
    assert "gemm" in tables.basis[0]
    weights = 2 * 3 * 4096 * 14336
    at_peak_us = weights / 5300e9 * 1e6
    mlp = tables.dense["gate_up_proj"].us[0] + tables.dense["down_proj"].us[0]
    assert at_peak_us < mlp < 2 * at_peak_us + 20


def test_a_profile_root_that_does_not_have_it_is_named(tmp_path: Path) -> None:
    write_bundle(tmp_path, variant="bf16")
    question = ask("H100", dtype="fp8")
    where = tmp_path / "H100" / "tiny/model"
    assert f"profile root: no fp8 in {where}, which has bf16" in kernel_tables(question, tmp_path).basis
    assert not any("profile root" in note for note in kernel_tables(question, None).basis)
    fitted = kernel_tables(ask("RTXPRO6000", LLAMA, 2), tmp_path).basis
    assert fitted[-1].startswith("profile root: no bf16 or fp16 in ")
    assert "which has" not in fitted[-1]


def test_hardware_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no profile for 'Abacus'"):
        kernel_tables(ask("Abacus"), tmp_path)


def test_a_missing_profile_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        kernel_tables(ask(), tmp_path / "nowhere")


@pytest.mark.parametrize("path", sorted(PACKAGED_FITS.glob("*.json")), ids=lambda path: path.stem)
def test_every_packaged_fit_is_usable_and_states_its_error(path: Path) -> None:
    fit = read_fit(path)
    assert "LLMServingSim" in fit["source"] or "AIConfigurator" in fit["source"]
    for degree in fit_degrees(fit):
        tables = tables_from_fit(fit, degree)
        assert np.isfinite(tables.attention.us).all()
        assert (tables.attention.us > 0).all()
        assert (tables.block_us(np.arange(1, 2049)) > 0).all()
        assert fit["error"][f"tp{degree} attention"][0] < 0.03


def test_a_file_that_is_no_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="not a fit of format"):
        read_fit(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        read_fit(path)


def test_a_profile_of_a_mixture_has_no_mlp_and_lends_its_dense_layers_the_roofline(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    moe = LayerKind(
        TINY.kinds[0].attention, MoeMlp(num_experts=8, experts_per_token=2, intermediate_size=512)
    )
    mixed = replace(TINY, layers=(LayerGroup(TINY.kinds[0], 1), LayerGroup(moe, 3)))
    experts = kernel_tables(replace(ask(model=mixed), kind=moe), tmp_path)
    assert {"qkv_proj", "o_proj"} <= set(experts.dense)
    assert not {"gate_up_proj", "act_fn", "down_proj"} & set(experts.dense)
    dense = kernel_tables(ask(model=mixed), tmp_path)
    assert dense.dense["gate_up_proj"] == kernel_tables(ask(), tmp_path).dense["gate_up_proj"]
    path = next(tmp_path.rglob("dense.csv"))
    lines = [
        line for line in path.read_text().splitlines() if not line.startswith(("gate_up", "act_fn", "down"))
    ]
    path.write_text("\n".join(lines) + "\n")
    other = tmp_path / "H100" / "tiny" / "other" / "bf16"
    other.parent.mkdir(parents=True)
    (tmp_path / "H100" / TINY.name / "bf16").rename(other)  # a new place: bundles are cached by place
    alone = replace(mixed, name="tiny/other")
    filled = kernel_tables(ask(model=alone), tmp_path)
    assert filled.dense["gate_up_proj"].at(64) > 0
    assert "dense layers' MLP: not in the profile" in filled.basis[-1]
