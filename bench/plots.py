"""Draws line charts on logarithmic axes as SVG, without a library: a few hundred elements need none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 74, 236, 74, 56
LINE_HEIGHT = 16.0
INK, PALE, GRID = "#1f2328", "#656d76", "#e4e8ec"
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\""


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement; with `bound` it is a lower bound. `high` draws a whisker up to it."""

    x: float
    y: float
    high: float | None = None
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """A line with its name at the end."""

    name: str
    colour: str
    points: Sequence[Point]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis, from below the minimum to above the maximum."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Returns the position of a value."""
        part = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + part * (self.end - self.start)


@dataclass(slots=True)
class Chart:
    """The input of `draw`."""

    title: str
    note: str
    series: Sequence[Series]
    y_text: Callable[[float], str]
    x_label: str = "Services (4 endpoints each)"
    x_ticks: Sequence[float] = field(default_factory=list)


def draw(chart: Chart) -> str:
    """Returns the SVG without series that have no points. Raises `ValueError` without any series."""
    drawn = [one for one in chart.series if one.points]
    if not drawn:
        raise ValueError(f"{chart.title}: nothing to draw")
    xs = sorted({point.x for one in drawn for point in one.points})
    ys = [y for one in drawn for point in one.points for y in (point.y, point.high) if y]
    x_axis = Axis(xs[0] / 1.12, xs[-1] * 1.12, LEFT, WIDTH - RIGHT)
    y_axis = Axis(_below(min(ys)), _above(max(ys)), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(chart.title)}" {FONT}>',
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="6" fill="#ffffff" stroke="{GRID}"/>',
        _text(24, 32, chart.title, size=17, weight=600),
        _text(24, 52, chart.note, size=12, colour=PALE),
    ]
    parts += _grid(x_axis, y_axis, chart.x_ticks or xs, chart.y_text)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, chart.x_label, size=12, colour=PALE, anchor="middle"))
    for one in drawn:
        parts += _line(one, x_axis, y_axis)
    ends = [(y_axis.at(one.points[-1].y), one) for one in drawn]
    for y, (was, one) in zip(_apart([y for y, _ in ends]), ends, strict=True):
        x = x_axis.at(one.points[-1].x)
        edge = WIDTH - RIGHT + 14
        if x < edge - 20 or abs(y - was) > 3:
            parts.append(_path(f"M{x + 6:.1f},{was:.1f} L{edge:.1f},{y:.1f}", one.colour, width=0.6))
        parts.append(_text(edge + 4, y + 4, one.name, size=12, colour=one.colour, weight=600))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _grid(x_axis: Axis, y_axis: Axis, x_ticks: Sequence[float], y_text: Callable[[float], str]) -> list[str]:
    out = []
    decades = math.log10(y_axis.high / y_axis.low)
    for value in _ticks(y_axis.low, y_axis.high, (1,) if decades > 4 else (1, 2, 5) if decades <= 2.2 else (1, 3)):
        y = y_axis.at(value)
        out.append(_path(f"M{LEFT},{y:.1f} H{WIDTH - RIGHT}", GRID))
        out.append(_text(LEFT - 8, y + 4, y_text(value), size=12, colour=PALE, anchor="end"))
    for value in x_ticks:
        x = x_axis.at(value)
        out.append(_path(f"M{x:.1f},{HEIGHT - BOTTOM} v5", PALE))
        out.append(_text(x, HEIGHT - BOTTOM + 20, f"{value:,.0f}", size=12, colour=PALE, anchor="middle"))
    out.append(_path(f"M{LEFT},{HEIGHT - BOTTOM} H{WIDTH - RIGHT}", PALE))
    return out


def _line(one: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    places = [(x_axis.at(point.x), y_axis.at(point.y), point) for point in one.points]
    # No line leads to a bound, because it would suggest a measured value.
    course = " L".join(f"{x:.1f},{y:.1f}" for x, y, point in places if not point.bound)
    out = [_path(f"M{course}", one.colour, width=2.2, dashed=one.dashed)] if course else []
    for x, y, point in places:
        if point.high is not None and point.high > point.y:
            top = y_axis.at(point.high)
            out.append(_path(f"M{x:.1f},{y:.1f} V{top:.1f} M{x - 4:.1f},{top:.1f} h8", one.colour, width=1.3))
        if point.bound:
            out.append(_path(f"M{x:.1f},{y - 6:.1f} v-16 m-4,5 l4,-5 l4,5", one.colour, width=1.6))
        fill = "#ffffff" if point.bound else one.colour
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{one.colour}" stroke-width="2"/>')
    return out


def _path(course: str, colour: str, *, width: float = 1.0, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="{course}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"{dash}/>'


def _text(
    x: float, y: float, text: str, *, size: int, colour: str = INK, anchor: str = "start", weight: int = 400
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _ticks(low: float, high: float, steps: Sequence[int]) -> list[float]:
    out = []
    for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1):
        out += [
            step * 10.0**power for step in steps if low <= step * 10.0**power * 1.0001 and step * 10.0**power <= high
        ]
    return out


def _below(value: float) -> float:
    """Returns the next 1, 2 or 5 of a decade below, with some margin."""
    return max(tick for tick in _ticks(value / 20, value, (1, 2, 5)) if tick <= value * 0.9)


def _above(value: float) -> float:
    """Returns the next 1, 2 or 5 of a decade above, with some margin."""
    return min(tick for tick in _ticks(value, value * 20, (1, 2, 5)) if tick >= value * 1.15)


def _apart(wanted: Sequence[float]) -> list[float]:
    """Returns positions near the wanted ones, in the same order, at least a line apart."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [wanted[i] for i in order]
    for _ in range(200):
        moved = False
        for i in range(len(placed) - 1):
            short = LINE_HEIGHT - (placed[i + 1] - placed[i])
            if short > 0.01:
                placed[i] -= short / 2
                placed[i + 1] += short / 2
                moved = True
        if not moved:
            break
    lowest = HEIGHT - BOTTOM + 4
    over = max(0.0, placed[-1] - lowest) if placed else 0.0
    out = [0.0] * len(wanted)
    for i, y in zip(order, placed, strict=True):
        out[i] = y - over
    return out
