from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.spec.test_load import config

from penstock.errors import UserError
from penstock.spec.catalogue import CATALOGUE
from penstock.spec.load import load_cluster
from penstock.spec.options import EngineOverhead
from penstock.spec.overheads import default_overhead


def overhead(
    flags: dict[str, Any] | None = None, root: Path | None = None, **instance: Any
) -> EngineOverhead:
    return load_cluster(config(instance), flags, profile_root=root).instances[0].overhead


def test_every_chip_has_a_named_default_with_source_and_range() -> None:
    for hardware in CATALOGUE:
        found = default_overhead(None, hardware.label, 32)
        assert found.source.startswith("default '")
        assert " ms a " in found.source


def test_time_in_steps_with_a_chunk_goes_by_layers() -> None:
    one, two = (default_overhead(None, "H200", layers) for layers in (40, 80))
    assert two.prefill_step_ns == 2 * one.prefill_step_ns == 80 * 250_000
    assert one.update_ns == two.update_ns == 1_000_000


def test_the_default_holds_unless_something_else_is_said() -> None:
    default = default_overhead(None, "H100", 32)
    own = {"update_ns": 7, "source": "a test"}
    assert overhead(hardware="H100") == default
    assert overhead({"engine_overhead": "none"}, hardware="H100") == EngineOverhead()
    assert overhead(hardware="H100", engine_overhead="none") == EngineOverhead()
    assert overhead({"engine_overhead": "none"}, hardware="H100", engine_overhead="default") == default
    assert overhead({"engine_overhead": "none"}, hardware="H100", engine_overhead=own).update_ns == 7


def test_profiles_of_ones_own_and_llmservingsim_have_none_unless_asked(tmp_path: Path) -> None:
    assert overhead(root=tmp_path, hardware="H100") == EngineOverhead()
    assert overhead({"engine_overhead": "default"}, tmp_path, hardware="H100").update_ns == 1_000_000
    assert overhead({"engine": "llmservingsim"}, hardware="H100") == EngineOverhead()


def test_another_engine_is_assumed_to_take_what_vllm_does() -> None:
    assert "assumed as vLLM's" in overhead({"engine": "sglang"}, hardware="H100").source
    assert "assumed as vLLM's" not in overhead({"engine": "vllm-0.32.0"}, hardware="H100").source


def test_another_word_is_refused() -> None:
    with pytest.raises(UserError, match="engine_overhead"):
        overhead(hardware="H100", engine_overhead="off")
