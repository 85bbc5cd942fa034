"""One workload on six deployments: mean latencies, and how busy each pipeline stage is.

    python examples/first_results.py DATA            prints the table
    python examples/first_results.py DATA --write    and puts it into docs/first-results.md

DATA is a checkout of LLMServingSim's data with its ``workloads/`` and ``perf/``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import penstock
from penstock.rendering.summary import Distribution, InstanceSummary, RunSummary
from penstock.units import NS_PER_MS

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "first-results.md"
WORKLOAD = "workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
DEPLOYMENTS = {
    "tp 1": "single_node_single_instance",
    "pp 2": "single_node_pp_instance",
    "pp 4": "single_node_pp4_instance",
    "tp 2 x pp 2": "single_node_tp2_pp2_instance",
    "two instances": "single_node_two_instances",
    "two of tp 2 x pp 2": "single_node_two_instances_tp2_pp2",
}
HEAD = "| deployment | GPUs | TTFT ms | TPOT ms | latency ms | busy % by stage | bubble % by stage |"


def table(data: Path, num_requests: int = 0) -> str:
    """The results as Markdown; ``num_requests`` 0 means the whole workload."""
    lines = [HEAD, "|---|--:|--:|--:|--:|---|---|"]
    for name, config in DEPLOYMENTS.items():
        summary = penstock.simulate(
            REPOSITORY / f"configs/cluster/{config}.json",
            data / WORKLOAD,
            profile_root=data / "perf",
            dtype="bfloat16",
            num_reqs=num_requests,
            record="requests",
        ).summary
        lines.append(f"| {name} | {' | '.join(_cells(summary))} |")
    return "\n".join(lines) + "\n"


def _cells(summary: RunSummary) -> Iterator[str]:
    instances = summary.instances
    yield str(sum(one.tp_size * one.pp_size for one in instances))
    latency = summary.latency
    for distribution in (latency.ttft, latency.tpot, latency.latency):
        yield _mean_ms(distribution)
    yield "; ".join(_by_stage(one, "busy") for one in instances)
    yield "; ".join(_by_stage(one, "bubble") for one in instances)


def _mean_ms(distribution: Distribution | None) -> str:
    return "-" if distribution is None else f"{distribution.mean_ns / NS_PER_MS:,.1f}"


def _by_stage(instance: InstanceSummary, what: str) -> str:
    shares = (getattr(stage, what) for stage in instance.stages)
    return " / ".join("-" if share is None else f"{share:.1%}".rstrip("%") for share in shares)


def main() -> None:
    """See the module."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    text = table(Path(sys.argv[1]))
    print(text, end="")
    if "--write" in sys.argv[2:]:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(r"(?m)^\|.*\n(\|.*\n)*", lambda _: text, page, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
