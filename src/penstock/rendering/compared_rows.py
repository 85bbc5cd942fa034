"""What came of runs side by side: a row for each quantity, and which run is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.accounting.verdict import active_shares
from penstock.rendering.report_data import stage_causes
from penstock.rendering.run_view import RunView
from penstock.spec.prices import find_price, listed_prices
from penstock.units import NS_PER_MS, NS_PER_S

_CAUSES = (
    "busy",
    "transfer",
    "fill",
    "imbalance",
    "dependency",
    "memory",
    "seqs",
    "kv_transfer",
    "engine",
    "blocked",
    "drain",
    "sync",
    "dummy",
)


GENERATED = "generated tokens"
PER_GPU = "generated tokens per GPU"
PER_DOLLAR = "cost of a million generated tokens"
JUDGED = (GENERATED, "TTFT p99", "TPOT p99")
"""What decides which run is best."""

SAME = 0.01
"""Figures closer than this, relative to the larger one, are the same."""


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One quantity in every run; ``better`` is +1 where more is better, -1 where less is, 0 where neither."""

    name: str
    unit: str
    values: tuple[float | None, ...]
    better: int

    def change(self, run: int) -> float | None:
        """Relative to the first run; None where there is nothing to relate."""
        first, value = self.values[0], self.values[run]
        if first is None or value is None or not first:
            return None
        return value / first - 1

    def verdict(self, run: int, than: int = 0) -> str:
        """``better``, ``worse`` or ``same`` than another run; empty where neither more nor less is better."""
        value, other = self.values[run], self.values[than]
        if value is None or other is None or not self.better:
            return ""
        if abs(value - other) <= SAME * max(abs(value), abs(other)):
            return "same"
        return "better" if (value > other) is (self.better > 0) else "worse"

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def compared_rows(views: Sequence[RunView]) -> list[ComparedRow]:
    """What came of each run: rates, latencies, and where the stages' time went."""
    summaries = [view.summary for view in views]
    gpus = [_gpus(one) for one in summaries]
    dollars = [_usd_per_hour(one) for one in summaries]
    rows = [
        _row("GPUs", "", [sum(of.values()) for of in gpus], 0),
        _row("replicas, mean", "", [_mean_replicas(one) for one in summaries], 0),
        _row("price", "USD/hour", dollars, -1),
        _row("finished", "requests", [one["requests"]["finished"] for one in summaries], 1),
        _row("rejected", "requests", [one["requests"]["rejected"] for one in summaries], -1),
        _row("preemptions", "", [one["requests"]["preemptions"] for one in summaries], -1),
        _row("simulated", "s", [one["simulated_ns"] / NS_PER_S for one in summaries], 0),
    ]
    rates = [one["throughput"] for one in summaries]
    for name, key, unit in (
        ("requests", "requests_per_s", "/s"),
        ("prompt tokens", "prompt_tokens_per_s", "/s"),
        (GENERATED, "generated_tokens_per_s", "/s"),
    ):
        rows.append(_row(name, unit, [rate[key] if rate else None for rate in rates], 1))
    tokens = [rate["generated_tokens_per_s"] if rate else None for rate in rates]
    per_gpu = [
        None if rate is None else rate / sum(of.values()) for rate, of in zip(tokens, gpus, strict=True)
    ]
    per_dollar = [
        usd / (rate * 3600 / 1e6) if usd is not None and rate else None
        for usd, rate in zip(dollars, tokens, strict=True)
    ]
    rows.append(_row(PER_GPU, "/s", per_gpu, 1))
    rows.append(_row(PER_DOLLAR, "USD", per_dollar, -1))
    for name, key in (
        ("TTFT", "ttft"),
        ("TPOT", "tpot"),
        ("ITL", "itl"),
        ("latency", "latency"),
        ("queuing", "queuing"),
    ):
        found = [one["latency"][key] for one in summaries]
        rows += (
            _times(f"{name} {statistic}", [of[f"{statistic}_ns"] if of else None for of in found])
            for statistic in ("mean", "p50", "p99")
        )
    shares = [_shares(one) for one in summaries]
    for cause in _CAUSES:
        values = [100 * share.get(cause, 0.0) if share else None for share in shares]
        if any(value for value in values):
            rows.append(_row(cause, "% of stage time", values, 1 if cause == "busy" else -1))
    stranded = [
        max(stage["stranded_bytes"] for instance in one["instances"] for stage in instance["stages"])
        for one in summaries
    ]
    rows.append(_row("stranded on one NPU, most", "GiB", [size / 2**30 for size in stranded], -1))
    return [row for row in rows if any(value is not None for value in row.values)]


