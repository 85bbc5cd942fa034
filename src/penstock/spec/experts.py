"""How the routed experts of a mixture are shared out over NPUs, loaded and reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Placement = Literal["linear", "round_robin"]
All2AllBackend = Literal["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"]

ALL2ALL_BACKENDS: tuple[All2AllBackend, ...] = (
    "allgather_reducescatter",
    "deepep_high_throughput",
    "deepep_low_latency",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertOptions:
    """vLLM's options of expert parallelism, resolved.

    ``ep_size`` is over how many places the experts of a layer are shared out, each place being (dp_size x tp_size) /
    ep_size NPUs that split its experts. vLLM has dp_size x tp_size places (expert parallelism) or 1.
    ``redundant_experts`` are copies in addition to a layer's experts (``--eplb-config num_redundant_experts``);
    ``load_balancing`` (``--enable-eplb``) places experts and copies by their load, else ``placement`` by their
    number: contiguous runs, or dealt one by one. ``popularity`` is the share of the routed tokens that each expert
    gets: "uniform", "power_law(A)" (the n-th most popular expert in proportion to n**-A, which expert that is being
    drawn with a seed), or one number per expert in proportion. ``count_exchange_ns`` is the all-reduce of token
    counts between the ranks' hosts before each forward. ``max_graph_tokens`` is the largest captured CUDA graph, 0
    none, None vLLM's default for ``max_num_seqs``.
    """

    ep_size: int = 1
    redundant_experts: int = 0
    load_balancing: bool = False
    placement: Placement = "linear"
    backend: All2AllBackend = "allgather_reducescatter"
    popularity: str | tuple[float, ...] = "uniform"
    count_exchange_ns: int = 200_000
    max_graph_tokens: int | None = None
