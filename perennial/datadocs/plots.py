"""Small plots as inline SVG: a bar per batch. Paths and presentation attributes only: the page's policy allows no style."""

from collections.abc import Sequence

from perennial.datadocs.text import title

WIDTH, HEIGHT = 240.0, 26.0
WIDEST_SLOT = 12.0
LEAST = 1.5  # a bar that is not nothing is seen


def bars(
    values: Sequence[float | None],
    refused: Sequence[bool],
    *,
    label: str,
    key: str,
    top: float | None = None,
    width: float = WIDTH,
    height: float = HEIGHT,
    below: Sequence[float | None] | None = None,
) -> str:
    """A bar per batch, oldest left.

    Args:
        values: heights, in any unit; None leaves a gap, also in the base line.
        refused: which batches were refused: their bars have a colour of their own.
        label: what a screen reader says of the plot.
        key: under which the page's script finds the numbers.
        top: the value that fills the height; by default the largest.
        below: parts of the values drawn over their feet, such as the quarantined rows of all rows.
    """
    scale = top or max((value or 0.0 for value in values), default=0.0) or 1.0
    slot = min(width / max(1, len(values)), WIDEST_SLOT)
    drawn = [
        ("b", _bars([None if bad else value for value, bad in zip(values, refused, strict=True)], slot, scale, height)),
        ("r", _bars([value if bad else None for value, bad in zip(values, refused, strict=True)], slot, scale, height)),
        ("q", _bars(below, slot, scale, height, least=0.0) if below else ""),
        ("z", _base(values, slot, height)),
    ]
    paths = "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in drawn if path)
    return (
        f'<svg class="plot" role="img" tabindex="-1" viewBox="0 0 {width:g} {height + 1:g}" preserveAspectRatio="none" '
        f'data-series="{key}" data-slot="{slot / width:.6g}" aria-label="{title(label)}">{paths}</svg>'
    )


def _bars(values: Sequence[float | None], slot: float, scale: float, height: float, least: float = LEAST) -> str:
    gap = slot * 0.2
    path = []
    for at, value in enumerate(values):
        if value:
            tall = max(least, min(1.0, value / scale) * height)
            path.append(
                f"M{_number(at * slot)} {_number(height)}v-{_number(tall)}h{_number(slot - gap)}v{_number(tall)}z"
            )
    return "".join(path)


def _base(values: Sequence[float | None], slot: float, height: float) -> str:
    """The base line, where there were values."""
    path, start = [], None
    for at, value in enumerate([*values, None]):
        if value is not None and start is None:
            start = at
        if value is None and start is not None:
            path.append(
                f"M{_number(start * slot)} {_number(height)}h{_number((at - start) * slot)}v1h-{_number((at - start) * slot)}z"
            )
            start = None
    return "".join(path)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
