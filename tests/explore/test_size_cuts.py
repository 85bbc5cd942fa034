"""The cuts of a question of size: what a pair of prefill and decode is given."""

from __future__ import annotations

from penstock.explore.design_point import Site
from penstock.explore.size_cuts import Asked, cuts_of
from penstock.explore.slo import parse_slo
from penstock.workload.generate import PRESETS, Recipe, generate

CHAT = PRESETS["sharegpt"]


def test_a_pair_has_the_places_of_its_decoding_side_and_the_chunks_of_its_prompts() -> None:
    workload = generate(
        Recipe(num_requests=1000, input_tokens=CHAT.input_tokens, output_tokens=CHAT.output_tokens)
    )
    site = Site(model="meta-llama/Llama-3.1-70B", gpus_per_node=8, networks={}, npu_mem={}, engine={})
    asked = Asked(
        site=site,
        rate_per_s=15.0,
        slo=parse_slo("ttft_p99<2s,tpot_p99<60ms"),
        workload=workload,
        profile_root=None,
    )
    cuts = cuts_of("H100", 8, asked)
    (pair,) = [cut for cut in cuts.found if cut.point.prefill_replicas]
    whole = next(
        cut
        for cut in cuts.found
        if not cut.point.prefill_replicas and (cut.point.tp, cut.point.pp) == (pair.point.tp, pair.point.pp)
    )
    assert pair.capacity_per_s > whole.capacity_per_s
    assert (pair.point.max_num_seqs or 0) >= (whole.point.max_num_seqs or 0)
    assert (pair.point.max_num_batched_tokens or 0) >= (pair.point.max_num_seqs or 0)
    assert pair.replicas(15.0).gpus <= whole.replicas(15.0).gpus
