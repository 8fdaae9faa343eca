"""What a version is held to: its promise from promotion, made sharper, and lowered where it proved too much. Pure.

A promise measured on few rows says little, so the version's first windows sharpen it (by the inverse of their
variances) as long as they raised no alarm. A retrain that was rejected has shown that the world had become harder:
newer rows made no better model. For some windows the champion is held to what it kept in the window that asked for it,
unless a later one keeps the promise after all. Windows that share rows count once: they say the same thing twice.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from perennial.rules.evidence import Z_95, Performance
from perennial.rules.metrics import Interval, gain, higher_is_better
from perennial.rules.past import Past, PastWindow, has_other_rows
from perennial.spec import Monitoring

SHARPENED_BY = 3  # windows: later ones are what is judged


def promise_for(
    promised: Interval, metric: str, version: int, past: Past, policy: Monitoring, start: datetime, end: datetime
) -> Interval:
    """The promise for the window [start, end) of `version`.

    Args:
        promised: the metric on the holdout rows at promotion, with its interval; NaN bounds where it has none.
        past: as it was known at the moment of the judgement (`Past.until`).
    """
    own = [w for w in past.before(start, end) if w.evidence.version == version and w.evidence.performance]
    rejection = standing_rejection(past, own)
    # For a while only, twice as long after each rejection: newer rows may come to make a better model after all.
    if rejection and rejection.since < policy.of_windows * 2 ** (rejection.times - 1):
        return _seen(rejection.window)
    first = _first_apart(own, start)[:SHARPENED_BY]
    quiet = [w for w in first if w.verdict == "hold" and w.guard is None and _kept(w)]
    found = _pool([promised, *(_seen(w) for w in quiet)])
    return _season(found, metric, past, policy, start)


class Rejection(NamedTuple):
    """The last window that asked for a retrain which was rejected, how many did, and the windows since.

    `newest`: the last of those that were counted since; the next one counts that has other rows than it.
    """

    window: PastWindow
    times: int
    since: int
    newest: PastWindow


def standing_rejection(past: Past, own: Sequence[PastWindow]) -> Rejection | None:
    """What a rejected retrain has shown, until a later window keeps the promise of then: the world is easier again.

    Args:
        own: the windows of one version, oldest first.
    """
    # An inconclusive retrain had too few labels: it has shown nothing of the world.
    rejected = {r.asked for r in past.retrains if r.ended == "rejected"}
    found: Rejection | None = None
    for window in own:
        if found and _keeps(window, found.window):
            found = None
        elif found and has_other_rows(found.newest, window.start, window.end):
            found = found._replace(since=found.since + 1, newest=window)
        if window.asked in rejected and window.evidence.performance:
            found = Rejection(window, 1 + (found.times if found else 0), 0, window)
    return found


def _first_apart(own: Sequence[PastWindow], start: datetime) -> list[PastWindow]:
    """Windows that share no rows with each other nor with the one from `start` on, the oldest kept.

    Nothing sharpens the promise of a window since the promotion: it would be held to its own rows.
    """
    found: list[PastWindow] = []
    for window in own:
        if window.end <= start and (not found or window.start >= found[-1].end):
            found.append(window)
    return found


def _keeps(window: PastWindow, asked: PastWindow) -> bool:
    seen, then = window.evidence.performance, asked.evidence.performance
    return seen is not None and then is not None and gain(then.metric, then.promised, seen.measured) <= 0


def _kept(window: PastWindow) -> bool:
    seen = window.evidence.performance
    return seen is not None and seen.certain_loss_share <= 0


def _seen(window: PastWindow) -> Interval:
    seen = window.evidence.performance
    assert seen is not None
    return Interval(seen.measured, seen.low, seen.high)


def _pool(intervals: Sequence[Interval]) -> Interval:
    first = intervals[0]
    errors = [(i.high - i.low) / (2 * Z_95) for i in intervals]
    if not math.isfinite(errors[0]) or errors[0] <= 0:
        return first
    usable = [(i.value, e) for i, e in zip(intervals, errors, strict=True) if math.isfinite(e) and e > 0]
    weights = [1 / e**2 for _, e in usable]
    value = sum(v * w for (v, _), w in zip(usable, weights, strict=True)) / sum(weights)
    half = Z_95 / math.sqrt(sum(weights))
    return Interval(value, value - half, value + half)


def _season(found: Interval, metric: str, past: Past, policy: Monitoring, start: datetime) -> Interval:
    """Lower the promise by what was lost in the window a season earlier: then it was no reason to retrain either."""
    before = season_before(past, policy, start)
    seen: Performance | None = before.evidence.performance if before else None
    if seen is None or seen.loss <= 0:
        return found
    shift = -seen.loss if higher_is_better(metric) else seen.loss
    lowered = Interval(*(value + shift for value in found))
    return lowered if gain(metric, lowered.value, found.value) < 0 else found


def season_before(past: Past, policy: Monitoring, start: datetime) -> PastWindow | None:
    """The window one season earlier: the one that begins nearest, within half its length; None where there is none."""
    if policy.season is None:
        return None
    then = start - policy.season
    near = [w for w in past.windows if abs(w.start - then) <= (w.end - w.start) / 2]
    return min(near, key=lambda w: abs(w.start - then), default=None)
