"""One layer's mixture of experts: router, routed experts on the slowest rank, shared experts beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.cost.bundle import BundleAddress
from penstock.cost.efficiency import packaged_efficiency
from penstock.cost.experts.measured import find_moe_table, measured_experts
from penstock.cost.experts.moe_csv import read_moe_csv
from penstock.cost.experts.routing import Routing, route
from penstock.cost.experts.times import ExpertShape, ExpertTimes, RooflineExperts
from penstock.cost.kernels import Gemm, Stream
from penstock.cost.question import CostQuestion
from penstock.cost.roofline import gemm_us, hardware_rates, stream_us, token_grid
from penstock.cost.sources import bundle_directory
from penstock.cost.tables import Curve, FloatArray
from penstock.cost.weights import Shard, activation_bytes, weight_bytes
from penstock.errors import UserError
from penstock.spec.experts import ExpertOptions
from penstock.spec.hardware import find_hardware
from penstock.spec.layers import MoeMlp

SHARED_BESIDE_TOKENS = 256
"""Up to this many tokens of a rank the shared experts run beside the routed ones on a second stream (vLLM
``fused_moe/layer.py``, ``VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD``)."""


_MOST_RANKS_TOLD = 32


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """``routed`` is over the tokens of all replicas, ``shared`` and ``router`` over a replica's own. A curve is None
    where the layer has no such part, or another one includes it."""

    routed: Curve
    shared: Curve | None
    router: Curve | None
    routing: Routing
    basis: tuple[str, ...]

    def alone_us(self, tokens: FloatArray) -> FloatArray:
        """The layer of a replica that shares its experts with no other, microseconds at ``tokens``."""
        return self.joined_us(self.routed.at(tokens), tokens)

    def joined_us(self, routed_us: FloatArray, own: FloatArray) -> FloatArray:
        """Routed experts, whose time is known, with what a replica of ``own`` tokens does around them."""
        times = routed_us
        if self.shared is not None:
            shared = self.shared.at(own)
            beside = np.maximum(times, shared)
            times = np.where(own <= SHARED_BESIDE_TOKENS, beside, times + shared)
        return times if self.router is None else times + self.router.at(own)


def expert_layer(
    question: CostQuestion, moe: MoeMlp, shard: Shard, options: ExpertOptions, profile_root: Path | None
) -> ExpertLayer:
    """The layer by the best source at hand: ``moe.csv`` of the model's bundle, AIConfigurator's table of the chip under
    ``profile_root``, the roofline.

    Raises:
        UserError: the hardware is unknown and has no measured experts, or a file is broken.
    """
    times, has_router, basis = _times(question, moe, shard, profile_root)
    routing = route(moe, shard, options)
    sizes = _sizes(question.max_tokens * shard.dp_size)
    pairs, experts = routing.pairs(sizes), routing.experts(sizes)
    by_rank = times.rank_us(pairs.ravel(), experts.ravel()).reshape(pairs.shape)
    own = _own_parts(question, moe, shard, not has_router)
    return ExpertLayer(
        routed=Curve(sizes, by_rank.max(axis=0)),
        shared=own.get("shared"),
        router=own.get("router"),
        routing=routing,
        basis=(basis, _routing_basis(moe, shard, options, routing)),
    )


def _sizes(most: int) -> FloatArray:
    edges = [float(SHARED_BESIDE_TOKENS), SHARED_BESIDE_TOKENS + 1.0]
    return np.unique(np.concatenate([token_grid(most), edges]))


def _times(
    question: CostQuestion, moe: MoeMlp, shard: Shard, profile_root: Path | None
) -> tuple[ExpertTimes, bool, str]:
    """A source, whether its times include the router, and what it is."""
    dtype = question.model.expert_dtype or question.dtype
    bundle = None if profile_root is None else bundle_directory(question, profile_root)
    if bundle is not None:
        path = BundleAddress(bundle, 1).tables / "moe.csv"
        if path.is_file():
            grid = read_moe_csv(path, moe.experts_per_token, 1.0 / shard.expert_split)
            split = "" if shard.expert_split == 1 else f", each expert split over {shard.expert_split} ranks"
            return grid, True, f"experts: measured profile {path}, by pairs on the slowest rank{split}"
    hardware = find_hardware(question.hardware)
    if hardware is None:
        raise UserError(
            f"no experts measured for '{question.hardware}' / {question.model.name} (moe.csv in a bundle under "
            "--profile-root), and the hardware is not in the catalogue, so there is nothing to estimate from"
        )
    shape = ExpertShape(
        hidden=question.model.hidden_size,
        width=moe.intermediate_size // shard.expert_split,
        weight_bytes=weight_bytes(dtype),
        activation_bytes=activation_bytes(question.dtype),
    )
    rates = hardware_rates(hardware, dtype)
    table = None if profile_root is None else find_moe_table(profile_root, question.hardware)
    if table is not None:
        found = measured_experts(table, moe, dtype, (shape, shard.expert_split, shard.ep_size), rates)
        if found is not None:
            return found[0], False, found[1]
    efficiency = packaged_efficiency()
    basis = (
        f"experts: no measurement, the roofline of {hardware.label} at the efficiency of its dense matrix "
        "multiplications"
    )
    return RooflineExperts(shape, rates, efficiency), False, basis


def _own_parts(question: CostQuestion, moe: MoeMlp, shard: Shard, with_router: bool) -> dict[str, Curve]:
    """Router and shared experts by the roofline of the chip; without one in the catalogue they cost nothing."""
    hardware = find_hardware(question.hardware)
    parts: dict[str, Curve] = {}
    if hardware is None:
        return parts
    efficiency = packaged_efficiency()
    hidden, wide = question.model.hidden_size, activation_bytes(question.dtype)
    sizes = _sizes(question.max_tokens)
    if with_router:
        rates = hardware_rates(hardware, "bfloat16")
        us = gemm_us(Gemm(hidden, moe.num_experts, wide, wide), sizes, rates, efficiency)
        us = us + stream_us(Stream(6.0 * moe.num_experts), "stream", sizes, (rates, efficiency))
        parts["router"] = Curve(sizes, us)
    width = moe.shared_intermediate_size // shard.shared_split
    if width:
        rates = hardware_rates(hardware, question.dtype)
        weight = weight_bytes(question.dtype)
        us = gemm_us(Gemm(hidden, 2 * width, weight, wide), sizes, rates, efficiency)
        us = us + stream_us(Stream(3.0 * width * wide), "stream", sizes, (rates, efficiency))
        us = us + gemm_us(Gemm(width, hidden, weight, wide), sizes, rates, efficiency)
        parts["shared"] = Curve(sizes, us)
    return parts


def _routing_basis(moe: MoeMlp, shard: Shard, options: ExpertOptions, routing: Routing) -> str:
    popularity = options.popularity if isinstance(options.popularity, str) else "a given histogram"
    told = f"routing: random, {moe.experts_per_token} of {moe.num_experts} experts, popularity {popularity}"
    if shard.ep_size == 1:
        cut = f", each split over {shard.expert_split} ranks" if shard.expert_split > 1 else ""
        return told + cut
    placed = "balanced by load" if options.load_balancing else f"placed {options.placement}"
    copies = f", {shard.redundant_experts} copies" if shard.redundant_experts else ""
    return (
        f"{told}; shared out over {shard.ep_size} ranks, {placed}{copies}: the most loaded rank has "
        f"{routing.imbalance:.2f} times the mean{_loads(routing)}"
    )


def _loads(routing: Routing) -> str:
    """Pairs of a token by rank, where they differ and are few enough to read."""
    sums = [float(load.sum()) for load in routing.loads]
    if len(sums) > _MOST_RANKS_TOLD or max(sums) - min(sums) < 1e-6:
        return ""
    return f" (pairs of a token by rank: {', '.join(f'{one:.2f}' for one in sums)})"
