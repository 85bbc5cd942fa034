"""The un-sharded lm_head: Qwen3-32B at pp 8 gains 6.65x in decode, not 8x (aiconfigurator#1459).

    python examples/published/lm_head.py

Published: seven stages of about 3.15 ms and a last one of 3.901 ms. The GPU and the batch are not published, so the
gain is shown over batches, on H200 (roofline) in fp8: a pipeline's rate is its slowest stage's, and lm_head with the
sampler stands on the last stage alone.
"""

from __future__ import annotations

from shapes import cluster

from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.spec.load import load_cluster

PUBLISHED_STAGES = (3.15,) * 7 + (3.901,)


def main() -> None:
    """Stage times and the gain, by batch."""
    spec = load_cluster(cluster("Qwen/Qwen3-32B", "H200", 141, pp_size=8, tp_size=1, dtype="fp8"))
    stage = build_instances(spec, None)[0].cost.stage
    print(f"{'batch':>6} {'stages 1-7':>11} {'last':>9} {'gain':>6}")
    for batch in (1, 16, 64, 128, 256):
        times = [ns / 1e6 for ns in stage.stage_ns(StepShape.of_decodes(batch, 2048))]
        print(f"{batch:>6} {times[1]:>8.3f} ms {times[-1]:>6.3f} ms {sum(times) / max(times):>5.2f}x")
    print(f"published stages: {sum(PUBLISHED_STAGES) / max(PUBLISHED_STAGES):.2f}x")


if __name__ == "__main__":
    main()
