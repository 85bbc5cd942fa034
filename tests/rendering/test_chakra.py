"""Exported traces, read by the reader of Chakra's own package."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock.api import load_scenario, simulate
from penstock.cli.main import main
from penstock.cost.network import inner_link
from penstock.cost.weights import activation_bytes

CLUSTER = "configs/cluster/single_node_tp2_pp2_instance.json"
DATASET = "workloads/example_trace.jsonl"
STEPS = 6

pytest.importorskip("chakra.schema.protobuf.et_def_pb2", reason="mlc-chakra is not installed")
SCHEMA: Any = importlib.import_module("chakra.schema.protobuf.et_def_pb2")
READER: Any = importlib.import_module("chakra.src.third_party.utils.protolib")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(one) for one in arguments])
    return int(exit_.value.code or 0)


def read(path: Path) -> list[Any]:
    nodes: list[Any] = []
    with path.open("rb") as file:
        head = SCHEMA.GlobalMetadata()
        assert READER.decodeMessage(file, head)
        assert {one.name for one in head.attr} == {"schema", "input_file"}
        while True:
            node = SCHEMA.Node()
            if not READER.decodeMessage(file, node):
                return nodes
            nodes.append(node)


def attributes(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in node.attr:
        value = getattr(one, one.WhichOneof("value"))
        found[one.name] = list(value.values) if hasattr(value, "values") else value
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    folder = tmp_path_factory.mktemp("chakra")
    options = ("--dataset", DATASET, "--num-reqs", 8, "--steps", f"0:{STEPS}", "--output", folder)
    assert call("export", "chakra", CLUSTER, *options) == 0
    paths = sorted(folder.glob("llm.*.et"))
    assert [path.name for path in paths] == [f"llm.{npu}.et" for npu in range(4)]
    return [read(path) for path in paths]


def test_compute_and_bytes_are_the_runs(files: list[list[Any]]) -> None:
    scenario = load_scenario(CLUSTER, DATASET, {"num_reqs": 8})
    (instance,) = scenario.cluster.instances
    assert (instance.tp_size, instance.pp_size) == (2, 2)
    result = simulate(CLUSTER, DATASET, num_reqs=8)
    link = inner_link(scenario.cluster.link)
    row = instance.model.hidden_size * activation_bytes(instance.dtype)
    tokens = result.steps["tokens"].to_list()[:STEPS]
    reduces = 2 * instance.model.num_layers // 2  # per stage
    for stage in range(2):
        spans = result.stages.filter(stage=stage).head(STEPS)
        busy_ns = int((spans["end_ns"] - spans["start_ns"]).sum())
        in_rings = sum(reduces * link.all_reduce_ns(count * row, 2) for count in tokens)
        for npu in (2 * stage, 2 * stage + 1):
            nodes = files[npu]
            compute = [node for node in nodes if node.type == SCHEMA.COMP_NODE]
            assert sum(attributes(node)["duration_ns"] for node in compute) == busy_ns - in_rings
            micros = sum(node.duration_micros for node in compute)
            assert abs(1000 * micros - (busy_ns - in_rings)) <= 500
            collectives = [attributes(node) for node in nodes if node.type == SCHEMA.COMM_COLL_NODE]
            rings = [one for one in collectives if one["comm_type"] == SCHEMA.ALL_REDUCE]
            assert sum(one["comm_size"] for one in rings) == reduces * sum(tokens) * row
            assert all(one["involved_dim"] == [True, False] for one in collectives)
            sent = sum(attributes(node)["comm_size"] for node in nodes if node.type == SCHEMA.COMM_SEND_NODE)
            assert sent == (0 if stage else sum(2 * count * row // 2 for count in tokens))


def test_every_send_has_its_receive(files: list[list[Any]]) -> None:
    ends: Counter[tuple[Any, ...]] = Counter()
    for npu, nodes in enumerate(files):
        for node in nodes:
            if node.type in (SCHEMA.COMM_SEND_NODE, SCHEMA.COMM_RECV_NODE):
                at = attributes(node)
                assert npu == at["comm_src" if node.type == SCHEMA.COMM_SEND_NODE else "comm_dst"]
                key = (at["comm_tag"], at["comm_src"], at["comm_dst"], at["comm_size"])
                ends[key] += 1 if node.type == SCHEMA.COMM_SEND_NODE else -1
    assert len(ends) == 2 * STEPS
    assert not any(ends.values())


def test_nodes_are_a_chain_and_depend_on_what_is_there(files: list[list[Any]]) -> None:
    for nodes in files:
        assert [node.id for node in nodes] == list(range(len(nodes)))
        assert all(list(node.data_deps) == [node.id - 1] for node in nodes[1:])


def test_nanoseconds_for_llmservingsims_fork(tmp_path: Path) -> None:
    options = (
        "--dataset",
        DATASET,
        "--num-reqs",
        2,
        "--steps",
        "1:2",
        "--output",
        tmp_path,
        "--durations",
        "ns",
    )
    assert call("export", "chakra", CLUSTER, *options, "--name", "one") == 0
    compute = [node for node in read(tmp_path / "one.0.et") if node.type == SCHEMA.COMP_NODE]
    assert all(node.duration_micros == attributes(node)["duration_ns"] for node in compute)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "4:2"), "--steps: must be FROM:TO"),
        (("--durations", "ms"), "--durations: must be us or ns, not 'ms'"),
        (("--instance", 3), "--instance: there is no instance 3: there are 1"),
        (("--steps", "90000:90001"), "--steps: the run has"),
    ],
)
def test_mistakes(
    options: tuple[Any, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--dataset", DATASET, "--num-reqs", 2, "--output", tmp_path / "out")
    assert call("export", "chakra", CLUSTER, *arguments, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
