"""The page of a capacity: the number, what breaks beyond it, and latency over load."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock.explore.capacity import Capacity
from penstock.explore.charts import latency_chart, readable, spoken
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.slo import Slo, shown_ns
from penstock.rendering import page


def capacity_page(
    found: Capacity, curve: Sequence[Trial], slo: Slo, load_test: LoadTest, lines: Sequence[tuple[str, str]]
) -> str:
    """The whole document. ``lines`` are what the terminal is told, as (what, text)."""
    charts = [
        latency_chart(f"curve-{bound.name}", {readable(bound.name): curve}, bound.name, bound.limit_ns)
        for bound in slo.bounds
    ]
    parts = [
        page.verdict(_verdict(found, slo, dict(lines))),
        page.facts(_facts(found, slo, load_test)),
        page.section("Latency over load", page.columns(*map(page.picture, charts))),
        page.section("At each rate", page.card(page.table(_table(curve, slo)))),
        page.section(
            "What was found, and how",
            page.card(
                page.table(
                    page.Table(
                        label="Answer",
                        head=["", ""],
                        rows=[[what, text] for what, text in lines],
                        left=(0, 1),
                        wraps=True,
                    )
                )
            ),
        ),
        page.section("What it rests on", page.card(page.statements(load_test.basis))),
    ]
    return page.document(f"Capacity within {spoken(slo)}", "".join(parts), charts=charts)


def _verdict(found: Capacity, slo: Slo, told: dict[str, str]) -> list[str]:
    if found.broke is None:
        return [
            f"It holds at {found.rate_per_s:.4g} requests/s and more: no rate that was tried broke {spoken(slo)}."
        ]
    sentences = [f"It takes {found.rate_per_s:.4g} requests/s within {spoken(slo)}."]
    if "limited by" in told:
        sentences.append(f"The edge: {told['limited by']}.")
    if found.bottleneck is not None:
        sentences.append(f"Because of {found.bottleneck.cause}: {found.bottleneck.text}.")
    return sentences


def _facts(found: Capacity, slo: Slo, load_test: LoadTest) -> list[tuple[str, str]]:
    high = f"{found.high_per_s:.4g}" if math.isfinite(found.high_per_s) else "unknown"
    facts = [
        ("requests/s, capacity", f"{found.rate_per_s:.4g}"),
        ("95% interval of it, requests/s", f"{found.low_per_s:.4g} to {high}"),
        ("requests/s within all limits", f"{found.goodput_per_s:.4g}"),
        ("of that per GPU", f"{found.goodput_per_s / load_test.gpus:.3g}"),
        ("GPUs", str(load_test.gpus)),
        ("SLO", spoken(slo)),
    ]
    if found.saturated_per_s is not None:
        facts.append(("requests/s with a queue that never empties", f"{found.saturated_per_s:.4g}"))
    return facts


def _table(curve: Sequence[Trial], slo: Slo) -> page.Table:
    names = list(
        dict.fromkeys(["ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", *(b.name for b in slo.bounds)])
    )
    rows = [
        [
            page.Cell(f"{trial.rate_per_s:.4g}", trial.rate_per_s),
            *(page.Cell(shown_ns(trial.statistics_ns[name]), trial.statistics_ns[name]) for name in names),
            page.Cell(f"{trial.attained:.1%}", trial.attained),
            "holds" if trial.holds else "broken",
        ]
        for trial in curve
    ]
    return page.Table(
        label="Latency over load",
        head=["requests/s", *map(readable, names), "within limits", "SLO"],
        rows=rows,
        sorts=True,
    )
