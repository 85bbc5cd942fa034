"""The page of an advice: the change that helps most, what each brings, where the time goes now."""

from __future__ import annotations

from typing import Any

from penstock.explore.advise import Advice, AdviceTable, Outcome, shifts
from penstock.explore.slo import shown_ns
from penstock.explore.tables import SAME
from penstock.rendering import page
from penstock.rendering.page import Cell, Chart, Table

MEASURES = ("generated tokens/s", "TTFT p99", "TPOT p99")
SHOWN = 12
"""Changes in the chart, the best first."""


def advice_page(table: AdviceTable, title: str) -> str:
    """The whole document."""
    ran = [row for row in table.rows if row.outcome is not None]
    charts = [
        _gains([row for row in ran if any(abs(gain or 0.0) >= SAME for gain in row.gains)][:SHOWN]),
        _shares(table),
    ]
    base = table.baseline
    basis = list(dict.fromkeys(line for one in base.deployments for line in one.basis))
    failed = [row for row in table.rows if row.outcome is None]
    parts = [
        page.verdict(_verdict(base, ran)),
        page.facts(
            [
                ("requests/s as it is", f"{base.requests_per_s:,.3f}"),
                ("generated tokens/s as it is", f"{base.generated_tokens_per_s:,.1f}"),
                ("TTFT p99 as it is", shown_ns(base.ttft_p99_ns)),
                ("TPOT p99 as it is", shown_ns(base.tpot_p99_ns)),
            ]
        ),
        page.section("What each single change brings", page.picture(charts[0])),
        page.section("Where the stages' time goes now", page.picture(charts[1])),
        page.section("All changes", page.card(page.table(_table(table)))),
    ]
    if failed:
        lines = [f"{row.knob}: {row.change}: {row.failure}" for row in failed]
        parts.append(page.section("What cannot run", page.card(page.statements(lines))))
    parts.append(page.section("What it rests on", page.card(page.statements(basis))))
    return page.document(title, "".join(parts), charts=charts)


def _verdict(base: Outcome, ran: list[Advice]) -> list[str]:
    best = ran[0] if ran else None
    if best is None or best.score <= 0 or not any(gain and gain >= SAME for gain in best.gains):
        return ["No single change that was tried helps."]
    assert best.outcome is not None
    shown = shifts(base, best.outcome)
    told = [
        f"{name} {text}"
        for name, text, gain in zip(MEASURES, shown, best.gains, strict=True)
        if not _same(gain)
    ]
    return [f"What helps most: {best.knob}, {best.change}.", f"{'; '.join(told)}, each as simulated."]


def _gains(rows: list[Advice]) -> Chart:
    labels = [f"{row.knob}: {row.change}" for row in rows]
    short = [label if len(label) <= 46 else label[:45] + "…" for label in labels]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": short,
            "x": [None if (gain := row.gains[place]) is None else 100 * gain for row in rows],
            "customdata": labels,
            "hovertemplate": f"{name} %{{x:+.1f}}%<extra>%{{customdata}}</extra>",
            "marker": {"color": page.SERIES[place], "pattern": {"shape": ("", "/", ".")[place], "size": 6}},
        }
        for place, name in enumerate(MEASURES)
    ]
    return Chart(
        id="gains",
        title="Better (right) or worse (left) than as it is",
        traces=traces,
        x="better than as it is (%)",
        y="",
        layout={
            "barmode": "group",
            "height": 120 + 46 * max(len(rows), 1),
            "yaxis": {"type": "category", "autorange": "reversed", "rangemode": "normal"},
            "xaxis": {"zeroline": True},
        },
    )


def _shares(table: AdviceTable) -> Chart:
    busy = 1 - table.baseline.bubbles.bubble_share()
    parts = [("busy", busy), *((cause, share) for cause, share, _ in table.shares())]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": cause,
            "y": ["all stages"],
            "x": [100 * share],
            "hovertemplate": f"{cause} %{{x:.1f}}%<extra></extra>",
            "marker": {"color": f"${cause}", "line": {"color": "$card", "width": 1}},
        }
        for cause, share in parts
        if share >= SAME
    ]
    return Chart(
        id="shares",
        title="Share of the stages' time while there are requests",
        traces=traces,
        x="share (%)",
        y="",
        layout={"barmode": "stack", "height": 190, "xaxis": {"range": [0, 100]}},
    )


def _table(table: AdviceTable) -> Table:
    base = table.baseline
    rows: list[list[str | Cell]] = [
        [
            "as it is",
            "",
            Cell(f"{base.generated_tokens_per_s:,.1f}", base.generated_tokens_per_s),
            Cell(shown_ns(base.ttft_p99_ns), base.ttft_p99_ns),
            Cell(shown_ns(base.tpot_p99_ns), base.tpot_p99_ns),
        ]
    ]
    for group in table.alike():
        first = group[0]
        assert first.outcome is not None
        cells = [
            Cell(text, value)
            for text, value in zip(shifts(base, first.outcome), first.outcome.figures, strict=True)
        ]
        knobs = " or ".join(dict.fromkeys(row.knob for row in group))
        rows.append([knobs, "; or ".join(row.change for row in group), *cells])
    return Table(
        label="Changes", head=["knob", "change", *MEASURES], rows=rows, left=(0, 1), sorts=True, wraps=True
    )


def _same(gain: float | None) -> bool:
    return gain is None or abs(gain) < SAME
