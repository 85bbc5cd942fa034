"""A search's file: what it means, and every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from explore.studies import SMALL, write_study
from penstock.errors import UserError
from penstock.explore.study_spec import load_study


def mistakes(directory: Path, **changes: Any) -> list[str]:
    path = write_study(directory, **changes)
    with pytest.raises(UserError) as error:
        load_study(path)
    assert all(str(path) in problem.where for problem in error.value.problems)
    return [str(problem).replace(f"{path}: ", "") for problem in error.value.problems]


def test_a_search_is_read_with_its_defaults(tmp_path: Path) -> None:
    spec = load_study(write_study(tmp_path))
    assert spec.space.size == 16
    assert len(spec.load.workload) == 80
    assert spec.load.rate is None
    assert spec.load.arrivals.kind == "poisson"
    assert [objective.name for objective in spec.objectives] == SMALL["objectives"]
    assert spec.prices == {"H100": 2.99, "L40S": 0.86}
    assert "not checked since" in spec.price_sources["H100"]


def test_ones_own_prices_come_first_by_any_name_of_the_hardware(tmp_path: Path) -> None:
    spec = load_study(write_study(tmp_path, prices={"NVIDIA H100-SXM": 1.5}))
    assert spec.prices == {"H100": 1.5, "L40S": 0.86}
    assert spec.price_sources["H100"] == "given"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    lines = ['{"input_toks": 10, "output_toks": 2, "arrival_time_ns": 0}\n'] * 5
    (tmp_path / "requests.jsonl").write_text("".join(lines))
    spec = load_study(write_study(tmp_path, generate=None, dataset="requests.jsonl", num_requests=3))
    assert len(spec.load.workload) == 3


def test_a_pilot_is_an_eighth_of_the_requests(tmp_path: Path) -> None:
    generate = {**SMALL["generate"], "num_requests": 1000}
    spec = load_study(write_study(tmp_path, generate=generate, search={}))
    assert spec.load.pilot == 125
    assert load_study(write_study(tmp_path, generate=generate, search={}, rate=3)).load.pilot is None
    assert load_study(write_study(tmp_path, search={})).load.pilot is None  # too short for one


def test_all_mistakes_come_at_once_each_with_its_place(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        model=7,
        slo="ttft_p99<2",
        objectives=["goodput_per_gpus"],
        rate="fast",
        arrivals="posson",
        prices={"H100": -1},
        surprise=True,
        space={
            **SMALL["space"],
            "hardware": ["H100", "H1000"],
            "tp": [0],
            "router": ["LOTS"],
            "network": "wan",
        },
    )
    text = "\n".join(found)
    for words in (
        "model: must be a string",
        "slo: 'ttft_p99<2' is not a bound",
        "objectives[0]: unknown objective 'goodput_per_gpus'; did you mean 'goodput_per_gpu'?",
        'rate: must be "max", "trace" or requests per second, not ',
        "arrivals: unknown kind 'posson'; did you mean 'poisson'?",
        "prices.H100: must be > 0",
        "unknown key 'surprise'",
        "space.tp[0]: must be >= 1",
    ):
        assert words in text
    later = "\n".join(
        mistakes(
            tmp_path, space={**SMALL["space"], "hardware": ["H1000"], "router": ["LOTS"], "network": "wan"}
        )
    )
    assert "space.hardware[0]: unknown hardware" in later
    assert "did you mean 'H100'" in later
    assert "space.router[0]: no router 'LOTS'" in later
    assert "space.network[0]: no network 'wan'" in later


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": None}, "missing key 'space'"),
        ({"model": None}, "missing key 'model'"),
        ({"slo": None}, "missing key 'slo'"),
        ({"generate": None}, "needs 'dataset' or 'generate'"),
        ({"dataset": "x"}, "needs 'dataset' or 'generate', one of them"),
        ({"space": {"hardware": []}}, "space.hardware: must not be empty"),
        ({"space": {"hardware": "H100", "tp": []}}, "space.tp: must not be empty"),
        ({"space": {"tp": 1}}, "space: missing key 'hardware'"),
        ({"space": {"hardware": "H100", "replicas": "fill"}}, "'fill' needs the numbers of GPUs"),
        ({"space": {"hardware": "H100", "replicas": 0}}, "must be a number from 1"),
        ({"space": {"hardware": "H100", "partition": [20, 12]}}, 'must be "even", "balanced" or a list'),
        (
            {"space": {"hardware": "H100", "max_in_flight": "pp-1"}},
            'must be a number from 1 to 1024, "pp" or "pp+N"',
        ),
        ({"space": {"hardware": "H100", "policy": "vlm"}}, "space.policy[0]: no policy 'vlm'"),
        ({"space": {"hardware": "TPUv5e", "dtype": "bf16"}}, "did you mean 'bfloat16'"),
        ({"instance": {"tp_size": 4}}, "instance.tp_size: is decided by the search"),
        (
            {"instance": {"blok_size": 4}},
            "instance: unknown key 'blok_size'; did you mean 'block_size'",
        ),
        ({"networks": {"a": {"between_gb_per_s": 3}}}, "networks.a: missing key 'inside_gb_per_s'"),
        ({"space": {"hardware": "H20"}}, "prices: no price for H20 in the list"),
        ({"search": {"method": "random"}}, "search.method: must be"),
        ({"generate": {"num_requests": 5}}, "generate: --input-toks: missing"),
        (
            {"generate": {"preset": "sharegtp"}},
            "generate: preset: unknown preset 'sharegtp'; did you mean 'sharegpt'",
        ),
        ({"profile_root": "nowhere"}, "is not a directory"),
        ({"prices": {"H1000": 2.0}}, "prices.H1000: unknown hardware 'H1000'; did you mean 'H100'"),
        ({"npu_mem": {"H1000": {"mem_size": 80}}}, "npu_mem.H1000: unknown hardware 'H1000'"),
        ({"npu_mem": {"H100": {"mem_size": 80}}}, "npu_mem.H100: missing key 'mem_bw'"),
        ({"npu_mem": {"H100": {"mem_size": "80", "mem_bw": 1}}}, "npu_mem.H100.mem_size: must be a number"),
        ({"instance": {"block_size": "16"}}, "instance.block_size: must be an integer, not '16'"),
        (
            {"instance": {"max_num_seqs": 8}, "space": {"hardware": "H100", "max_num_seqs": 4}},
            "instance.max_num_seqs: is set by space.max_num_seqs too: give it in one of them",
        ),
        (
            {"instance": {"pp_layer_partition": "auto"}, "space": {"hardware": "H100", "partition": "even"}},
            "instance.pp_layer_partition: is set by space.partition too",
        ),
        ({"space": {"hardware": "H100", "tp": 10**12}}, "space.tp: must be <= 1024, not 1000000000000"),
        ({"space": {"hardware": "H100", "replicas": 10**6}}, "must be a number from 1 to 100,000"),
        ({"space": {"hardware": "H100", "policy": "vllm(1)"}}, "'1' is not an argument: write name=number"),
        ({"generate": {"num_requests": 10**9}}, "generate.num_requests: must be <= 10000000"),
    ],
)
def test_single_mistakes(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in "\n".join(mistakes(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: [a\n", ":2:1: broken YAML"),
        ("model: a\nmodel: b\n", ": key 'model' stands here twice"),
        ("", "is empty"),
        ("- a\n", "must be an object"),
        ("model: !!python/object:os.system x\n", "broken YAML"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        load_study(path)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"none.jsonl.*cannot be read"):
        load_study(write_study(tmp_path, generate=None, dataset="none.jsonl"))
