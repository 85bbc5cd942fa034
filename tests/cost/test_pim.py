"""Attention in memory: what a file comes to, LLMServingSim's coefficients, and steps in halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.cost.pim import halves
from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.errors import Problem, UserError
from penstock.files.place import Place
from penstock.spec.load import load_cluster
from penstock.spec.pim import PimSpec, find_pim

LLAMA = {"heads": 32, "kv_heads": 8, "head_dim": 128}


@pytest.mark.parametrize(
    ("stem", "channels", "gb_per_s", "latency_ns", "attention_ns", "watts"),
    [
        ("DDR4_8GB_3200_pim", 64, 1638.4, 13.86, 371_927.2, (0.623, 3.803)),
        ("HBM2_1GB_2000_pim", 512, 16_384, 14, 262_377.6, (0.16, 0.76)),
        ("LPDDR4X_2GB_4266_pim", 256, 2184.192, 16.848, 476_742.7, (0.07, 0.771)),
        ("LPDDR5_2GB_6400_pim", 256, 3276.8, 10.625, 305_208.9, (0.071, 0.877)),
    ],
)
def test_upstreams_four_files(
    shared_dir: Path,
    stem: str,
    channels: int,
    gb_per_s: float,
    latency_ns: float,
    attention_ns: float,
    watts: tuple[float, float],
) -> None:
    problems: list[Problem] = []
    directory = shared_dir / "data/llmservingsim/configs/cluster"
    pim = find_pim(stem, 512, directory, Place("cluster"), problems)
    assert not problems
    assert pim is not None
    assert pim.channels == channels
    assert pim.bytes_per_ns == pytest.approx(gb_per_s, rel=1e-3)
    assert pim.latency_ns == pytest.approx(latency_ns)
    assert (pim.idle_w, pim.active_w) == pytest.approx(watts)
    # 1,024 tokens, by one channel and by eight.
    assert pim.attention_ns(1024, **LLAMA) * pim.split(8) == pytest.approx(attention_ns, abs=0.1)
    assert pim.attention_ns(1024, **LLAMA) == pytest.approx(attention_ns / 8, abs=0.1)


def config(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    folder = tmp_path / "configs" / "pim"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "HBM2_1GB_2000_pim.ini").write_text(
        "[dram]\nbankgroups = 4\nbanks_per_group = 4\nrows = 16384\ncolumns = 64\ndevice_width = 128\n"
        "; a comment = 1\nCL = 14\ntCK = 1.0\nbus_width = 128\nchannel_size = 1024\ndata_rate = 2000 # MT/s\n"
        "idle_power = 160\npeak_power = 760\n"
    )
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350},
        "tp_size": 1,
        "pd_type": None,
        **fields,
    }
    node = {
        "num_instances": 1,
        "cpu_mem": {"mem_size": 256, "mem_bw": 100, "pim_config": "HBM2_1GB_2000_pim"},
        "instances": [instance],
    }
    return {"num_nodes": 1, "link_bw": 64, "link_latency": 0, "nodes": [node]}


def load(tmp_path: Path, **fields: Any) -> Any:
    import json

    path = tmp_path / "configs" / "cluster.json"
    data = config(tmp_path, **fields)
    path.write_text(json.dumps(data))
    return load_cluster(path)


def stage_ns(tmp_path: Path, shape: StepShape, **fields: Any) -> int:
    (one,) = build_instances(load(tmp_path, **fields), None)
    return sum(one.cost.stage.stage_ns(shape))


OFFLOADED = {"enable_attn_offloading": True}


def test_decodes_attend_in_memory_and_prompts_do_not(tmp_path: Path) -> None:
    prompt = StepShape(512, 0, 0, 0, 0, 0, 1)
    assert stage_ns(tmp_path, prompt) == stage_ns(tmp_path, prompt, **OFFLOADED)
    pim: PimSpec = load(tmp_path, **OFFLOADED).instances[0].pim
    short = stage_ns(tmp_path, StepShape.of_decodes(1, 1000), **OFFLOADED)
    long = stage_ns(tmp_path, StepShape.of_decodes(1, 2000), **OFFLOADED)
    assert long - short == pytest.approx(32 * 1000 * pim.slope_ns / 8, abs=64)


def test_more_pieces_than_channels_queue(tmp_path: Path) -> None:
    pim: PimSpec = load(tmp_path, **OFFLOADED).instances[0].pim
    fit = pim.channels // 8
    shapes = [StepShape.of_decodes(count, 1000) for count in (fit, 2 * fit)]
    npu = [stage_ns(tmp_path, shape) for shape in shapes]
    times = [stage_ns(tmp_path, shape, **OFFLOADED) for shape in shapes]
    piece = pim.attention_ns(1000, **LLAMA)
    assert times[1] - times[0] > 32 * piece - (npu[1] - npu[0])


def test_halves_hold_what_the_step_holds() -> None:
    shape = StepShape(300, 50, 9, 900, 10, 200, 10)
    one, other = halves(shape)
    assert one.prefill_tokens + other.prefill_tokens == 300
    assert one.decodes + other.decodes == 9
    assert one.decode_context + other.decode_context == 900
    assert one.sampled + other.sampled == 10
    assert other.prefill_tokens == 0
    assert other.decodes == 9  # the chunk outweighs them all


def test_two_halves_read_the_weights_twice(tmp_path: Path) -> None:
    shape = StepShape.of_decodes(8, 500)
    both = {**OFFLOADED, "enable_sub_batch_interleaving": True}
    plain, turns = stage_ns(tmp_path, shape, **OFFLOADED), stage_ns(tmp_path, shape, **both)
    assert 1.5 * plain < turns < 2.1 * plain
    alone = StepShape.of_decodes(1, 500)
    assert stage_ns(tmp_path, alone, **OFFLOADED) == stage_ns(tmp_path, alone, **both)


def test_offloading_without_pim_is_a_mistake(tmp_path: Path) -> None:
    data = config(tmp_path, **OFFLOADED)
    del data["nodes"][0]["cpu_mem"]["pim_config"]
    with pytest.raises(UserError, match="needs the node's cpu_mem"):
        load_cluster(data)
