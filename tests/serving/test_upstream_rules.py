"""LLMServingSim's rules over our kernel times give its shipped CSVs: what differs is what the rules say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.serving.upstream import DATA, compatible, needs_data, ours
from upstream.compare import by_rules
from upstream.faults import faults
from upstream.replay import token_times_ns
from upstream.runs import RUNS, Shipped, made_the_same
from upstream.step_rule import DUMMY, StepRule

from penstock.cost.compile import cost_question
from penstock.cost.compile_group import _kind
from penstock.cost.experts.layer import expert_layer
from penstock.cost.weights import shard_of
from penstock.spec.load import load_cluster

pytestmark = needs_data
BY_NAME = {run.name: run for run in RUNS}
WHOLE = [
    "single",
    "multi",
    "dual_prefix_cpu_mem_pool",
    "cxl",
    "pim",
    "pim_sub_batch",
    "pp",
    "tp_pp",
    "moe",
    "moe_pp",
]


def test_every_shipped_csv_is_among_the_runs() -> None:
    shipped = {path.name for path in (DATA / "outputs").glob("*.csv")}
    assert {f"example_{run.name}_run.csv" for run in RUNS} == shipped
    assert len(shipped) == 19


def both(run: Shipped, folder: Path) -> list[tuple[int, int]]:
    """(by its rules, in its CSV) of every number."""
    rows = run.rows(DATA)
    ruled = by_rules(run, rows, DATA, made_the_same(run.config, DATA, folder))
    return [
        pair for request, gaps in run.theirs(DATA).items() for pair in zip(ruled[request], gaps, strict=True)
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_every_number_of_the_csv_follows_from_its_rules(name: str, tmp_path: Path) -> None:
    pairs = both(BY_NAME[name], tmp_path)
    assert len(pairs) == 591
    assert [one for one, _ in pairs] == [other for _, other in pairs]


def test_with_prefill_apart_all_but_a_few_ns_do(tmp_path: Path) -> None:
    assert max(abs(one - other) for one, other in both(BY_NAME["pd"], tmp_path)) <= 5


def test_requests_that_never_meet_take_the_same_time() -> None:
    cluster = load_cluster(compatible("single_node_tp_pp_instance"))
    rule = StepRule(cluster, cluster.instances[0], DATA / "perf")
    row = {"instance id": 0, "input": 8, "output": 3, "arrival": 0, "queuing_delay": 0}
    alone = token_times_ns([[rule]], {0: row})[0]
    late = {**row, "arrival": 10**9}
    together = token_times_ns([[rule]], {0: row, 1: late})
    assert together[0] == alone
    assert [at - 10**9 for at in together[1]] == alone


@pytest.mark.parametrize(
    ("config", "more_ns"),
    [
        ("single_node_moe_single_instance", 0),
        # Slices and a gather behind the hop.
        ("single_node_moe_pp_instance", 20_020),
        ("single_node_moe_dp_tp_instance", 0),
        ("dual_node_moe_dp_ep_intra_inter_instance", 0),
    ],
)
def test_a_decode_alone_differs_by_its_experts_and_what_is_sent_for_them(config: str, more_ns: int) -> None:
    cluster = load_cluster(compatible(config), profile_root=DATA / "perf")
    one = cluster.instances[0]
    members = sum(one.dp_group is not None and other.dp_group == one.dp_group for other in cluster.instances)
    rule = StepRule(cluster, one, DATA / "perf")
    there = sum(rule.stages_ns([DUMMY], 1, 1)) + (rule.stages - 1) * rule.hop_ns(1)
    experts_there = rule.after_attention_ns(1)
    kind, layers = one.model.kinds[0], one.model.num_layers
    layer = expert_layer(
        cost_question(one, one.hardware, kind), kind.mlp, shard_of(one), one.experts, DATA / "perf"
    )
    experts = float(layer.alone_us(np.array([max(members, 1)]))[0]) * 1000
    exchange = 0
    if members:
        nodes = len({instance.node for instance in cluster.instances})
        group, _ = _kind(one, cluster, (one.hardware, kind, nodes), DATA / "perf")
        assert group.crossing is not None
        sent = int(group.around_ns(np.array([1]))[0] + group.crossing(np.array([members]), np.array([1]))[0])
        exchange = one.experts.count_exchange_ns * one.pp_size
    else:
        sent = 2 * rule.all_reduce_ns(1)
    named = layers * (experts + sent - experts_there) + exchange + more_ns
    times = ours(compatible(config)).token_times_ns(0)
    # A rounding of half a nanosecond in every layer.
    assert int(times[1] - times[0]) - there == pytest.approx(named, abs=layers)


def test_faults_show_in_its_files() -> None:
    flat, waits, nodes, turns = list(faults(DATA))[2:]
    assert "its first 27 ITLs are all 11,016,027 ns" in flat
    assert "to 1,000,000 ns" in waits
    assert "`npus_count: [1, 4]`" in nodes
    assert "ITLs of 7,926,956 ns, then of 15,834,364 ns" in turns
