"""What is said of instances that serve parts of requests, and of tiers, when it makes no sense."""

from __future__ import annotations

from typing import Any

import pytest

from kv_clusters import cluster, instance
from penstock.errors import UserError
from penstock.spec.load import load_cluster


def only_problem(config: dict[str, Any], **flags: Any) -> str:
    with pytest.raises(UserError) as error:
        load_cluster(config, flags)
    (problem,) = error.value.problems
    return str(problem)


PREFILL, DECODE = instance(pd_type="prefill"), instance(pd_type="decode")


def test_roles_and_what_they_share_are_read():
    spec = load_cluster(cluster(PREFILL, DECODE, kv_transfer={"proxy_ns": 5, "kv_lease_duration": 2}))
    assert [one.pd_type for one in spec.instances] == ["prefill", "decode"]
    assert (spec.kv_transfer.proxy_ns, spec.kv_transfer.lease_s) == (5, 2)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (cluster(PREFILL), "no decode instance"),
        (cluster(DECODE), "no prefill instance"),
        (cluster(PREFILL, DECODE, instance()), "must be prefill or decode"),
        (cluster(PREFILL, {**DECODE, "model_name": "meta-llama/Llama-3.1-70B"}), "KV fits no other model"),
        (cluster(PREFILL, {**DECODE, "block_size": 32}), "block_size"),
        (cluster(PREFILL, {**DECODE, "kv_cache_dtype": "fp8"}), "another type"),
        (
            cluster(
                {**PREFILL, "kv_offloading": {"shared": "node"}},
                {**DECODE, "kv_offloading": {"shared": "node", "eviction_policy": "arc"}},
            ),
            "kv_offloading: differs from that of instance 0, with which it shares a tier of KV",
        ),
        (cluster(PREFILL, DECODE, kv_transfer={"kind": "push", "proxy_ns": 1}), "needs kind 'pull'"),
        (
            cluster(PREFILL, DECODE, kv_transfer={"kind": "push", "read_failure_rate": 0.1}),
            "needs kind 'pull'",
        ),
        (cluster(PREFILL, DECODE, kv_transfer={"kv_load_failure_policy": "fail"}), "needs read_failure_rate"),
        (cluster(PREFILL, DECODE, kv_transfer={"read_failure_rate": 1.5}), "read_failure_rate: must be"),
        (cluster(PREFILL, DECODE, kv_transfer={"num_reserved_decode_tokens": 1}), "needs kind 'push'"),
        (
            cluster(PREFILL, {**DECODE, "placement": {"default": {"kv_loc": "cpu"}}}),
            "placement: KV outside of the NPUs (kv_loc) is not moved",
        ),
        (
            cluster(instance(kv_offloading={}, placement={"default": {"kv_loc": "cpu"}})),
            "leave it on the NPUs, or leave out kv_offloading",
        ),
        (cluster(PREFILL, DECODE, kv_transfer={"policy": "conditional"}), "needs max_local_prefill_length"),
        (cluster(PREFILL, DECODE, kv_transfer={"max_prefill_queue_size": 1}), "needs policy 'conditional'"),
        (cluster(instance(), kv_transfer={}), "no prefill and decode instances"),
        (cluster(instance(kv_offloading={"cpu_gb": 0})), "a tier of size 0"),
        (cluster(instance(kv_offloading={"shared": "cluster"})), "host memory is a node's"),
        (cluster(instance(kv_offloading={"store_gb": 4})), "store_gb: needs a store: cxl or network"),
        (cluster(instance(kv_offloading={"store": "network", "store_gb": 4})), "needs store_gb_per_s"),
        (cluster(instance(kv_offloading={"store": "network", "store_gb_per_s": 4})), "needs store_gb"),
        (cluster(instance(kv_offloading={"store": "cxl"})), "the cluster a cxl_mem with mem_bw"),
        (
            cluster(
                instance(kv_offloading={"shared": "node"}),
                instance(kv_offloading={"shared": "node"}, block_size=32),
            ),
            "block_size: differs from that of instance 0, with which it shares a tier of KV",
        ),
    ],
)
def test_one_sentence_for_each_mistake(config: dict[str, Any], sentence: str):
    assert sentence in only_problem(config)


def test_a_tier_needs_a_speed():
    config = cluster(instance(kv_offloading={"cpu_gb": 4}))
    del config["nodes"][0]["cpu_mem"]
    assert "needs d2h_gb_per_s" in only_problem(config)


CXL = {"mem_size": 64, "mem_bw": 32, "mem_latency": 250, "num_devices": 2}


@pytest.mark.parametrize("storage", ["CPU", "CXL"])
@pytest.mark.parametrize("shared", [False, True])
def test_llmservingsim_s_prefix_flags_are_tiers(storage: str, *, shared: bool):
    config = cluster(instance(), instance(), cxl_mem=CXL)
    spec = load_cluster(config, {"prefix_storage": storage, "enable_prefix_sharing": shared})
    for one in spec.instances:
        assert one.tier is not None
        assert (one.tier.blocks_per_chunk, one.tier.loads_first) == (16, True)
        assert one.tier.store_bytes_per_s == (None if storage == "CPU" else 64 * 2**30)
        assert one.tier.store_latency_ns == (0 if storage == "CPU" else 250)
        everyone = "node" if storage == "CPU" else "cluster"
        assert one.tier.shared == (everyone if shared else "instance")
        size = {("CPU", False): 256, ("CPU", True): 512}.get((storage, shared), 128)
        assert one.tier.size_bytes == size * 2**30
    assert any("--prefix-storage is kv_offloading with load sync" in one for one in spec.notices)
    assert any("cxl_mem" in one for one in spec.notices) is (storage == "CPU")


def test_what_is_shared_must_be_there():
    assert "needs prefix_storage CPU or CXL" in only_problem(cluster(instance()), enable_prefix_sharing=True)


def test_every_instance_of_a_node_gets_its_part_of_host_memory():
    spec = load_cluster(cluster(instance(kv_offloading={}), instance(kv_offloading={})))
    tiers = [one.tier for one in spec.instances]
    assert all(tier is not None and tier.size_bytes == 256 * 2**30 for tier in tiers)
    assert not any("cpu_mem" in remark for remark in spec.remarks)
