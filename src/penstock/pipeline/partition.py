"""Layers to stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from penstock.errors import UserError

_MOST_WORK = 400_000_000
"""Layers squared times stages squared: some seconds."""


def partition_layers(num_layers: int, pp_size: int) -> tuple[int, ...]:
    """vLLM's split (``distributed/utils.py: get_pp_indices``): the floor everywhere, and the remainder r
    one each to the stages before the last, from the last but one backwards. Kinds of layers make no difference.

    >>> partition_layers(61, 8)
    (7, 7, 8, 8, 8, 8, 8, 7)

    Raises:
        UserError: fewer layers than stages.
    """
    _check(num_layers, pp_size)
    layers = [num_layers // pp_size] * pp_size
    for position in range(num_layers % pp_size):
        layers[-2 - position] += 1
    return tuple(layers)


def balance_layers(layer_ns: Sequence[int], fixed_ns: Sequence[int]) -> tuple[int, ...]:
    """The split with the smallest slowest stage, then the smallest second slowest, and so on.

    Layer l costs ``layer_ns[l]``, stage s costs ``fixed_ns[s]`` (embedding on the first, lm_head on the last)
    beside its layers, and keeps one layer at least. Of splits that do equally well, the last but one stage gets the
    most layers, then the one before it, and so on, as in vLLM's rule.

    >>> balance_layers([10] * 32, [0, 0, 0, 20])
    (8, 9, 9, 6)
    >>> balance_layers([10, 10, 30, 30, 30], [0, 0])
    (3, 2)

    Raises:
        UserError: fewer layers than stages.
    """
    pp_size, num_layers = len(fixed_ns), len(layer_ns)
    _check(num_layers, pp_size)
    if num_layers * num_layers * pp_size * pp_size > _MOST_WORK:
        raise UserError(
            f"cannot balance {num_layers} layers over {pp_size} stages in seconds: give the layers of each stage"
        )
    before = list(accumulate(layer_ns, initial=0))
    # best[n]: how the first n layers fill the stages so far, as a key to be minimised. Its parts are the stage times,
    # descending, and the layers of each stage, latest stage first and negative.
    best: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {0: ((), ())}
    for stage, fixed in enumerate(fixed_ns):
        filled: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        rest = pp_size - 1 - stage
        last = not rest
        for start, (times, counts) in best.items():
            for stop in (num_layers,) if last else range(start + 1, num_layers - rest + 1):
                time = fixed + before[stop] - before[start]
                # The last stage's layers are what the others leave: as the last part of the key they decide nothing.
                dealt = (*counts, start - stop) if last else (start - stop, *counts)
                key = tuple(sorted((*times, time), reverse=True)), dealt
                if stop not in filled or key < filled[stop]:
                    filled[stop] = key
        best = filled
    _, dealt = best[num_layers]
    return tuple(-count for count in (*dealt[-2::-1], dealt[-1]))


def _check(num_layers: int, pp_size: int) -> None:
    if not 1 <= pp_size <= num_layers:
        raise UserError(f"cannot cut {num_layers} layers into {pp_size} stages: a stage needs a layer")
