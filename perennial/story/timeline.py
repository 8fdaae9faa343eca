"""The timeline as one inline SVG: performance with its intervals, drift, who served, and what was done.

Every mark is a link to the row it is drawn from, and says on pointing at it what that row says. Paths, classes and
presentation attributes only: the page's policy allows no style of its own.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from perennial.datadocs.text import percent, title, when
from perennial.rules.drift import say_metric
from perennial.story.read import Event, Story, Window

WIDTH, LEFT, RIGHT = 1120.0, 58.0, 70.0  # on the right there is room for what was done last, and its date
PERFORMANCE, DRIFT, SERVED, DONE, AXIS = 190.0, 56.0, 26.0, 30.0, 22.0
GAP = 16.0
MARKS = {  # shape by what was done; colours come from the classes
    ("retrain", "promoted"): "M0-6L6 6L-6 6z",
    ("promotion", "promote"): "M0-6L6 6L-6 6z",
    ("promotion", "reject"): "M-5-5L5 5M5-5L-5 5",
    ("rollout", "rolled_back"): "M5-5L-6 0L5 5z",
    ("monitor", "retrain"): "M0-6L6 0L0 6L-6 0z",
    ("monitor", "page"): "M-1.5-7h3v9h-3zM-1.5 4h3v3h-3z",
}
PLAIN_MARK = "M-4-4h8v8h-8z"


@dataclass(frozen=True)
class Scale:
    """From moments and values to places."""

    first: datetime
    last: datetime
    low: float
    high: float

    def x(self, moment: datetime) -> float:
        """Where a moment stands; what lies outside stands at the edge."""
        share = (moment - self.first) / max(self.last - self.first, timedelta(seconds=1))
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value of the metric stands in the first lane."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return PERFORMANCE - 8 - min(1.0, max(0.0, share)) * (PERFORMANCE - 20)


def timeline(story: Story) -> str:
    """The picture; a sentence where there is nothing to draw yet."""
    if not story.windows and not story.reigns:
        return '<p class="note">Nothing was watched and nothing serves yet.</p>'
    scale = _scale(story)
    drift = PERFORMANCE + GAP
    served = drift + DRIFT + GAP
    done = served + SERVED + GAP
    axis = done + DONE
    lanes = [
        _grid(scale, axis),
        _performance(story, scale),
        *(_drift(window, scale, drift) for window in story.windows),
        _served(story, scale, served),
        _done(story, scale, done),
        _names(scale, story, (drift, served, done)),
    ]
    return (
        f'<svg class="timeline" role="img" viewBox="0 0 {WIDTH:g} {axis + AXIS:g}" '
        f'aria-label="{title(_spoken(story))}">{"".join(lanes)}</svg>'
    )


def _scale(story: Story) -> Scale:
    moments = [m for w in story.windows for m in (w.row["window_start"], w.row["window_end"]) if m]
    moments += [r.start for r in story.reigns] if not moments else []
    first, last = min(moments), max(moments)
    inside = [e.at for e in story.events if e.at >= first]
    last = max([last, *inside])
    values = [v for w in story.windows for v in _values(w) if math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 0.1
    return Scale(first, max(last, first + timedelta(hours=1)), low - room, high + room)


def _values(window: Window) -> Iterator[float]:
    seen, guessed = window.evidence.performance, window.evidence.estimate
    if seen:
        yield from (seen.low, seen.measured, seen.high, seen.promised)
    if guessed:
        yield guessed.value


def _grid(scale: Scale, bottom: float) -> str:
    lines = []
    for moment in _ticks(scale.first, scale.last):
        x = scale.x(moment)
        lines.append(
            f'<path class="g" d="M{x:.1f} 0V{bottom:.1f}"/><text class="t" x="{x + 3:.1f}" y="{bottom + 14:.1f}">'
            f"{moment:%Y-%m-%d}</text>"
        )
    return "".join(lines)


def _ticks(first: datetime, last: datetime) -> Iterable[datetime]:
    """At most eight days, evenly apart."""
    step = max(1, math.ceil((last - first) / timedelta(days=8)))
    day = first.replace(hour=0, minute=0, second=0, microsecond=0)
    while day <= last:
        if day >= first:
            yield day
        day += timedelta(days=step)


def _performance(story: Story, scale: Scale) -> str:
    marks = []
    for window in story.windows:
        seen, guessed = window.evidence.performance, window.evidence.estimate
        start, end = scale.x(window.row["window_start"]), scale.x(window.row["window_end"])
        middle = (start + end) / 2
        parts = []
        if seen:
            parts += [
                f'<path class="promise" d="M{start + 1:.1f} {scale.y(seen.promised):.1f}H{end - 1:.1f}"/>',
                f'<path class="interval" d="M{middle:.1f} {scale.y(seen.low):.1f}V{scale.y(seen.high):.1f}"/>',
                f'<circle class="seen {window.row["verdict"]}" cx="{middle:.1f}" cy="{scale.y(seen.measured):.1f}" r="3.6"/>',
            ]
        if guessed:
            at = scale.y(guessed.value)
            parts.append(
                f'<path class="guess" d="M{middle + 7:.1f} {at - 4:.1f}l4 4l-4 4l-4-4z"/>',
            )
        if parts:
            marks.append(_link(window.anchor, _say_window(window), "".join(parts)))
    return "".join(marks)


def _drift(window: Window, scale: Scale, top: float) -> str:
    share = window.drifted_share
    start, end = scale.x(window.row["window_start"]), scale.x(window.row["window_end"])
    base = f'<path class="z" d="M{start:.1f} {top + DRIFT:.1f}H{end:.1f}"/>'
    if share is None:
        return base
    tall = max(1.0, share * DRIFT) if share else 0.0
    bar = f"M{start + 0.8:.1f} {top + DRIFT:.1f}v-{tall:.1f}H{end - 0.8:.1f}v{tall:.1f}z"
    said = f"{percent(share)} of {len(window.evidence.drift)} inputs drifted: " + (
        ", ".join(window.evidence.drifted_inputs[:5]) or "none"
    )
    return base + _link(window.anchor, said, f'<path class="drift" d="{bar}"/>')


def _served(story: Story, scale: Scale, top: float) -> str:
    spans = []
    for number, reign in enumerate(story.reigns):
        start, end = scale.x(reign.start), scale.x(reign.end) if reign.end else WIDTH  # who serves now serves on
        if end - start < 0.5:
            continue
        label = f"v{reign.version}" if end - start > 24 else ""
        until = when(reign.end) if reign.end else "now"
        said = f"version {reign.version} served from {when(reign.start)} to {until}: {reign.reason}"
        shape = (
            f'<rect class="reign s{number % 2}" x="{start:.1f}" y="{top:.1f}" width="{end - start:.1f}" height="{SERVED:g}"/>'
            f'<text class="v" x="{start + 6:.1f}" y="{top + 17:.1f}">{label}</text>'
        )
        spans.append(_link(f"v-{reign.version}", said, shape))
    return "".join(spans)


def _done(story: Story, scale: Scale, top: float) -> str:
    marks, middle, last = [], top + DONE / 2, -99.0
    for event in (e for e in story.events if e.at >= scale.first and e.kind != "retrain"):
        x = max(scale.x(event.at), last + 13)  # side by side where they fell into one moment
        last = x
        shape = f'<path class="mark {_kind(event)}" transform="translate({x:.1f} {middle:.1f})" d="{_shape(event)}"/>'
        marks.append(_link(event.anchor, f"{say_event(event)} {when(event.at)}: {event.reason}", shape))
    return "".join(marks)


def _shape(event: Event) -> str:
    return MARKS.get((event.kind, event.verdict), PLAIN_MARK)


def _kind(event: Event) -> str:
    bad = event.verdict in ("page", "reject", "rolled_back", "failed")
    return "bad" if bad else "warn" if event.kind == "monitor" else "ok"


def say_event(event: Event) -> str:
    """An event in two or three words."""
    version = f" of version {event.version}" if event.version is not None else ""
    words = {
        "monitor": f"verdict on version {event.version}: {event.verdict}",
        "promotion": f"promotion{version}: {event.verdict}",
        "retrain": f"retraining ended, version {event.version}: {event.verdict}",
        "rollout": f"roll-out{version}: {event.verdict.replace('_', ' ')}",
    }
    return words.get(event.kind, f"{event.kind}: {event.verdict}")


def _names(scale: Scale, story: Story, tops: tuple[float, float, float]) -> str:
    metric = next((w.evidence.performance.metric for w in story.windows if w.evidence.performance), None)
    drift, served, done = tops
    found = [f'<text class="t" x="0" y="{y:.1f}">{name}</text>' for y, name in (
        (drift + 12, "drifted"), (drift + 26, "inputs"), (served + 17, "served"), (done + 19, "events"),
    )]  # fmt: skip
    if metric:
        found.append(f'<text class="t" x="0" y="{PERFORMANCE / 2:.1f}">{title(say_metric(metric))}</text>')
        edges = ((scale.high, 12.0), (scale.low, PERFORMANCE - 4))
        found += [f'<text class="t" x="0" y="{y:.1f}">{value:.3f}</text>' for value, y in edges]
    return "".join(found)


def _say_window(window: Window) -> str:
    row, seen, guessed = window.row, window.evidence.performance, window.evidence.estimate
    span = f"{when(row['window_start'])} to {when(row['window_end'])}, version {row['version']}: {row['verdict']}."
    parts = [span]
    if seen:
        parts.append(
            f"{say_metric(seen.metric)} {seen.measured:.3f} ({seen.low:.3f} to {seen.high:.3f}), promised {seen.promised:.3f}."
        )
    if guessed:
        parts.append(f"Estimated before labels: {guessed.value:.3f}.")
    return " ".join(parts)


def _link(anchor: str, said: str, shape: str) -> str:
    return f'<a href="#{title(anchor)}"><title>{title(said, 600)}</title>{shape}</a>'


def _spoken(story: Story) -> str:
    serving = story.serving
    now = f"version {serving.version} serves" if serving else "nothing serves"
    return f"{len(story.windows)} windows watched, {len(story.reigns)} versions served; now {now}"
