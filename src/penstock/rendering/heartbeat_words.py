"""The throughput log in LLMServingSim's words, for scripts that read its output (``bench validate --sim-log``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.rendering.heartbeat import Figures
from penstock.units import seconds


def llmservingsim_lines(end_ns: int, figures: Sequence[Figures]) -> Iterator[str]:
    """The lines of an interval that ends at ``end_ns``: rates of the whole cluster, then requests by instance."""
    prompt, decode = (sum(one.prompt_per_s for one in figures), sum(one.decode_per_s for one in figures))
    yield (
        f"[{seconds(end_ns):.1f}s] Avg prompt throughput: {prompt:.1f} tokens/s, "
        f"Avg generation throughput: {decode:.1f} tokens/s"
    )
    for one in figures:
        yield f"  Running Instance[{one.instance}]: {one.running} reqs, Waiting: {one.waiting} reqs"
