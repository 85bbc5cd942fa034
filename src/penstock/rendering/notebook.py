"""What a notebook shows of a result: the verdict, where the stages' time went, latencies. Plain HTML, no script."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING

from penstock.accounting.bubbles import CAUSE_NAMES
from penstock.accounting.verdict import verdict
from penstock.rendering.page import asset
from penstock.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from penstock.rendering.result import SimulationResult

_STAGES_SHOWN = 32
_BAR_WIDTH, _BAR_HEIGHT = 560, 18
_CELL = 'style="text-align:right;padding:2px 10px"'


def result_html(result: SimulationResult) -> str:
    """The cell."""
    from penstock.rendering.report_data import mean_waiting, stage_causes
    from penstock.rendering.run_view import view_of

    summary = result.summary
    rates = summary.throughput
    document = json.loads(json.dumps(summary.to_json()))
    lines = [f"<p><b>{_count(summary.requests.finished, 'request')} finished"]
    if rates is not None:
        lines[0] += (
            f", {rates.requests_per_s:,.3f} requests/s, {rates.generated_tokens_per_s:,.1f} generated tokens/s"
        )
    lines[0] += "</b></p>"
    causes = [stage_causes(instance) for instance in document["instances"]]
    if any(causes) and summary.requests.finished:
        waiting = mean_waiting(view_of(result))
        lines += [f"<p>{html.escape(verdict(stages, waiting)[0])}</p>" for stages in causes[:4] if stages]
        lines.append(_bars(causes))
    lines.append(_latencies(result))
    return "".join(lines)


def cause_colours() -> dict[str, str]:
    """The light theme's colour of each cause."""
    found = dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6});", asset("theme.css").partition('[data-theme="dark"]')[0])
    )
    return {cause: found[cause] for cause in CAUSE_NAMES}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _bars(causes: list[list[dict[str, int]]]) -> str:
    """A bar per stage, and what its colours stand for."""
    colours = cause_colours()
    rows: list[str] = []
    seen: dict[str, None] = {}
    stages = [(place, stage, of) for place, own in enumerate(causes) for stage, of in enumerate(own)]
    for row, (instance, stage, of) in enumerate(stages[:_STAGES_SHOWN]):
        total, x, y = max(sum(of.values()), 1), 130.0, row * (_BAR_HEIGHT + 4)
        name = f"stage {stage}" if len(causes) == 1 else f"instance {instance} stage {stage}"
        rows.append(f'<text x="0" y="{y + 13}" font-size="12" fill="currentColor">{name}</text>')
        for cause, ns in of.items():
            width = _BAR_WIDTH * ns / total
            if width < 0.1:
                continue
            seen[cause] = None
            rows.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR_HEIGHT}" fill="{colours[cause]}">'
                f"<title>{name}: {cause} {ns / total:.1%}</title></rect>"
            )
            x += width
    height = min(len(stages), _STAGES_SHOWN) * (_BAR_HEIGHT + 4)
    legend = " ".join(
        f'<span style="margin-right:12px"><span style="display:inline-block;width:11px;height:11px;'
        f'background:{colours[cause]}"></span> {cause}</span>'
        for cause in seen
    )
    return (
        f'<svg width="{130 + _BAR_WIDTH}" height="{height}" role="img" aria-label="Share of the run by cause, per '
        f'stage">{"".join(rows)}</svg><p style="font-size:12px">{legend}</p>'
    )


def _latencies(result: SimulationResult) -> str:
    latency = result.summary.latency
    rows: list[str] = []
    for name, of in (
        ("TTFT", latency.ttft),
        ("TPOT", latency.tpot),
        ("ITL", latency.itl),
        ("latency", latency.latency),
        ("queuing", latency.queuing),
    ):
        if of is None:
            continue
        cells = "".join(
            f"<td {_CELL}>{_time(ns)}</td>" for ns in (of.mean_ns, of.p50_ns, of.p90_ns, of.p99_ns, of.max_ns)
        )
        rows.append(f'<tr><th style="text-align:left">{name}</th>{cells}</tr>')
    head = "".join(f"<th {_CELL}>{name}</th>" for name in ("mean", "p50", "p90", "p99", "max"))
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _time(ns: float) -> str:
    return f"{ns / NS_PER_S:,.3f} s" if ns >= NS_PER_S else f"{ns / NS_PER_MS:,.2f} ms"