def winner(rows: Sequence[ComparedRow], names: Sequence[str]) -> str:
    """A sentence or two: which run is best, in what, and what it costs; figures within 1% are the same."""
    by_name = {row.name: row for row in rows}
    judged = [by_name[name] for name in JUDGED if name in by_name]
    leaders: dict[str, set[int]] = {}
    for row in judged:
        known = [run for run, value in enumerate(row.values) if value is not None]
        leaders[row.name] = {
            run for run in known if all(row.verdict(run, other) != "worse" for other in known)
        }
    everywhere = set(range(len(names))).intersection(*leaders.values()) if leaders else set[int]()
    if not leaders or len(everywhere) == len(names):
        text = "No run is better than another in tokens/s, TTFT p99 or TPOT p99"
    elif len(everywhere) == 1:
        run = everywhere.pop()
        told = ", ".join(f"{row.name} {_shown(row, run)}" for row in judged)
        text = f"{names[run]} is best in everything that was judged: {told}"
    else:
        told = "; ".join(
            f"{' and '.join(names[run] for run in sorted(leaders[row.name]))} in {row.name}"
            for row in judged
            if len(leaders[row.name]) < len(names)
        )
        text = f"No run is best in everything: {told}"
    return " ".join([f"{text}.", *_by_cost(by_name, names)])


def _by_cost(by_name: Mapping[str, ComparedRow], names: Sequence[str]) -> list[str]:
    """What runs on different numbers of GPUs, or at different prices, do for them."""
    sentences: list[str] = []
    gpus, price = by_name["GPUs"], by_name.get("price")
    for name, differs in (
        (PER_GPU, len(set(gpus.values)) > 1),
        (PER_DOLLAR, price is not None and len(set(price.values)) > 1),
    ):
        row = by_name.get(name)
        if row is None or not differs:
            continue
        known = [run for run, value in enumerate(row.values) if value is not None]
        best = min(known, key=lambda run, row=row: -row.better * (row.values[run] or 0.0))
        others = ", ".join(f"{names[run]} {_shown(row, run)}" for run in known if run != best)
        sentences.append(
            f"{row.name}: {names[best]} {_shown(row, best)}" + (f" against {others}." if others else ".")
        )
    return sentences


def _row(name: str, unit: str, values: Sequence[float | None], better: int) -> ComparedRow:
    return ComparedRow(name, unit, tuple(values), better)


def _times(name: str, values_ns: Sequence[float | None]) -> ComparedRow:
    """Latencies in ms, or in s where one takes longer than 1,000 ms."""
    long = max((value for value in values_ns if value is not None), default=0) > NS_PER_S
    scale, unit = (NS_PER_S, "s") if long else (NS_PER_MS, "ms")
    return _row(name, unit, [None if value is None else value / scale for value in values_ns], -1)


def _shares(summary: Mapping[str, Any]) -> dict[str, float]:
    return active_shares([stage for instance in summary["instances"] for stage in stage_causes(instance)])


def _shown(row: ComparedRow, run: int) -> str:
    """A value with its unit."""
    value = row.values[run]
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    return f"{text}{row.unit if row.unit.startswith('/') else ' ' + row.unit if row.unit else ''}"


def _mean_replicas(summary: Mapping[str, Any]) -> float | None:
    """Under autoscaling."""
    use = summary.get("autoscaling")
    return None if use is None else use["mean_replicas"]


def _gpus(summary: Mapping[str, Any]) -> dict[str, float]:
    """GPUs by the label of their hardware; under autoscaling, those that there were on average."""
    found: dict[str, float] = {}
    use = summary.get("autoscaling")
    share = 1 if use is None else use["mean_replicas"] / use["instances"]
    for instance in summary["instances"]:
        for stage in instance["stages"]:
            label = str(stage["hardware"])
            found[label] = found.get(label, 0) + instance["tp_size"] * share
    return found


def _usd_per_hour(summary: Mapping[str, Any]) -> float | None:
    """By the package's dated list; None where a chip is not on it."""
    listed = listed_prices()
    total = 0.0
    for label, count in _gpus(summary).items():
        price = find_price(label, {}, listed)
        if price is None:
            return None
        total += price.usd_per_hour * count
    return total
