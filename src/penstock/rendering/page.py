"""The one look of all pages: verdict, key figures, pictures, tables, in one file that needs a browser and no network.

A page's body is HTML from the functions below; its charts are traces for the basic bundle of plotly.js as plain values,
in which ``"$name"`` is a colour of ``assets/theme.css`` and follows the theme.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np

SERIES = tuple(f"$series-{place}" for place in range(8))
"""Colours of series that stand for nothing else."""

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """``traces`` and ``layout`` are plotly.js's; ``x`` and ``y`` the titles of the axes, with units."""

    id: str
    title: str
    traces: Sequence[Mapping[str, Any]]
    x: str
    y: str
    layout: Mapping[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and what a table that sorts puts it in order by; None comes last."""

    text: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """``left`` columns are texts. One that ``sorts`` does so by a click on a heading; ``wraps`` lets long texts take
    several lines. ``row_names`` are written as ``data-point`` of each row, for a page's own script."""

    label: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: Sequence[int] = (0,)
    sorts: bool = False
    wraps: bool = False
    row_names: Sequence[str] = ()


def document(
    title: str,
    body: str,
    *,
    charts: Sequence[Chart] = (),
    data: Mapping[str, Any] | None = None,
    scripts: Sequence[str] = (),
    draws: bool = True,
) -> str:
    """The whole page. ``scripts`` are assets that come after the shared one and end with ``ready()``; without any the
    charts are shown as they are. ``data`` is theirs, as ``page``. One that ``draws`` no charts is without plotly.js."""
    shown = [
        {"id": one.id, "traces": one.traces, "x": one.x, "y": one.y, "layout": one.layout} for one in charts
    ]
    text = json.dumps(
        {**(data or {}), "charts": shown}, separators=(",", ":"), allow_nan=False, default=_plain
    )
    parts = {
        "TITLE": html.escape(title),
        "CSS": asset("theme.css"),
        "BODY": body,
        "VERSION": version("penstock"),
        # No "<" at all: neither "</script" nor "<!--" can change how the element is read.
        "DATA": text.replace("<", "\\u003c"),
        "PLOTLY": asset("plotly-basic.min.js") if draws else "",
        "SCRIPT": "\n".join(asset(name) for name in ("theme.js", *(scripts or ("page.js",)))),
    }
    frame = asset("frame.html").split("@@")
    return "".join(parts[part] if place % 2 else part for place, part in enumerate(frame))


def asset(name: str) -> str:
    """The text of a file in ``assets``."""
    return (files("penstock.rendering") / "assets" / name).read_text(encoding="utf-8")


def verdict(sentences: Sequence[str]) -> str:
    """What the reader came for, the first sentence in bold."""
    return f'<section class="card verdict" aria-label="Verdict">{paragraphs(sentences)}</section>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Key figures: (what, value)."""
    cells = "".join(
        f'<div class="fact"><b{" class=long" if len(value) > 16 else ""}>{html.escape(value)}</b>'
        f'<span class="soft small">{html.escape(what)}</span></div>'
        for what, value in pairs
    )
    return f'<section class="facts" aria-label="In short">{cells}</section>'


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return f"<h2>{html.escape(title)}</h2>" + "".join(parts)


def card(*parts: str) -> str:
    """A box."""
    return f'<div class="card">{"".join(parts)}</div>'


def columns(*cards: str) -> str:
    """Boxes side by side where there is room."""
    return f'<div class="columns">{"".join(cards)}</div>'


def picture(chart: Chart) -> str:
    """A box with a chart, which :func:`document` must be given too."""
    heading = f"<h3>{html.escape(chart.title)}</h3>" if chart.title else ""
    note = f'<p class="soft small">{html.escape(chart.note)}</p>' if chart.note else ""
    label = html.escape(chart.title or chart.id)
    return card(f'{heading}{note}<div id="{chart.id}" class="chart" aria-label="{label}"></div>')


def paragraphs(sentences: Sequence[str], kind: str = "") -> str:
    """Each a paragraph."""
    given = f' class="{kind}"' if kind else ""
    return "".join(f"<p{given}>{html.escape(sentence)}</p>" for sentence in sentences)


def statements(lines: Sequence[str]) -> str:
    """A list, such as of what the figures rest on."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def table(of: Table) -> str:
    """A table that scrolls sideways in its box where it is too wide."""
    left = set(of.left)
    head = "".join(
        f'<th scope="col"{" class=left" if place in left else ""}>{html.escape(text)}</th>'
        for place, text in enumerate(of.head)
    )
    names = of.row_names or [""] * len(of.rows)
    body = "".join(_row(row, left, name) for row, name in zip(of.rows, names, strict=True))
    kinds = " ".join(name for name, holds in (("sorts", of.sorts), ("wraps", of.wraps)) if holds)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(of.label)}">'
        f'<table class="{kinds}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _row(row: Sequence[str | Cell], left: set[int], name: str) -> str:
    cells: list[str] = []
    for place, cell in enumerate(row):
        text = cell.text if isinstance(cell, Cell) else cell
        value = ""
        if isinstance(cell, Cell):
            value = f' data-value="{"" if cell.value is None else repr(float(cell.value))}"'
        kind = " class=left" if place in left else ""
        tag = "td" if place else 'th scope="row"'
        cells.append(f"<{tag}{kind}{value}>{html.escape(text)}</{tag.split(' ', 1)[0]}>")
    point = f' data-point="{html.escape(name)}"' if name else ""
    return f"<tr{point}>{''.join(cells)}</tr>"


def _plain(value: Any) -> Any:
    """Arrays as lists; what is not finite as null."""
    if isinstance(value, np.ndarray):
        return [
            None if isinstance(one, float) and not np.isfinite(one) else one for one in value.ravel().tolist()
        ]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")
