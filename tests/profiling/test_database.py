from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.cost.aiconfigurator.build import gemm_ms, write_wheel
from tests.cost.test_sources import LLAMA, ask

from penstock.cost.aiconfigurator.source import covered, measured_tables
from penstock.cost.aiconfigurator.wheel import Wheel
from penstock.cost.bundle import BundleAddress, read_bundle
from penstock.cost.fitted import tables_from_fit
from penstock.cost.sources import kernel_tables
from penstock.errors import UserError
from penstock.profiling import database
from penstock.profiling.database import Wanted, import_database, pack_database, wanted_tables

WANTED = Wanted(hardware="H100", model=LLAMA)


@pytest.fixture(autouse=True)
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_wheel", lambda: write_wheel(tmp_path / "wheel"))


def test_a_bundle_holds_the_same_times(tmp_path: Path) -> None:
    directory = import_database(WANTED, tmp_path / "profiles")
    assert directory == tmp_path / "profiles" / "H100" / "meta-llama" / "Llama-3.1-8B" / "bf16"
    (own,) = database.database_tables(WANTED)
    read = read_bundle(BundleAddress(directory, 1), hardware="H100", model=LLAMA.name)
    assert read.dense["o_proj"].at(1) == pytest.approx(1000 * gemm_ms(1, 4096, 4096), rel=1e-5)
    np.testing.assert_allclose(read.attention.us, own.attention.us, rtol=1e-5)
    assert read.skew is not None
    assert read.skew.alpha.ravel().tolist() == [0.7]
    tables = kernel_tables(ask("H100", LLAMA), tmp_path / "profiles")
    assert "measured profile" in tables.basis[0]


def test_constants_of_vllm_stay_with_vllm(tmp_path: Path) -> None:
    for name in ("gemm", "attention"):
        folder = write_wheel(tmp_path / "wheel").systems / "data" / "h100_sxm" / name
        (folder / "vllm").rename(folder / "trtllm")
        (folder / "trtllm" / "0.24.0").rename(folder / "trtllm" / "1.0")
    question = replace(WANTED, engine="trtllm").question(1)
    found = covered(question)
    assert found is not None
    versions = tmp_path / "wheel" / "query_versions.yaml"
    versions.write_text('defaults:\n  trtllm: {current: "1.0"}\n')
    tables = measured_tables(question, found, Wheel(tmp_path / "wheel"))
    assert tables is not None
    assert tables.skew is None
    assert tables.dense["o_proj"].at(4096) == pytest.approx(1000 * gemm_ms(4096, 4096, 4096))


def test_a_packed_fit_is_evaluated_to_the_same_attention() -> None:
    (own,) = database.database_tables(WANTED)
    fit = json.loads(json.dumps(pack_database(WANTED).data))
    tables = tables_from_fit(fit, 1)
    np.testing.assert_allclose(tables.attention.us, own.attention.us, rtol=2e-3)
    sizes = np.array([1.0, 64.0, 1024.0])
    np.testing.assert_allclose(tables.block_us(sizes), own.block_us(sizes), rtol=0.05)
    assert fit["architecture"]["hidden_size"] == 4096
    assert "AIConfigurator" in fit["source"]
    assert fit["error"]["tp1 o_proj"][0] < 0.05


def test_what_was_not_measured_is_one_message_per_degree() -> None:
    with pytest.raises(
        UserError, match=r"has no kernels of vllm for meta-llama/Llama-3\.1-8B in fp8 at tp 1 on 'H100'"
    ):
        import_database(replace(WANTED, dtype="fp8"), Path("nowhere"))
    with pytest.raises(UserError, match=r"tp 3 must divide the 32 attention heads"):
        import_database(replace(WANTED, degrees=(3,)), Path("nowhere"))
    assert not Path("nowhere").exists()


def test_every_mistake_of_the_command_line_at_once() -> None:
    with pytest.raises(UserError) as caught:
        wanted_tables("H100", "meta-llama/Llama-3.1-8", "1,x", ("fp9", "fp7"), "vlm")
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 5
    assert any("--tp: must be tp degrees like 1,2,4" in one for one in said)
    assert any("did you mean 'vllm'?" in one for one in said)


def test_without_the_wheel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_wheel", lambda: None)
    with pytest.raises(UserError, match=r"is not installed: pip install 'penstock\[aiconfigurator\]'"):
        import_database(WANTED, Path("nowhere"))
