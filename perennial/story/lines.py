"""Several policies over the same windows as one inline SVG: a line each, a dot where a new model took over."""

from collections.abc import Sequence
from datetime import datetime

from perennial.datadocs.text import title
from perennial.rules.recommend import BASELINES, Account, Backtest

WIDTH, HEIGHT, LEFT, RIGHT, FOOT = 1120.0, 320.0, 58.0, 12.0, 22.0


def lines(backtest: Backtest) -> str:
    """The picture. Lines without a model are dashed; what lies outside the models' range is drawn at its edge."""
    shown = [account for account in backtest.accounts if any(value is not None for value in account.metric)]
    models = [v for a in shown if a.name not in BASELINES for v in a.metric if v is not None]
    if not models:
        return '<p class="note">The metric is defined in no window.</p>'
    low, high = min(models), max(models)
    room = (high - low) * 0.15 or 0.05
    low, high = low - room, high + room
    parts = [_grid(backtest, low, high)]
    took_over = {c.strategy.name: {s.at for s in c.steps if s.ended == "promoted"} for c in backtest.courses}
    for number, account in enumerate(shown):
        parts.append(_line(account, number, backtest, low, high, took_over.get(account.name, set())))
    names = ", ".join(f"{a.name} {a.mean:.4f}" for a in shown if a.mean is not None)
    return (
        f'<svg class="timeline" role="img" viewBox="0 0 {WIDTH:g} {HEIGHT + FOOT:g}" '
        f'aria-label="{title(f"Mean {backtest.metric} by policy: {names}", 600)}">{"".join(parts)}</svg>'
    )


def _x(at: int, count: int) -> float:
    return LEFT + (at + 0.5) / count * (WIDTH - LEFT - RIGHT)


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low)
    return HEIGHT - 6 - min(1.0, max(0.0, share)) * (HEIGHT - 16)


def _grid(backtest: Backtest, low: float, high: float) -> str:
    count = len(backtest.windows)
    step = max(1, -(-count // 9))
    marks = "".join(
        f'<path class="g" d="M{_x(at, count):.1f} 0V{HEIGHT:g}"/><text class="t" x="{_x(at, count) + 3:.1f}" '
        f'y="{HEIGHT + 14:g}">{_day(backtest.windows[at].start)}</text>'
        for at in range(0, count, step)
    )
    edges = f'<text class="t" x="0" y="12">{high:.3f}</text><text class="t" x="0" y="{HEIGHT - 2:g}">{low:.3f}</text>'
    return marks + edges + f'<text class="t" x="0" y="{HEIGHT / 2:g}">{title(backtest.metric)}</text>'


def _line(account: Account, number: int, backtest: Backtest, low: float, high: float, took_over: set[datetime]) -> str:
    count = len(backtest.windows)
    points = [
        (_x(at, count), _y(value, low, high)) if value is not None else None for at, value in enumerate(account.metric)
    ]
    path = "".join(
        f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}"
        for before, point in zip([None, *points[:-1]], points, strict=True)
        if point
    )
    dots = "".join(
        f'<circle class="p{number % 9}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3.4"/>'
        for at, point in enumerate(points)
        if point and at and backtest.windows[at - 1].end + backtest.lag in took_over
    )
    dashed = " plain" if account.name in BASELINES else ""
    said = f"{account.name}: mean {account.mean:.4f}" if account.mean is not None else account.name
    return f'<g><title>{title(said)}</title><path class="line p{number % 9}{dashed}" d="{path}"/>{dots}</g>'


def legend(accounts: Sequence[Account]) -> str:
    """Which line is which."""
    return "".join(
        f'<span><svg class="key" viewBox="0 0 18 8"><path class="line p{number % 9}{" plain" if a.name in BASELINES else ""}" '
        f'd="M0 4H18"/></svg> {title(a.name)}</span>'
        for number, a in enumerate(a for a in accounts if any(v is not None for v in a.metric))
    )


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
