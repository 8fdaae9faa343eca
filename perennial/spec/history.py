"""Features of a row's past: one aggregate over the rows of a source, by key and window, as it was known at the moment."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Literal

import polars as pl

from perennial.spec.checks import column_pairs
from perennial.spec.expressions import expression_code

Aggregate = Literal["count", "sum", "mean", "min", "max", "std", "last", "distinct", "ewm"]
Period = Literal["hour", "day", "week", "month", "quarter", "year"]


@dataclass(frozen=True)
class Calendar:
    """A window that begins with the calendar's period: today, this week (from Monday), this month so far.

    Args:
        period: `hour`, `day`, `week`, `month`, `quarter` or `year`.
        time_zone: whose calendar, such as `America/New_York`: a day begins at its midnight.
    """

    period: Period
    time_zone: str


Window = timedelta | Calendar | None


@dataclass(frozen=True)
class History:
    """One feature: an aggregate of a source's rows with the same key, that had happened and were known at the moment.

    At a moment m the latest version of each row known by m counts, if it happened by m and within the window: after
    m minus a `timedelta`, or since the calendar period of m began. When a row happened is its source's `event_time`.
    A row of the entity never counts for itself.

    Args:
        name: the column that `features` finds it under.
        source: whose rows are aggregated; labels are a source like others, and count from when they were known.
        aggregate: `count`, `sum`, `mean`, `min`, `max`, `std` (of a sample), `last` (by when it happened), `distinct`
            (how many), `ewm` (mean with weights that halve every `half_life`).
        value: what is aggregated: a column, or a Polars expression that looks at one row; null and non-finite values do
            not count. None, for `count` alone: the rows themselves.
        by: the columns that must agree: names both sides share, or `{entity column: source column}`; none: all rows.
        window: how far back; None: everything (and for `ewm` 64 half-lives, beyond which a weight is below 1e-19).
        where: a Polars expression that looks at one row; only rows for which it is true count.
        half_life: of the weights of `ewm`.
        unit: what the value is counted in, for people.
        doc: what it means, for people.

    Without any row `count`, `sum` and `distinct` are 0 and the others null. Where a column of `by` is null, all are.
    """

    name: str
    source: str
    aggregate: Aggregate
    value: str | pl.Expr | None = field(default=None, compare=False)
    by: str | Sequence[str] | dict[str, str] = field(default=(), kw_only=True)
    window: Window = field(default=None, kw_only=True)
    where: pl.Expr | None = field(default=None, kw_only=True, compare=False)
    half_life: timedelta | None = field(default=None, kw_only=True)
    unit: str = field(default="", kw_only=True)
    doc: str = field(default="", kw_only=True)

    @property
    def columns(self) -> dict[str, str]:
        """The entity's columns and the source's columns they must equal."""
        return column_pairs(self.by)

    @property
    def expression(self) -> pl.Expr:
        """What is aggregated, null where the row does not count."""
        value = pl.lit(1) if self.value is None else pl.col(self.value) if isinstance(self.value, str) else self.value
        return value if self.where is None else pl.when(self.where).then(value)

    @cached_property
    def told(self) -> str:
        """The expression's text, for people: arguments may be left out of it."""
        return str(self.expression)

    @cached_property
    def code(self) -> str:
        """The expression exactly, by which features of one expression share its values."""
        return expression_code(self.expression)

    @property
    def reach_back(self) -> timedelta | None:
        """How long before a moment a row may have happened that counts for it; None: for ever."""
        spans = {"hour": 1, "day": 25, "week": 8 * 24, "month": 32 * 24, "quarter": 93 * 24, "year": 367 * 24}
        if isinstance(self.window, Calendar):
            return timedelta(hours=spans[self.window.period])
        if self.window is None and self.half_life is not None:
            return HALF_LIVES * self.half_life
        return self.window

    def __str__(self) -> str:
        """Everything that decides its values, for the hash of the features' code."""
        words = (self.name, self.source, self.aggregate, self.code, self.columns, self.window, self.half_life)
        return " ".join(str(word) for word in words)


HALF_LIVES = 64
"""After so many half-lives a row does not count for `ewm`: its weight is below 1e-19."""
