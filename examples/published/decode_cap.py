"""Uneven micro-batches under vLLM's rule, and what a cap on decodes does about them (vllm#57433).

    python examples/published/decode_cap.py

The published setting is a mixture of experts on B200 GPUs at TP8 x PP4, layers 25, 25, 25, 18, ``max_num_seqs`` 32:
capping all requests of a step cost 8.21%, capping only its decodes at ceil(32 / 4) gained 22.95%. Neither the model
nor the workload is published. Here: Qwen3-235B-A22B with layers 25, 25, 25, 19, and Llama-3.1-70B with 22, 22, 22, 14
beside it. What matters is how much a decode step's time grows with its batch: by the experts that are touched, by the
context that is read. Two workloads:

- a burst meets an empty pipeline whose prefix cache holds a long common prompt; what each request adds to it fills
  the chunks so that the micro-batches start with 7, 13, 2 and 10 requests, and keep these sizes;
- 32 users in a closed loop with prompts of about 8,192 tokens: prefills are always on their way.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from pathlib import Path

import numpy as np

from penstock.engine.simulation import Simulation
from penstock.recording.records import REQUEST_COLUMNS, TurnChunk
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Call, Columns, Workload

CHUNK = 8192
GROUPS = (7, 13, 2, 10)
OUTPUT_TOKENS = 2048
BURST_NS = 60_000_000_000
PUBLISHED = {"all-cap": "-8.21%", "decode-cap": "+22.95%"}


def burst(context: int) -> Workload:
    """One request that fills the prefix cache, then 32 at once, in groups that fill a chunk each."""
    columns = Columns()
    shared = array("i", range(context))
    columns.add(0, Call(context + 1, 1, input_ids=shared + array("i", [-1])))
    number = 0
    for size in GROUPS:
        for _ in range(size):
            number += 1
            own = array("i", [-1 - number]) * (CHUNK // size)
            columns.add(BURST_NS, Call(context + len(own), OUTPUT_TOKENS, input_ids=shared + own))
    return Workload(columns, f"{number} requests over {context} shared tokens")


def closed_loop(seed: int = 0) -> Workload:
    """32 users, eight calls each, one after the other."""
    generator = np.random.default_rng(seed)
    columns = Columns()
    for _ in range(32):
        lengths = generator.uniform(0.8, 1.2, (8, 2)) * (8192, 1024)
        columns.add_session(0, [Call(int(prompt), int(answer)) for prompt, answer in lengths])
    return Workload(columns, "32 users in a closed loop")


def mixture() -> str:
    """Qwen3-235B-A22B's shape as a config in a temporary directory; returns its path."""
    shape = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "torch_dtype": "bfloat16",
        "hidden_size": 4096,
        "num_hidden_layers": 94,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
        "max_position_embeddings": 262144,
    }
    path = Path(tempfile.mkdtemp()) / "qwen3-235b-a22b.json"
    path.write_text(json.dumps(shape), encoding="utf-8")
    return str(path)


MODELS = {
    "Qwen3-235B-A22B": (mixture(), [25, 25, 25, 19]),
    "Llama-3.1-70B": ("meta-llama/Llama-3.1-70B", [22, 22, 22, 14]),
}


def cluster(model: str, policy: str) -> dict[str, object]:
    path, layers = MODELS[model]
    instance = {
        "model_name": path,
        "hardware": "B200",
        "npu_mem": {"mem_size": 180, "mem_bw": 8000, "mem_latency": 0},
        "tp_size": 8,
        "pp_size": 4,
        "pp_layer_partition": layers,
        "max_num_seqs": 32,
        "max_num_batched_tokens": CHUNK,
        "policy": policy,
    }
    node = {"num_instances": 1, "instances": [instance]}
    return {"num_nodes": 1, "link_bw": 400, "link_latency": 2000, "nodes": [node]}


class DecodeBatches:
    """Keeps how many decodes each step had."""

    def __init__(self) -> None:
        self.decodes: list[int] = []

    def accept(self, chunk: TurnChunk) -> None:
        self.decodes += chunk.column("decodes")[chunk.column("tokens") > 0].tolist()


def serve(model: str, policy: str, requests: Workload, since_ns: int) -> tuple[float, str]:
    """Tokens per second that requests arriving from ``since_ns`` on generate, and the micro-batches half way."""
    batches = DecodeBatches()
    record = Simulation(load_cluster(cluster(model, policy)), requests, RunOptions(), sinks=[batches]).run()
    rows = record.requests.values()
    rows = rows[rows[:, REQUEST_COLUMNS.index("arrival_ns")] >= since_ns]
    seconds = (rows[:, REQUEST_COLUMNS.index("finish_ns")].max() - since_ns) / 1e9
    middle = len(batches.decodes) // 2
    sizes = "/".join(map(str, batches.decodes[middle : middle + len(GROUPS)]))
    return rows[:, REQUEST_COLUMNS.index("output_tokens")].sum() / seconds, sizes


def compare(model: str, title: str, requests: Workload, since_ns: int) -> None:
    natural = 0.0
    for policy in ("vllm", "all-cap", "decode-cap", "gllm", "sglang"):
        rate, sizes = serve(model, policy, requests, since_ns)
        natural = natural or rate
        change = f"{(rate / natural - 1) * 100:+.1f}%" if policy != "vllm" else ""
        print(f"{title:<22} {policy:<11} {rate:>8.0f} {change:>8} {PUBLISHED.get(policy, ''):>10}  {sizes}")


def main() -> None:
    print(f"{'workload':<22} {'policy':<11} {'tokens/s':>8} {'change':>8} {'published':>10}  decodes a step")
    for model in MODELS:
        print(model)
        for context in (8192, 32768, 114688):
            compare(model, f"burst, {context} tokens", burst(context), BURST_NS)
        compare(model, "closed loop, 8192", closed_loop(), 0)


if __name__ == "__main__":
    main()
