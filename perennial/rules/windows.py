"""Which rows a model learns from and which it is judged on: by event time, never at random."""

from datetime import datetime, timedelta

import polars as pl
from pydantic import BaseModel

MINIMUM_ROWS = 20
LARGEST_HOLDOUT_SHARE = 0.3


class TooFewRows(ValueError):
    """There are not enough labelled rows to train on."""


class Windows(BaseModel, frozen=True):
    """train_start <= training < validation_start <= validation < holdout_start <= holdout <= holdout_end."""

    train_start: datetime
    validation_start: datetime
    holdout_start: datetime
    holdout_end: datetime


def split_windows(
    event_times: pl.Series, holdout: timedelta, *, minimum_holdout_rows: int = 0, validation_share: float = 0.1
) -> Windows:
    """Keep the newest `holdout` of labelled rows for the judgement and the newest tenth of the rest for stopping.

    The end is the newest labelled row, not the clock: labels arrive late. Where `holdout` spans fewer than
    `minimum_holdout_rows`, as many are held out; where that is more than 30% of the rows, the newest 30% instead. Rows of one
    instant stay together, so shares are met as nearly as instants allow.

    Raises:
        TooFewRows: fewer than 20 labelled rows, or all of them at one instant.
    """
    times = event_times.drop_nulls().sort()
    if len(times) < MINIMUM_ROWS or times[0] == times[-1]:
        raise TooFewRows(
            f"{len(times)} labelled rows are known, from {times.min()!s} to {times.max()!s}; at least {MINIMUM_ROWS} over "
            "more than one instant are needed. Nothing was trained. Wait for labels, or train with a later as_of."
        )
    end: datetime = times[-1]
    enough: datetime = times[min(max(0, len(times) - minimum_holdout_rows), len(times) - 1)]
    holdout_start = max(min(end - holdout, enough), _boundary(times, 1 - LARGEST_HOLDOUT_SHARE) or end)
    training = times.filter(times < holdout_start)
    if training.is_empty():  # the oldest instant holds most rows
        holdout_start = times.filter(times > times[0])[0]
        training = times.filter(times < holdout_start)
    # None: the training rows are hardly more than one instant's, and none is left to stop by.
    validation_start = _boundary(training, 1 - validation_share) or holdout_start
    return Windows(
        train_start=training[0], validation_start=validation_start, holdout_start=holdout_start, holdout_end=end
    )


def _boundary(times: pl.Series, share: float) -> datetime | None:
    """The instant before which nearly that share of the rows lies; None where only few do, and no later instant is there."""
    wanted = int(len(times) * share)
    found: datetime = times[wanted]
    before, upto = int((times < found).sum()), int((times <= found).sum())
    if upto < len(times) and (before == 0 or upto - wanted < wanted - before):
        later: datetime = times[upto]
        return later
    return found if 2 * before >= wanted else None


def months(start: datetime, last: datetime, end: datetime | None = None) -> list[tuple[datetime, datetime]]:
    """The calendar months (UTC) from the one of `start` to the one of `last`, as [start, end), cut at `end` where given."""
    found = []
    first = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while first <= last:
        after = (first + timedelta(days=32)).replace(day=1)
        found.append((first, min(after, end) if end else after))
        first = after
    return [(begin, stop) for begin, stop in found if begin < stop]
