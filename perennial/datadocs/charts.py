"""Line and bar charts as inline SVG with axes: classes and presentation attributes only, as the page's policy asks."""

from collections.abc import Sequence
from typing import NamedTuple

from perennial.datadocs.text import text, title

WIDTH, HEIGHT = 420.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 40.0
COLOURS = 6
ROW, BAR_LEFT, BAR_WIDTH = 22.0, 190.0, 420.0


class Line(NamedTuple):
    """Points to be joined, or marked with dots where `dots` is set. `colour`: from 0 to 5."""

    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dots: bool = False


class Axis(NamedTuple):
    """What an axis says, and from where to where it goes. `ticks`: five texts in place of its numbers."""

    label: str
    low: float
    high: float
    ticks: tuple[str, ...] = ()

    def tick(self, quarter: int) -> str:
        """What stands at a quarter of the axis, from 0 to 4."""
        return title(self.ticks[quarter]) if self.ticks else _tick(self.low + quarter / 4 * (self.high - self.low))

    @classmethod
    def over(cls, label: str, values: Sequence[float], from_zero: bool = False) -> "Axis":
        """An axis that holds all values, with a little room."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        low = min(0.0, low) if from_zero else low
        room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        return cls(label, low if from_zero and low == 0 else low - room, high + room)


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, *, label: str, diagonal: bool = False) -> str:
    """Lines over a common pair of axes; a value may be pointed at on its dots."""
    parts = [_axes(x, y)]
    if diagonal:
        parts.append(f'<path class="guide" d="{_path(Line([x.low, x.high], [y.low, y.high]), x, y)}"/>')
    for line in lines:
        if not line.dots:
            parts.append(f'<path class="line c{line.colour % COLOURS}" d="{_path(line, x, y)}"/>')
            continue
        parts += [
            f'<circle class="dot c{line.colour % COLOURS}" cx="{_n(_at(x, px, True))}" cy="{_n(_at(y, py, False))}" r="3.5">'
            f"<title>{title(f'{x.label} {_tick(px)}, {y.label} {_tick(py)}')}</title></circle>"
            for px, py in zip(line.x, line.y, strict=True)
        ]
    return _svg("".join(parts), WIDTH, HEIGHT, label)


def column_chart(
    values: Sequence[float],
    x: Axis,
    y: Axis,
    *,
    label: str,
    titles: Sequence[str],
    colours: Sequence[int] | None = None,
) -> str:
    """A column per value, of equal width, from left to right over the x axis."""
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    base, parts = _at(y, max(0.0, y.low), False), [_axes(x, y)]
    for at, (value, said) in enumerate(zip(values, titles, strict=True)):
        top = _at(y, value, False)
        colour = colours[at] if colours else 0
        parts.append(
            f'<rect class="column c{colour % COLOURS}" x="{_n(LEFT + at * slot)}" y="{_n(min(top, base))}" '
            f'width="{_n(slot * 0.86)}" height="{_n(abs(base - top))}"><title>{title(said)}</title></rect>'
        )
    return _svg("".join(parts), WIDTH, HEIGHT, label)


def ranked_bars(names: Sequence[str], values: Sequence[float], shown: Sequence[str], *, label: str) -> str:
    """A bar per name, one below the other; values below nothing go to the left of the line."""
    low, high = min([0.0, *values]), max([0.0, *values])
    scale = (BAR_WIDTH - BAR_LEFT - 70) / ((high - low) or 1.0)
    zero, parts = BAR_LEFT - low * scale, []
    for at, (name, value, said) in enumerate(zip(names, values, shown, strict=True)):
        top, wide = at * ROW + 4, abs(value) * scale
        left = zero if value >= 0 else zero - wide
        parts.append(
            f'<text class="name" x="{BAR_LEFT - 8:g}" y="{_n(top + 11)}" text-anchor="end">{title(name, 28)}</text>'
            f'<rect class="column c0" x="{_n(left)}" y="{_n(top)}" width="{_n(max(wide, 0.5))}" height="14"/>'
            f'<text class="tick" x="{_n(max(zero, left + wide) + 6)}" y="{_n(top + 11)}">{title(said)}</text>'
        )
    height = len(names) * ROW + 6
    parts.append(f'<path class="axis" d="M{_n(zero)} 0V{_n(height)}"/>')
    return _svg("".join(parts), BAR_WIDTH, height, label)


def legend(names: Sequence[str]) -> str:
    """What each colour stands for."""
    items = "".join(f'<li><i class="swatch c{at % COLOURS}"></i>{text(name, 40)}</li>' for at, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def _svg(inside: str, width: float, height: float, label: str) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" aria-label="{title(label)}">{inside}</svg>'
    )


def _axes(x: Axis, y: Axis) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT:g} {TOP:g}V{bottom:g}H{right:g}"/>']
    for quarter in range(5):
        share = quarter / 4
        across, up = LEFT + share * (right - LEFT), bottom - share * (bottom - TOP)
        if share:
            parts.append(f'<path class="grid" d="M{LEFT:g} {_n(up)}H{right:g}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6:g}" y="{_n(up + 4)}" text-anchor="end">{y.tick(quarter)}'
            f'</text><text class="tick" x="{_n(across)}" y="{bottom + 15:g}" text-anchor="middle">'
            f"{x.tick(quarter)}</text>"
        )
    parts.append(
        f'<text class="name" x="{_n((LEFT + right) / 2)}" y="{HEIGHT - 6:g}" text-anchor="middle">{title(x.label)}</text>'
        f'<text class="name" x="12" y="{_n((TOP + bottom) / 2)}" text-anchor="middle" '
        f'transform="rotate(-90 12 {_n((TOP + bottom) / 2)})">{title(y.label)}</text>'
    )
    return "".join(parts)


def _path(line: Line, x: Axis, y: Axis) -> str:
    points = (f"{_n(_at(x, px, True))} {_n(_at(y, py, False))}" for px, py in zip(line.x, line.y, strict=True))
    return "M" + "L".join(points)


def _at(axis: Axis, value: float, across: bool) -> float:
    share = (value - axis.low) / ((axis.high - axis.low) or 1.0)
    return LEFT + share * (WIDTH - LEFT - RIGHT) if across else HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _tick(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
