"""A prompt beside decodes in one step, and each alone: what sharing a step saves.

    python examples/mixed_step.py

A chunk of 8,050 tokens and 200 decodes with 1,500 tokens of context each, Llama-3.1-8B in bf16 on one chip. In one step
both share the weights and add in attention, so it takes no less than the longer of the two and no more than their sum.
Chips with packaged fits of measured kernels, in which chunks and decodes were measured apart, then two that the
roofline estimates. No time of the host.
"""

from __future__ import annotations

from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.spec.load import load_cluster
from penstock.units import NS_PER_MS

TOKENS, DECODES, CONTEXT = 8050, 200, 1500
STEPS = (
    StepShape(prefill_tokens=TOKENS, prefill_context=0, sampled=1),
    StepShape.of_decodes(DECODES, CONTEXT),
    StepShape(TOKENS, 0, DECODES, DECODES * CONTEXT, CONTEXT, CONTEXT, DECODES + 1),
)
CHIPS = {"A100-80GB": 80, "L40S": 48, "H100": 80, "H200": 141, "B200": 180, "GH200": 96, "MI300X": 192}


def times_ms(hardware: str, memory_gb: int) -> tuple[list[float], str]:
    """Chunk, decodes and both on a chip, and what the times rest on."""
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": hardware,
        "npu_mem": {"mem_size": memory_gb, "mem_bw": 1000, "mem_latency": 0},
        "num_npus": 1,
        "tp_size": 1,
        "engine_overhead": "none",
    }
    node = {"num_instances": 1, "instances": [instance]}
    spec = load_cluster({"num_nodes": 1, "link_bw": 50, "link_latency": 10000, "nodes": [node]})
    cost = build_instances(spec, None)[0].cost
    basis = "measured kernels" if "packaged fit" in cost.basis[0] else "estimate"
    return [cost.stage.stage_ns(step)[0] / NS_PER_MS for step in STEPS], basis


def main() -> None:
    """A line for each chip."""
    print(f"{'ms':<10}{'chunk':>8}{'decodes':>9}{'both':>8}{'sum':>8}")
    for hardware, memory_gb in CHIPS.items():
        (chunk, decodes, both), basis = times_ms(hardware, memory_gb)
        print(f"{hardware:<10}{chunk:>8.1f}{decodes:>9.1f}{both:>8.1f}{chunk + decodes:>8.1f}  {basis}")


if __name__ == "__main__":
    main()
