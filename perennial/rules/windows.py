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


def split_windows(event_times: pl.Series, holdout: timedelta, validation_share: float = 0.1) -> Windows:
    """Keep the newest `holdout` of labelled rows for the judgement and the newest tenth of the rest for stopping.

    The end is the newest labelled row, not the clock: labels arrive late. Where `holdout` spans more than 30% of the
    rows, the newest 30% are held out instead.

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
    earliest: datetime = times[int(len(times) * (1 - LARGEST_HOLDOUT_SHARE))]
    holdout_start = max(end - holdout, earliest)
    training = times.filter(times < holdout_start)
    if training.is_empty():  # the oldest instant holds most rows
        holdout_start = times.filter(times > times[0])[0]
        training = times.filter(times < holdout_start)
    validation_start: datetime = training[int(len(training) * (1 - validation_share))]
    if validation_start == training[0]:
        validation_start = holdout_start  # all training rows share an instant: none is left to stop by
    return Windows(
        train_start=training[0], validation_start=validation_start, holdout_start=holdout_start, holdout_end=end
    )


def months(start: datetime, last: datetime, end: datetime | None = None) -> list[tuple[datetime, datetime]]:
    """The calendar months (UTC) from the one of `start` to the one of `last`, as [start, end), cut at `end` where given."""
    found = []
    first = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while first <= last:
        after = (first + timedelta(days=32)).replace(day=1)
        found.append((first, min(after, end) if end else after))
        first = after
    return [(begin, stop) for begin, stop in found if begin < stop]
