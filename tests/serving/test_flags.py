"""LLMServingSim's own options: renamed, refused or noted, never lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.spec.option_table import run_options
from serving.defaults import default_requests
from serving.flags import OPTIONS, translate


def mistakes(**given: Any) -> list[str]:
    return [str(problem) for problem in translate(given).problems]


def test_they_are_no_options_of_penstock() -> None:
    assert not {option.name for option in OPTIONS} & {option.name for option in run_options()}


@pytest.mark.parametrize(
    ("given", "router"),
    [
        ({}, None),
        ({"request_routing_policy": "RR"}, "RR"),
        ({"request_routing_policy": "CUSTOM", "router": "mine:Router"}, "mine:Router"),
        ({"router": "RAND"}, "RAND"),
        ({"router": "RAND", "request_routing_policy": "RAND"}, "RAND"),
    ],
)
def test_both_names_of_the_router(given: dict[str, Any], router: str | None) -> None:
    translation = translate({"dtype": "fp8", "run_id": None} | given)
    assert translation.options == {"dtype": "fp8", "router": router, "engine_overhead": "none"}
    assert not translation.problems
    assert not translation.notices


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"request_routing_policy": "CUSTOM"},
            "--request-routing-policy: CUSTOM needs --router module:Class",
        ),
        (
            {"request_routing_policy": "RR", "router": "LOAD"},
            "--router: 'LOAD' contradicts --request-routing-policy RR",
        ),
        (
            {"request_routing_policy": "ROUND"},
            "--request-routing-policy: must be 'LOAD', 'RR', 'RAND' or 'CUSTOM', not 'ROUND'; did you mean 'RAND'?",
        ),
        (
            {"network_backend": "ns3"},
            (
                "--network-backend: ns3 is not simulated, nor does it run in LLMServingSim: the network is "
                "'analytical'; shared_node_links of a cluster config lets hops contend"
            ),
        ),
        (
            {"skip_prefill": True},
            "--skip-prefill: runs without prefill are not simulated: LLMServingSim runs the prompts too, unmeasured",
        ),
    ],
)
def test_what_would_change_the_result_is_refused(given: dict[str, Any], message: str) -> None:
    assert mistakes(**given) == [message]


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistakes(skip_prefill=True, expert_routing_policy="CUSTOM", network_backend="astra")) == 3


def test_what_changes_nothing_is_noted() -> None:
    given = {"expert_routing_policy": "RR", "run_id": "x", "enable_block_copy": True, "cleanup_inputs": False}
    translation = translate(given)
    assert not translation.problems
    assert [notice.partition(":")[0] for notice in translation.notices] == [
        "--enable-block-copy",
        "--expert-routing-policy",
        "--cleanup-inputs",
    ]
    assert translation.run_id == "x"


@pytest.mark.parametrize("policy", ["BALANCED", "RAND"])
def test_what_means_the_same_is_not_noted(policy: str) -> None:
    assert not translate({"expert_routing_policy": policy, "run_id": "x"}).notices


def test_default_requests_are_sixteen_for_each_instance_that_takes_prompts(tmp_path: Path) -> None:
    node = {"instances": [{"pd_type": "prefill"}, {"pd_type": "decode"}, {}]}
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"nodes": [node, node]}))
    workload = default_requests(str(path))
    assert len(workload) == 16 * 4
    assert set(workload.input_tokens.tolist()) == set(workload.output_tokens.tolist()) == {64}
    assert len(default_requests(None)) == 16


def test_the_script_runs_where_serving_is_another_package(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__main__.py").write_text("raise SystemExit('theirs')\n")
    # As pip writes a script: the working directory is not on the path.
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "penstock-serving"
    script.write_text("from serving.__main__ import script\nscript()\n")
    cluster = str(repository / "configs/cluster/single_node_pp_instance.json")
    options = ["--cluster-config", cluster, "--num-reqs", "2", "--request-routing-policy", "RR"]
    options += ["--output", "{run_id}.csv", "--run-id", "one"]
    done = subprocess.run(
        [sys.executable, str(script), *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "one.csv").is_file()
