"""Uneven micro-batches under vLLM's rule, and what a cap on decodes does about them (vllm#57433).

    python examples/decode_cap.py

The published setting is a mixture of experts on B200 GPUs at TP8 x PP4, layers 25, 25, 25, 18, ``max_num_seqs`` 32:
capping all requests of a step cost 8.21%, capping only its decodes at ceil(32 / 4) gained 22.95%. Mixtures of
experts are not simulated, so this is a like setting: a dense 70B model with the same shape of pipeline. What matters is
how much a decode step's time grows with its batch: by the experts that are touched there, by the context that is
read here. Two workloads:

- a burst meets an empty pipeline whose prefix cache holds a long common prompt; what each request adds to it fills
  the chunks so that the micro-batches start with 7, 13, 2 and 10 requests, and keep these sizes;
- 32 users in a closed loop with prompts of about 8,192 tokens: prefills are always on their way.
"""

from __future__ import annotations

from array import array

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


def cluster(policy: str) -> dict[str, object]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-70B",
        "hardware": "B200",
        "npu_mem": {"mem_size": 180, "mem_bw": 8000, "mem_latency": 0},
        "tp_size": 8,
        "pp_size": 4,
        "pp_layer_partition": [22, 22, 22, 14],
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


def serve(policy: str, requests: Workload, since_ns: int) -> tuple[float, str]:
    """Tokens per second that requests arriving from ``since_ns`` on generate, and the micro-batches half way."""
    batches = DecodeBatches()
    record = Simulation(load_cluster(cluster(policy)), requests, RunOptions(), sinks=[batches]).run()
    rows = record.requests.values()
    rows = rows[rows[:, REQUEST_COLUMNS.index("arrival_ns")] >= since_ns]
    seconds = (rows[:, REQUEST_COLUMNS.index("finish_ns")].max() - since_ns) / 1e9
    middle = len(batches.decodes) // 2
    sizes = "/".join(map(str, batches.decodes[middle : middle + len(GROUPS)]))
    return rows[:, REQUEST_COLUMNS.index("output_tokens")].sum() / seconds, sizes


def compare(title: str, requests: Workload, since_ns: int) -> None:
    natural = 0.0
    for policy in ("vllm", "all-cap", "decode-cap", "gllm", "sglang"):
        rate, sizes = serve(policy, requests, since_ns)
        natural = natural or rate
        change = f"{(rate / natural - 1) * 100:+.1f}%" if policy != "vllm" else ""
        print(f"{title:<22} {policy:<11} {rate:>8.0f} {change:>8} {PUBLISHED.get(policy, ''):>10}  {sizes}")


def main() -> None:
    print(f"{'workload':<22} {'policy':<11} {'tokens/s':>8} {'change':>8} {'published':>10}  decodes a step")
    for context in (8192, 32768, 65536, 114688):
        compare(f"burst, {context} tokens", burst(context), BURST_NS)
    compare("closed loop, 8192", closed_loop(), 0)


if __name__ == "__main__":
    main()
