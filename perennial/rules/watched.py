"""Which stretch of event time a monitoring run watches, and which judged windows late labels reopen. Pure."""

from datetime import UTC, datetime
from typing import NamedTuple

from perennial.rules.past import LATE, Past, PastWindow
from perennial.spec import Window

FIRST_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
LOOKED_BACK = 12  # windows: labels that come later than that change nothing any more


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


def reopened(past: Past, labelled_now: dict[str, int], reopen_share: float | None) -> list[PastWindow]:
    """The windows that late labels reopen: judged once, and at least `reopen_share` of their rows labelled since.

    Args:
        labelled_now: rows with a label by now, by decision id.
    """
    if reopen_share is None:
        return []
    again = {w.decision_id.removesuffix(LATE) for w in past.windows if w.decision_id.endswith(LATE)}
    return [
        w
        for w in past.windows[-LOOKED_BACK:]
        if w.decision_id in labelled_now
        and w.decision_id not in again
        and not w.decision_id.endswith(LATE)
        and labelled_now[w.decision_id] - w.evidence.labelled_rows >= max(reopen_share * w.evidence.rows, 1)
    ]


def could_reopen(past: Past, reopen_share: float | None, before: datetime) -> list[PastWindow]:
    """The windows worth counting labels for: too few labelled when they were judged, ended before `before`, not reopened."""
    if reopen_share is None:
        return []
    asked = {w.decision_id: w.evidence.rows for w in past.windows if w.evidence.labelled_share <= 1 - reopen_share}
    found = reopened(past, asked, reopen_share)
    return [w for w in found if w.end <= before]
