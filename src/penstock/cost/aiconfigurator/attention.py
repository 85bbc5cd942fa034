"""Attention of whole prompts and of decodes as measured, and a physical core for what was not: chunks after a history,
sizes beyond the tables, and chunks beside decodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.cost.aiconfigurator.gemm import FLOOR
from penstock.cost.aiconfigurator.systems import System
from penstock.cost.aiconfigurator.wheel import read_rows
from penstock.cost.bundle import separate_grid
from penstock.cost.efficiency import Rates
from penstock.cost.kernels import AttentionShape
from penstock.cost.tables import AttentionGrid, FloatArray, SkewTable

_CONTEXT = ("batch_size", "isl", "num_heads", "num_key_value_heads", "latency")
_GENERATION = ("batch_size", "step", "num_heads", "num_key_value_heads", "latency")


@dataclass(frozen=True, slots=True)
class AttentionFiles:
    """The two tables of an engine on a system, and the ``kv_cache_dtype`` wanted of them."""

    context: Path
    generation: Path
    kv_cache_dtype: str


def attention_grid(
    files: AttentionFiles, shape: AttentionShape, system: System, rates: Rates, longer: float = 1.0
) -> AttentionGrid | None:
    """Attention of one layer on one rank, None where nothing like it was measured. Prompts take ``longer`` times what
    was measured.

    Raises:
        UserError: a file is broken.
    """
    prompts = _prompts(files, shape)
    decodes = _decodes(files, shape)
    if prompts is None or decodes is None:
        return None
    lengths, prompt_us = prompts
    prompt_us = prompt_us * longer
    counts, contexts, decode_us = decodes
    decode_us = _completed(counts, contexts, decode_us, shape, rates)
    slope = history_slope(lengths, prompt_us, shape, system)
    return separate_grid((lengths, prompt_us, slope), (counts, contexts, decode_us))


def decode_skew(skew: float) -> SkewTable:
    """The same for steps of any kind."""
    none = np.zeros(0)
    return SkewTable(np.zeros(1), none, none, none, none, np.full((1, 1, 1, 1, 1), skew))


def history_slope(
    lengths: FloatArray, prompt_us: FloatArray, shape: AttentionShape, system: System
) -> FloatArray:
    """Microseconds per token of history, for chunks of ``lengths`` tokens, shape as ``lengths``.

    A multiprocessor takes a tile of query rows of a head through all keys. A chip so takes ``wave`` tokens at a time,
    and a chunk as many waves as it fills or begins, each as long as the history. A pair of tokens takes what it does in
    the longest prompt, where waves are full.
    """
    pair_us = 2.0 * float(prompt_us[-1]) / float(lengths[-1]) ** 2
    wave = system.multiprocessors * system.tile_rows / shape.heads
    return pair_us * wave * np.ceil(lengths / wave)


def _prompts(files: AttentionFiles, shape: AttentionShape) -> tuple[FloatArray, FloatArray] | None:
    """Lengths of single prompts and their microseconds."""
    rows = _of_heads(files.context, _CONTEXT, files, shape)
    if rows is None:
        return None
    rows = rows[(rows[:, 0] == 1) & (rows[:, 1] >= 16)]
    order = np.argsort(rows[:, 1])
    return rows[order, 1], rows[order, 4]


def _decodes(
    files: AttentionFiles, shape: AttentionShape
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Numbers of decodes, contexts, and microseconds (decodes, contexts), NaN where not measured. A step is the number
    of tokens in the cache before the query's own."""
    rows = _of_heads(files.generation, _GENERATION, files, shape)
    if rows is None:
        return None
    counts, contexts = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    us = np.full((len(counts), len(contexts)), np.nan)
    us[np.searchsorted(counts, rows[:, 0]), np.searchsorted(contexts, rows[:, 1])] = rows[:, 4]
    return counts, contexts, us


def _of_heads(
    path: Path, columns: tuple[str, ...], files: AttentionFiles, shape: AttentionShape
) -> FloatArray | None:
    """Rows (n, 5) of the shape, microseconds in the last column. A number of heads between those measured takes the
    geometric mean of the two around it, by the logarithm of the number."""
    where = {
        "head_dim": shape.head_dim,
        "kv_cache_dtype": files.kv_cache_dtype,
        "window_size": 0,
        "beam_width": 1,
    }
    rows = read_rows(path, columns, where).to_numpy().astype(np.float64)
    # Queries that have keys of their own are written with as many KV heads as heads.
    own_keys = shape.heads == shape.kv_heads
    rows = rows[rows[:, 3] == (rows[:, 2] if own_keys else shape.kv_heads)]
    measured = np.unique(rows[:, 2])
    if not len(measured) or not measured[0] <= shape.heads <= measured[-1]:
        return None
    high = int(np.searchsorted(measured, shape.heads))
    if measured[high] == shape.heads:
        found = rows[rows[:, 2] == shape.heads]
        return np.column_stack([found[:, :4], found[:, 4] * 1000.0])
    low_rows, high_rows = (rows[rows[:, 2] == measured[i]] for i in (high - 1, high))
    known = {(row[0], row[1]): row[4] for row in low_rows}
    both = np.array([[*row, known[row[0], row[1]]] for row in high_rows if (row[0], row[1]) in known])
    weight = np.log(shape.heads / measured[high - 1]) / np.log(measured[high] / measured[high - 1])
    us = 1000.0 * both[:, 5] ** (1 - weight) * both[:, 4] ** weight
    return np.column_stack([both[:, :4], us])


def _completed(
    counts: FloatArray, contexts: FloatArray, us: FloatArray, shape: AttentionShape, rates: Rates
) -> FloatArray:
    """Missing sizes keep the share of the core (launch, queries, KV bytes) that the nearest shorter context of the same
    number of decodes reaches; nothing reads its KV faster than memory allows."""
    core = _core(counts, contexts, us)
    share = us / core
    for k in range(1, len(contexts)):
        share[:, k] = np.where(np.isnan(share[:, k]), share[:, k - 1], share[:, k])
    for i in range(1, len(counts)):
        share[i] = np.where(np.isnan(share[i]), share[i - 1], share[i])
    moved = counts[:, None] * (contexts[None, :] + 1) * shape.kv_bytes_per_token
    floor = moved / (FLOOR * rates.bytes_per_us)
    return np.maximum(np.where(np.isnan(us), core * share, us), floor)


def _core(counts: FloatArray, contexts: FloatArray, us: FloatArray) -> FloatArray:
    """Launch, time per decode and time per token of context, none negative, fitted to the relative error."""
    from scipy.optimize import nnls

    n = np.broadcast_to(counts[:, None], us.shape)
    tokens = counts[:, None] * contexts[None, :]
    features = np.stack([np.ones(us.shape), n, tokens], axis=-1)
    known = ~np.isnan(us)
    solution, _ = nnls(features[known] / us[known][:, None], np.ones(int(known.sum())))
    return features @ np.asarray(solution, dtype=np.float64)
