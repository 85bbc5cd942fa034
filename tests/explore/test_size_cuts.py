"""The cuts of a question of size: what a pair of prefill and decode is given, and ranks of steps of any size."""

from __future__ import annotations

import json
from pathlib import Path

from fuzz.clusters import MIXTURE
from penstock.explore.design_point import Site
from penstock.explore.size_cuts import Asked, cuts_of
from penstock.explore.slo import parse_slo
from penstock.workload.generate import PRESETS, Recipe, generate
from penstock.workload.lengths import parse_lengths

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


def test_ranks_in_lock_step_are_estimated_with_every_budget(tmp_path: Path) -> None:
    model = tmp_path / "mixture.json"
    model.write_text(json.dumps(MIXTURE), encoding="utf-8")
    lengths = {"input_tokens": parse_lengths("fixed:200", ""), "output_tokens": parse_lengths("fixed:2", "")}
    asked = Asked(
        site=Site(model=str(model), gpus_per_node=8, networks={}, npu_mem={}, engine={}),
        rate_per_s=15.0,
        slo=parse_slo("ttft_p99<2s"),
        workload=generate(Recipe(num_requests=100, **lengths)),
        profile_root=None,
    )
    ranks = [cut for cut in cuts_of("H100", 4, asked).found if cut.point.dp > 1]
    assert {cut.point.max_num_batched_tokens for cut in ranks} == {4096}  # of the model's context
