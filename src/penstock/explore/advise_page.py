"""The page of an advice: the change that helps most, what each brings, where the time goes now."""

from __future__ import annotations

from typing import Any

from penstock.explore.advise import Advice, AdviceTable
from penstock.explore.slo import shown_ns
from penstock.rendering import page
from penstock.rendering.page import Cell, Chart, Table

MEASURES = ("generated tokens/s", "TTFT p99", "TPOT p99")
SHOWN = 12
"""Changes in the chart, the best first."""

SAME = 0.0005


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
        page.verdict(_verdict(ran)),
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
        page.section("All changes", page.card(page.table(_table(ran, table)))),
    ]
    if failed:
        lines = [f"{row.knob}: {row.change}: {row.failure}" for row in failed]
        parts.append(page.section("What cannot run", page.card(page.statements(lines))))
    parts.append(page.section("What it rests on", page.card(page.statements(basis))))
    return page.document(title, "".join(parts), charts=charts)


def _verdict(ran: list[Advice]) -> list[str]:
    best = ran[0] if ran else None
    if best is None or best.score <= 0 or not any(gain and gain >= SAME for gain in best.gains):
        return ["No single change that was tried helps."]
    told = [
        f"{name} {'better' if gain > 0 else 'worse'} by {abs(gain):.1%}"
        for name, gain in zip(MEASURES, best.gains, strict=True)
        if gain is not None and abs(gain) >= SAME
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


def _table(ran: list[Advice], table: AdviceTable) -> Table:
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
    for row in ran:
        assert row.outcome is not None
        tokens, ttft, tpot = row.outcome.figures
        cells = [(f"{tokens:,.1f}", tokens), (shown_ns(ttft), ttft), (shown_ns(tpot), tpot)]
        shown = [
            Cell(f"{text}{_gain(gain)}", value) for (text, value), gain in zip(cells, row.gains, strict=True)
        ]
        rows.append([row.knob, row.change, *shown])
    return Table(
        label="Changes", head=["knob", "change", *MEASURES], rows=rows, left=(0, 1), sorts=True, wraps=True
    )


def _gain(gain: float | None) -> str:
    if gain is None or abs(gain) < SAME:
        return ""
    return f" ({'better' if gain > 0 else 'worse'} by {abs(gain):.1%})"
