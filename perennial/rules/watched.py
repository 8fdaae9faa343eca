"""Which stretch of event time a monitoring run watches, and which judged windows late labels reopen. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from perennial.rules.past import Past, PastWindow
from perennial.spec import Monitoring, Window

FIRST_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
LOOKED_BACK = 12  # lengths of the window: labels that come later than that change nothing any more
LOOKED_BACK_AT_LEAST = timedelta(days=30)  # short windows, too, may wait long for their labels
AT_ONCE = 12  # windows reopened by one run, the newest: the others wait for the next


class Stretch(NamedTuple):
    """[start, end) of event time."""

    start: datetime
    end: datetime


def window_at(
    window: Window, moment: datetime, promoted_at: datetime | None = None, oldest_of_rows: datetime | None = None
) -> Stretch:
    """The window that a run of this moment watches; another run with the same arguments watches the same one.

    Args:
        promoted_at: when the champion began to serve; without it a window since promotion is a sliding one.
        oldest_of_rows: event time of the oldest of the last `window.rows` predictions before `moment`.
    """
    if window.by == "fixed":
        whole = (moment - FIRST_MONDAY) // window.length
        end = FIRST_MONDAY + whole * window.length
        return Stretch(end - window.length, end)
    if window.by == "since_promotion" and promoted_at is not None and promoted_at < moment:
        return Stretch(promoted_at, moment)
    if window.by == "rows" and oldest_of_rows is not None:
        return Stretch(oldest_of_rows, moment)
    return Stretch(moment - window.length, moment)


def could_reopen(past: Past, policy: Monitoring, window: Stretch) -> list[PastWindow]:
    """The windows that late labels may still reopen, of those before the one that is watched, oldest first.

    Not those since a promotion that the watched one holds: it looks at the same rows, with all labels there are.
    """
    if policy.reopen_share is None:
        return []
    back = max(LOOKED_BACK * (window.end - window.start), LOOKED_BACK_AT_LEAST)
    return [
        w
        for w in past.before(*window)
        if w.end > window.end - back
        and w.start != window.start
        and w.evidence.rows >= policy.minimum_rows
        and w.evidence.labelled_share <= 1 - policy.reopen_share
    ]


def reopened(
    past: Past, waiting: Sequence[PastWindow], labelled_now: Sequence[int], policy: Monitoring, moment: datetime
) -> list[PastWindow]:
    """The windows that late labels reopen, oldest first: those that have gained `reopen_share` of their rows since the last look.

    A row is looked at again as part of one window only: of windows that overlap the newest is taken, and none that
    overlaps one that was reopened before. So runs every hour over a week do not look at every week again.

    Args:
        labelled_now: for each of `waiting` how many of its rows have a label by now.
        moment: of the run; what it has reopened before it was started again counts among what it may.
    """
    assert policy.reopen_share is not None
    taken = [w for w in past.windows if w.late]
    left = AT_ONCE - sum(w.at == moment for w in taken)
    found: list[PastWindow] = []
    for window, labelled in sorted(zip(waiting, labelled_now, strict=True), key=lambda pair: pair[0].end, reverse=True):
        rows = window.evidence.rows
        gained = labelled - round(window.evidence.labelled_share * rows)
        if labelled < policy.minimum_rows or gained < policy.reopen_share * rows or len(found) >= left:
            continue
        if not any(_overlap(window, other) for other in taken):
            found.append(window)
            taken.append(window)
    return found[::-1]


def _overlap(one: PastWindow, other: PastWindow) -> bool:
    """Whether two windows, not one and the same, share rows: another version's are others."""
    same = (one.start, one.end) == (other.start, other.end)
    apart = one.end <= other.start or other.end <= one.start
    return not (same or apart) and one.evidence.version == other.evidence.version
