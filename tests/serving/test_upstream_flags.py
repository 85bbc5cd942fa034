"""Every option of LLMServingSim's four command lines stands on the page for its users."""

from __future__ import annotations

from pathlib import Path

import pytest

SERVING = """cluster-config network-backend max-num-seqs max-num-batched-tokens long-prefill-token-threshold
    enable-chunked-prefill npu-memory-utilization reserve-full-isl block-size skip-prefill request-routing-policy
    expert-routing-policy enable-block-copy enable-prefix-caching enable-prefix-sharing prefix-storage
    enable-local-offloading enable-attn-offloading enable-sub-batch-interleaving dataset num-reqs output run-id
    inputs-root cleanup-inputs log-interval log-level dtype kv-cache-dtype"""
BENCH = """model dataset output-dir tensor-parallel-size data-parallel-size enable-expert-parallel max-num-seqs
    max-num-batched-tokens max-model-len dtype kv-cache-dtype seed num-reqs tick-seconds log-level bench-dir sim-csv
    sim-log output-subdir prefix title"""
PROFILER = """hardware tp category variant dtype kv-cache-dtype max-num-batched-tokens max-num-seqs attention-max-kv
    attention-chunk-factor attention-kv-factor measurement-iterations skip-skew only-skew skew-n-factor skew-pc-factor
    skew-kp-factor skew-kvs-factor force out-root model-config-root log-level silent verbose"""
GENERATORS = """model num-reqs sps output source seed first-arrival-sec min-input-toks max-input-toks min-output-toks
    max-output-toks max-kv-toks max-sessions fix-len fix-input-length fix-output-length pulse pulse-n pulse-delay-sec
    pulse-poisson vllm-*"""


@pytest.mark.parametrize("names", [SERVING, BENCH, PROFILER, GENERATORS])
def test_every_option_is_on_the_page(names: str, repository: Path) -> None:
    page = (repository / "docs" / "from-llmservingsim.md").read_text(encoding="utf-8")
    assert [name for name in names.split() if f"--{name}" not in page] == []
