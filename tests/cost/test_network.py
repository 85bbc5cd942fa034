from __future__ import annotations

import numpy as np
import pytest
from tests.cost.build import TINY, make_cluster, make_instance

from penstock.cost.compile import compile_cost
from penstock.cost.network import Link, inner_link, outer_link
from penstock.cost.step_cost import StepShape
from penstock.spec.cluster import LinkSpec

LINK = inner_link(LinkSpec(bandwidth_gb_per_s=(16.0,), latency_ns=(20000.0,)))


def test_a_message_takes_latency_and_bytes_over_two_to_the_thirty() -> None:
    # 16 GB/s are 17.179869184 bytes/ns: 64 tokens x 4096 x 2 bytes x 2 tensors = 1 MiB take 61035.15625 ns.
    assert LINK.message_ns(1 << 20) == 20000 + 61035
    assert LINK.messages_ns(np.array([0, 1 << 20])).tolist() == [20000, 81035]
    assert LINK.occupancies_ns(np.array([0, 1 << 20])).tolist() == [0, 61035]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (1, 0),
        (2, 2 * (20000 + 30517)),  # 2 steps of 524288 bytes: 30517.578 ns
        (4, 6 * (20000 + 15258)),  # 6 steps of 262144 bytes: 15258.789 ns
        (3, 4 * (20000 + 20345)),  # 4 steps of 349525 bytes: 20345.0 ns
    ],
)
def test_ring_all_reduce_is_astra_sims(ranks: int, expected: int) -> None:
    assert LINK.all_reduce_ns(1 << 20, ranks) == expected


def test_ring_all_gather_has_half_the_steps() -> None:
    assert LINK.all_gathers_ns(np.array([1 << 20]), 4).tolist() == [3 * (20000 + 15258)]
    assert LINK.all_gathers_ns(np.array([1 << 20]), 1).tolist() == [0]


def test_inner_and_outer_dimensions() -> None:
    spec = LinkSpec(bandwidth_gb_per_s=(100.0, 10.0), latency_ns=(1000.0, 5000.0))
    assert inner_link(spec).latency_ns == 1000
    assert outer_link(spec).message_ns(0) == 5000
    assert inner_link(spec).describe() == "100 GB/s, 1 us"


def test_hop_is_cut_by_tp_and_gathered_at_the_receiver() -> None:
    instance = make_instance(tp_size=2)
    cost = compile_cost(instance, make_cluster(instance), TINY.cut((2, 2)), None)
    tensor = 64 * 1024 * 2
    sent = LINK.message_ns(2 * tensor // 2)
    gathered = 2 * LINK.message_ns(tensor // 2)
    assert cost.hops[0].arrival_ns[64] == sent + gathered
    assert cost.hops[0].occupancy_ns[64] == int(2 * tensor // 2 / LINK.bytes_per_ns)
    assert len(cost.hops[0].arrival_ns) == 513


def test_all_reduces_stand_in_every_layer() -> None:
    instance = make_instance(tp_size=2)
    slow = compile_cost(instance, make_cluster(instance), TINY.cut((1, 3)), None).stage
    free = compile_cost(instance, make_cluster(instance, (1e9,), (0.0,)), TINY.cut((1, 3)), None).stage
    step = StepShape.of_decodes(8, 100)
    more = [b - a for a, b in zip(free.stage_ns(step), slow.stage_ns(step), strict=True)]
    each = 2 * LINK.all_reduce_ns(8 * 1024 * 2, 2)
    assert more == [each, 3 * each]


def test_placement_decides_which_dimension_a_hop_takes() -> None:
    instance = make_instance(pp_size=4, placement_nodes=(0, 0, 1, 1))
    cluster = make_cluster(instance, (100.0, 10.0), (1000.0, 5000.0))
    cost = compile_cost(instance, cluster, TINY.cut((1, 1, 1, 1)), None)
    near, far = inner_link(cluster.link), outer_link(cluster.link)
    size = 2 * 32 * 1024 * 2
    assert [hop.arrival_ns[32] for hop in cost.hops] == [
        near.message_ns(size),
        far.message_ns(size),
        near.message_ns(size),
    ]
    assert cost.token_return_ns[8] == far.message_ns(32)


def test_tokens_return_at_once_without_a_pipeline() -> None:
    instance = make_instance(pp_size=1)
    cost = compile_cost(instance, make_cluster(instance), TINY.cut((4,)), None)
    assert set(cost.token_return_ns) == {0}
    assert len(cost.token_return_ns) == 129
    assert cost.hops == ()


def test_a_link_describes_fractions() -> None:
    assert Link(bytes_per_ns=1.073741824, latency_ns=500.0).describe() == "1 GB/s, 0.5 us"


def test_a_measured_class_gives_the_published_points_back() -> None:
    """DGX A100 across nodes: 2 KB in 24 us, 67 MB in 8.59 ms; DGX H100 inside: 5 us and 0.193 ms."""
    spec = LinkSpec(
        bandwidth_gb_per_s=(1.0, 1.0), latency_ns=(0.0, 0.0), classes=("nvlink4", "ethernet-a100")
    )
    inside, across = inner_link(spec), outer_link(spec)
    assert inside.message_ns(2048) == pytest.approx(5000, rel=0.1)
    assert inside.message_ns(67_108_864) == pytest.approx(193_000, rel=0.05)
    assert across.message_ns(2048) == pytest.approx(24_000, rel=0.1)
    assert across.message_ns(67_108_864) == pytest.approx(8_590_000, rel=0.05)
    assert across.message_ns(2 * 67_108_864) == pytest.approx(2 * 8_590_000, rel=0.1)
    assert inside.all_reduce_ns(67_108_864, 8) == pytest.approx(322_000, rel=0.1)
    assert inside.all_reduce_ns(1 << 20, 3) == 4 * inside.message_ns((1 << 20) // 3)
    assert inside.describe() == "measured link class nvlink4"
    sizes = np.array([4096, 1 << 20])
    assert inside.all_reduces_ns(sizes, 4).tolist() == [inside.all_reduce_ns(int(size), 4) for size in sizes]


def test_a_config_names_its_link_classes() -> None:
    from tests.validate.test_measured import CLUSTER

    from penstock.errors import UserError
    from penstock.spec.load import load_cluster

    given = {**CLUSTER, "link_bw": [16, 4], "link_class": ["nvlink3", None]}
    assert load_cluster(given).link.classes == ("nvlink3", None)
    assert load_cluster({**CLUSTER, "link_class": "nvlink4"}).link.classes == ("nvlink4",)
    with pytest.raises(UserError, match="unknown link class 'nvlink5'; did you mean"):
        load_cluster({**CLUSTER, "link_class": "nvlink5"})
    with pytest.raises(UserError, match="has 2 network dimensions where link_bw has 1"):
        load_cluster({**CLUSTER, "link_class": ["nvlink3", None]})
