"""Expert times from AIConfigurator's ``moe_perf`` tables (vLLM's fused experts on one rank).

A row gives the time of one rank of ``moe_ep_size`` when the group has ``num_tokens`` tokens; its experts and the
balanced load say what that is in pairs and distinct experts. A shape that was measured is interpolated, another one
takes the share of the roofline that the nearest measured shape reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from penstock.cost.bundle import MAX_SIZE, MAX_US
from penstock.cost.efficiency import LAUNCH_US, Rates
from penstock.cost.experts.times import ExpertShape
from penstock.cost.tables import FloatArray
from penstock.errors import Problem, UserError
from penstock.files.document import understood
from penstock.files.frames import read_csv, read_parquet
from penstock.spec.layers import MoeMlp

if TYPE_CHECKING:
    import polars as pl

_DTYPES = {"float16": "bfloat16", "fp4": "w4a16_mxfp4"}
"""``moe_dtype`` of weights where the tables call them otherwise."""

_KEY = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
_COLUMNS = (*_KEY, "moe_dtype", "num_tokens", "distribution", "kernel_source")
_FILES = ("moe_perf.csv", "moe_perf.parquet")


@dataclass(frozen=True, slots=True)
class MeasuredExperts:
    """``pairs`` (n,) ascending and ``slowness`` (n,): measured time over the roofline's, of one series of rows.

    ``per_expert`` tells that the series is of another shape: pairs are then counted per local expert.
    """

    shape: ExpertShape
    rates: Rates
    local_experts: float
    pairs: FloatArray
    slowness: FloatArray
    per_expert: bool

    def rank_us(self, pairs: FloatArray, experts: FloatArray) -> FloatArray:
        """See :class:`penstock.cost.experts.times.ExpertTimes`; beyond the measured sizes the share of the roofline
        stays."""
        at = pairs / self.local_experts if self.per_expert else pairs
        slowness = np.interp(np.log2(np.maximum(at, 1e-9)), np.log2(self.pairs), self.slowness)
        return _roof_us(self.shape, pairs, experts, self.rates) * slowness


def find_moe_table(profile_root: Path, hardware: str) -> Path | None:
    """``<root>/<hardware>/moe_perf.csv`` or ``.parquet``, as AIConfigurator has it for the chip."""
    paths = (profile_root / hardware / name for name in _FILES)
    return next((path for path in paths if path.is_file()), None)


def measured_experts(
    path: Path, moe: MoeMlp, dtype: str, cut: tuple[ExpertShape, int, int], rates: Rates
) -> tuple[MeasuredExperts, str] | None:
    """Experts of a model from a table and what they rest on; None where it has no rows of the dtype.

    ``cut`` = (one expert on a rank, ranks it is split over, ranks that share the experts out).

    Raises:
        UserError: the file is no such table.
    """
    shape, split, ranks = cut
    with understood(str(path), "cannot be read as a moe_perf table"):
        series = _series(path, path.stat().st_mtime_ns).get(_DTYPES.get(dtype, dtype))
    if not series:
        return None
    wanted = (shape.hidden, moe.intermediate_size, moe.experts_per_token, moe.num_experts, split, ranks)
    key = min(series, key=lambda own: (_distance(own, wanted), own))
    hidden, width, picks, count, own_split, own_ranks = key
    local = count / own_ranks
    points = series[key]
    tokens = np.array([size for size, _ in points])
    pairs = tokens * picks / own_ranks
    own_shape = ExpertShape(
        hidden=hidden,
        width=width // own_split,
        weight_bytes=shape.weight_bytes,
        activation_bytes=shape.activation_bytes,
    )
    roof = _roof_us(own_shape, pairs, np.minimum(pairs, local), rates)
    slowness = np.array([us for _, us in points]) / roof
    exact = key == wanted
    experts = MeasuredExperts(
        shape=shape,
        rates=rates,
        local_experts=max(moe.num_experts / ranks, 1.0),
        pairs=pairs if exact else pairs / local,
        slowness=slowness,
        per_expert=not exact,
    )
    told = f"{hidden} x {width}, {picks} of {count} experts, moe tp {own_split} ep {own_ranks}"
    how = "as measured" if exact else f"by the utilisation of the nearest measured shape ({told})"
    return experts, f"experts: AIConfigurator's {path.name} {how}, {_DTYPES.get(dtype, dtype)}"


def _roof_us(shape: ExpertShape, pairs: FloatArray, experts: FloatArray, rates: Rates) -> FloatArray:
    compute, memory = shape.roofline_us(pairs, experts, rates)
    return np.maximum(compute, memory) + LAUNCH_US


Key = tuple[int, int, int, int, int, int]


def _distance(own: Key, wanted: Key) -> float:
    """Between shapes: of an expert's size, of pairs per token on a rank, of experts on a rank, by their ratios."""
    places = (
        own[0] * own[1] / own[4] / (wanted[0] * wanted[1] / wanted[4]),
        own[3] / own[5] / (wanted[3] / wanted[5]),
        own[2] / own[5] / (wanted[2] / wanted[5]),
        own[0] / wanted[0],
    )
    return sum(abs(float(np.log2(ratio))) for ratio in places)


@lru_cache(maxsize=8)
def _series(path: Path, stamp: int) -> Mapping[str, Mapping[Key, Sequence[tuple[int, float]]]]:
    """Balanced rows by dtype and shape: (tokens, us), of the kernel that was measured at most sizes."""
    del stamp
    import polars as pl  # a tenth of a second that dense models need not spend

    rows = _read(path).filter(pl.col("distribution") == "balanced")
    found: dict[str, dict[Key, Sequence[tuple[int, float]]]] = {}
    sizes: dict[tuple[str, Key], int] = {}
    for group, part in sorted(rows.partition_by([*_KEY, "moe_dtype", "kernel_source"], as_dict=True).items()):
        *numbers, dtype, _ = group
        key = (
            int(numbers[0]),
            int(numbers[1]),
            int(numbers[2]),
            int(numbers[3]),
            int(numbers[4]),
            int(numbers[5]),
        )
        points = {int(size): float(us) for size, us in part.select("num_tokens", "us").iter_rows()}
        if len(points) > sizes.get((str(dtype), key), 0):
            sizes[str(dtype), key] = len(points)
            found.setdefault(str(dtype), {})[key] = sorted(points.items())
    return found


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    rows = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    time = "latency_ms" if "latency_ms" in rows.columns else "latency"
    missing = [name for name in (*_COLUMNS, time) if name not in rows.columns]
    if missing:
        raise UserError([Problem(str(path), f"is no moe_perf table: no column {', '.join(missing)}")])
    sizes = [*_KEY, "num_tokens"]
    try:
        rows = rows.with_columns((pl.col(time).cast(pl.Float64) * 1000.0).alias("us"))
        sound = pl.all_horizontal(
            *(pl.col(name).cast(pl.Float64).is_between(1, MAX_SIZE) for name in sizes),
            pl.col("us").is_between(0, MAX_US, closed="right"),
        )
        bad = rows.with_row_index().filter(~sound.fill_null(value=False))
    except pl.exceptions.PolarsError:
        message = f"column {time}, {', '.join(sizes)}: one holds something that is no number"
        raise UserError([Problem(str(path), message)]) from None
    if len(bad):
        message = f"row {bad['index'][0] + 1} holds a size or a time that is none"
        raise UserError([Problem(str(path), message)])
    return rows
