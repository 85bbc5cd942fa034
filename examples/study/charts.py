"""Three plain SVG charts: grouped bars, lines, stacked bars."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

COLOURS = (
    "#2563eb",
    "#d97706",
    "#059669",
    "#dc2626",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#4d7c0f",
    "#64748b",
    "#a16207",
)
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 64, 62


class Svg:
    """Elements on a white sheet; ``area`` maps the unit square to the plot."""

    def __init__(self, title: str, y_title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        ]
        self.text(LEFT, 20, title, size=15)
        self._parts.append(
            f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle" font-size="12" fill="#475569">{html.escape(y_title)}</text>'
        )

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> None:
        """Text at a point of the sheet."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#1f2937">'
            f"{html.escape(text)}</text>"
        )

    def bar(self, x: float, top: float, width: float, bottom: float, colour: str) -> None:
        """A rectangle between two heights, 0 to 1."""
        y, height = y_of(top), max(y_of(bottom) - y_of(top), 0)
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, dash: str = "") -> None:
        """A line through points of the sheet, with dots unless it is dashed."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        if not dash:
            self._parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in points]

    def scale(self, largest: float, suffix: str = "") -> None:
        """Five grid lines with figures."""
        for step in range(6):
            y = y_of(step / 5)
            self._parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>'
            )
            self.text(LEFT - 6, y + 4, f"{largest * step / 5:g}{suffix}", anchor="end")

    def legend(self, names: Sequence[str], colours: Sequence[str]) -> None:
        """One row under the title."""
        x = float(LEFT)
        for name, colour in zip(names, colours, strict=True):
            self._parts.append(f'<rect x="{x:.1f}" y="34" width="11" height="11" fill="{colour}"/>')
            self.text(x + 15, 44, name)
            x += 30 + 7 * len(name)

    def done(self) -> str:
        """The document."""
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def y_of(height: float) -> float:
    """A height in the plot, 0 to 1, on the sheet."""
    return HEIGHT - BOTTOM - height * (HEIGHT - BOTTOM - TOP)


def round_up(value: float) -> float:
    """A round number above, that five steps divide well."""
    for nice in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10):
        scale = 10 ** (len(f"{int(value)}") - 1)
        if value <= nice * scale:
            return nice * scale
    return value


def grouped_bars(
    title: str, y_title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> str:
    """A group of bars per name, a colour per series; None stands for "cannot"."""
    largest = round_up(max(value or 0.0 for values in series.values() for value in values))
    sheet = Svg(title, y_title)
    sheet.scale(largest)
    sheet.legend(list(series), COLOURS[: len(series)])
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    width = step * 0.8 / len(series)
    for group, name in enumerate(groups):
        left = LEFT + step * (group + 0.1)
        for place, values in enumerate(series.values()):
            value, x = values[group], left + place * width
            if value is None:
                sheet.text(x + width / 2, y_of(0) - 4, "none", anchor="middle", size=9)
                continue
            sheet.bar(x, value / largest, width - 1.5, 0, COLOURS[place])
            sheet.text(x + width / 2, y_of(value / largest) - 3, f"{value:.3g}", anchor="middle", size=9)
        sheet.text(left + step * 0.4, y_of(0) + 18, name, anchor="middle")
    return sheet.done()


def lines(
    title: str,
    axes: tuple[str, str],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    limit: float,
    window: tuple[float, float],
) -> str:
    """A line per name over a common axis; ``limit`` is drawn dotted, ``window`` = largest (x, y) shown."""
    sheet = Svg(title, axes[1])
    sheet.scale(window[1])
    sheet.legend(list(curves), COLOURS[: len(curves)])

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / window[0]

    for step in range(6):
        sheet.text(x_of(window[0] * step / 5), y_of(0) + 18, f"{window[0] * step / 5:g}", anchor="middle")
    sheet.text((LEFT + WIDTH - RIGHT) / 2, y_of(0) + 38, axes[0], anchor="middle")
    sheet.line([(LEFT, y_of(limit / window[1])), (WIDTH - RIGHT, y_of(limit / window[1]))], "#334155", "3 4")
    for (_, points), colour in zip(curves.items(), COLOURS, strict=False):
        sheet.line([(x_of(x), y_of(min(y / window[1], 1))) for x, y in points if x <= window[0]], colour)
    return sheet.done()


def stacked_bars(
    title: str, y_title: str, groups: Sequence[str], parts: Mapping[str, tuple[str, Sequence[float]]]
) -> str:
    """One bar per name, its parts (colour, a share per name) from the bottom up."""
    sheet = Svg(title, y_title)
    sheet.scale(100, "%")
    sheet.legend(list(parts), [colour for colour, _ in parts.values()])
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    for group, name in enumerate(groups):
        bottom = 0.0
        for colour, shares in parts.values():
            sheet.bar(LEFT + step * (group + 0.15), bottom + shares[group], step * 0.7, bottom, colour)
            bottom += shares[group]
        sheet.text(LEFT + step * (group + 0.5), y_of(0) + 18, name, anchor="middle")
    return sheet.done()
