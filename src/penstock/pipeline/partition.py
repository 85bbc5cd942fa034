"""Layers to stages."""

from __future__ import annotations

from penstock.errors import UserError


def partition_layers(num_layers: int, pp_size: int) -> tuple[int, ...]:
    """vLLM's split (``distributed/utils.py: get_pp_indices``): the floor everywhere, and the remainder r
    one each to the stages before the last, from the last but one backwards.

    >>> partition_layers(61, 8)
    (7, 7, 8, 8, 8, 8, 8, 7)

    Raises:
        UserError: fewer layers than stages.
    """
    if not 1 <= pp_size <= num_layers:
        raise UserError(f"cannot cut {num_layers} layers into {pp_size} stages: a stage needs a layer")
    layers = [num_layers // pp_size] * pp_size
    for position in range(num_layers % pp_size):
        layers[-2 - position] += 1
    return tuple(layers)


def balance_layers(per_layer_ns: float, fixed_ns: tuple[float, ...], num_layers: int) -> tuple[int, ...]:
    """The split with the smallest slowest stage, where stage s costs ``fixed_ns[s]`` (embedding on the
    first, lm_head on the last) and ``per_layer_ns`` for each of its layers. Every stage keeps one layer.

    Layers are dealt one at a time to the stage that is then the fastest, which is optimal for identical
    layers; ties go to the later stage but the last, as in vLLM's rule.
    """
    pp_size = len(fixed_ns)
    if not 1 <= pp_size <= num_layers:
        raise UserError(f"cannot cut {num_layers} layers into {pp_size} stages: a stage needs a layer")
    layers = [1] * pp_size
    preference = [*range(pp_size - 2, -1, -1), pp_size - 1]
    for _ in range(num_layers - pp_size):
        chosen = min(preference, key=lambda stage: fixed_ns[stage] + (layers[stage] + 1) * per_layer_ns)
        layers[chosen] += 1
    return tuple(layers)
