from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import UserError
from penstock.spec.calibration import load_calibration
from penstock.spec.load import load_cluster

SHAPE = "hidden 4096, vocabulary 128256, 32 layers of 32 heads (8 KV) x 128, MLP 14336"


def parameters(**values: float) -> dict[str, Any]:
    return {name: {"value": value} for name, value in values.items()}


def kernels(**changes: Any) -> dict[str, Any]:
    """A calibration of an RTX PRO 6000 with Llama-3.1-8B, as penstock calibrate writes it."""
    data = {
        "format": 1,
        "source": "bench.json (vllm bench serve, 100 requests)",
        "date": "2026-11-25 00:36:48",
        "cost": "kernels",
        "deployment": {
            "hardware": "RTXPRO6000",
            "model": "meta-llama/Llama-3.1-8B",
            "model_shape": SHAPE,
            "dtype": "bfloat16",
            "tp_size": 1,
            "pp_size": 1,
        },
        "parameters": parameters(
            host_step_ns=1.5e6,
            host_to_stage_ns=0,
            request_ns=5e6,
            prefill_factor=1.1,
            decode_factor=0.9,
            prefill_step_ns=4e6,
        ),
        "error": "held-out second half, medians TTFT +1.0%",
    }
    return data | changes


def fitted(**changes: Any) -> dict[str, Any]:
    names = ("base", "prefill_base", "prefill_token", "prefill_context", "decode", "decode_context")
    terms = parameters(**{f"{name}_ns": 1000.0 for name in names})
    host = parameters(host_step_ns=1e6, host_to_stage_ns=0, request_ns=0)
    return kernels(cost="fitted", parameters=host | terms) | changes


def cluster(hardware: str = "RTXPRO6000", **instance: Any) -> dict[str, Any]:
    entry = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": hardware,
        "npu_mem": {"mem_size": 96, "mem_bw": 1597},
        "tp_size": 1,
        **instance,
    }
    nodes = [{"num_instances": 1, "instances": [entry]}]
    return {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": nodes}


def written(directory: Path, data: Any) -> Path:
    path = directory / "calibration.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_host_terms_take_the_place_of_the_configs(tmp_path: Path):
    calibration = load_calibration(written(tmp_path, kernels()))
    given = cluster(engine_overhead={"update_ns": 7, "schedule_ns": 9})
    instance = load_cluster(given, calibration=calibration).instances[0]
    assert instance.calibration == calibration
    assert (instance.overhead.update_ns, instance.overhead.schedule_ns) == (1_500_000, 0)
    assert instance.overhead.prefill_step_ns == 4_000_000
    assert "calibration.json" in instance.overhead.source


def test_other_parallelism_is_the_cost_sources(tmp_path: Path):
    calibration = load_calibration(written(tmp_path, kernels()))
    spec = load_cluster(cluster(tp_size=2, pp_size=2, num_npus=4), calibration=calibration)
    assert spec.instances[0].calibration is calibration
    assert not spec.notices


def test_another_card_is_refused(tmp_path: Path):
    calibration = load_calibration(written(tmp_path, kernels()))
    with pytest.raises(
        UserError, match="was measured on 'RTXPRO6000': a calibration does not move to another card"
    ):
        load_cluster(cluster("H100"), calibration=calibration)


def test_another_model_is_noticed_where_kernels_are_known(tmp_path: Path):
    calibration = load_calibration(written(tmp_path, kernels()))
    spec = load_cluster(cluster(model_name="Qwen/Qwen3-32B"), calibration=calibration)
    assert any("its factors on kernel times are assumed to hold" in note for note in spec.notices)


def test_a_fitted_step_holds_for_its_model_and_tp_alone(tmp_path: Path):
    calibration = load_calibration(written(tmp_path, fitted()))
    with pytest.raises(UserError) as caught:
        load_cluster(cluster(model_name="Qwen/Qwen3-32B", tp_size=2, num_npus=2), calibration=calibration)
    text = str(caught.value)
    assert "has other dimensions than meta-llama/Llama-3.1-8B" in text
    assert "tp_size 2, but the step cost" in text
    assert load_cluster(cluster(pp_size=2, num_npus=2), calibration=calibration).instances[0].pp_size == 2


def test_hardware_that_nobody_knows_is_known_to_its_calibration(tmp_path: Path):
    data = fitted()
    data["deployment"]["hardware"] = "THATCPU"
    calibration = load_calibration(written(tmp_path, data))
    assert load_cluster(cluster("THATCPU"), calibration=calibration).instances[0].hardware == "THATCPU"
    with pytest.raises(UserError, match="unknown hardware 'THATCPU'"):
        load_cluster(cluster("THATCPU"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "calibration.json: format: must be 1, not 2"),
        ({"cost": None}, "missing key 'cost': not a file of penstock calibrate"),
        ({"parameters": {"host_step_ns": {"value": -1.0}}}, "host_step_ns.value: must be >= 0, not -1.0"),
        ({"noise": {"sigma": 0.1}}, "noise: needs both 'sigma' and 'correlation'"),
        ({"sauce": 1}, "unknown key 'sauce'; did you mean 'source'?"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path: Path, change: dict[str, Any], sentence: str):
    with pytest.raises(UserError) as caught:
        load_calibration(written(tmp_path, {k: v for k, v in kernels(**change).items() if v is not None}))
    assert sentence in str(caught.value)


def test_parameters_must_be_those_of_the_cost(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        load_calibration(written(tmp_path, kernels(parameters=fitted()["parameters"])))
    text = str(caught.value)
    assert "missing key 'prefill_factor'" in text
    assert "unknown key 'base_ns' in a calibration whose cost is 'kernels'" in text
