"""Bytes that an instance's steps move over links: all ranks' together, for the energy of moving them."""

from __future__ import annotations

from penstock.cost.weights import activation_bytes
from penstock.spec.cluster import InstanceSpec
from penstock.spec.layers import MoeMlp


def link_bytes_per_token(instance: InstanceSpec) -> float:
    """What a token of a step moves, summed over the links of all ranks and stages.

    A ring all-reduce of b bytes over p ranks moves 2 (p - 1) b: each rank sends 2 (p - 1) / p of it. A hop moves its
    tensors once, and gathers them over the receiver's ranks. In a data-parallel group with experts a token's row goes
    to every other rank and back (all-gather and reduce-scatter), or to those of its experts (DeepEP).
    """
    model, ranks = instance.model, instance.tp_size
    row = model.hidden_size * activation_bytes(instance.dtype)
    moves = 2 * 2.0 * (ranks - 1) * model.num_layers
    moves += (instance.pp_size - 1) * instance.activation_tensors * (1 + ranks - 1)
    if instance.in_lockstep:
        others = instance.tp_size * instance.dp_size - 1
        for group in model.layers:
            if isinstance(group.kind.mlp, MoeMlp):
                reached = others
                if instance.experts.backend != "allgather_reducescatter":
                    reached = min(group.kind.mlp.experts_per_token, others)
                moves += 2.0 * reached * group.count
    return moves * row
