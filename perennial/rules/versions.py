"""Where history features look their past up: the versions that count, by key, as arrays. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.rules.exact import Floats, Ints
from perennial.rules.flatten import flatten
from perennial.rules.joins import FOREVER, MOMENT, corrected_at
from perennial.rules.keyed import group_order
from perennial.spec.history import Calendar, History, Window
from perennial.spec.sources import Source

_STEPS = {"hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y"}
SMALLEST, LARGEST = 2.0**-400, 2.0**400  # of a value that is summed; its square is still summed exactly


@dataclass(frozen=True)
class Terms:
    """What a feature aggregates, a value for every version.

    Args:
        numbers: 0 where there is none, and for texts.
        there: which values count: neither null nor NaN or infinite.
        texts: where the values are no numbers.
        codes: a number for each different value, where doubles would take some of them as the same.
    """

    numbers: Floats
    there: NDArray[np.bool_]
    texts: pl.Series | None = None
    codes: Floats | None = None

    @classmethod
    def of(cls, values: pl.Series) -> "Terms":
        """The values of a column."""
        if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
            return cls(_codes(values), values.is_not_null().to_numpy(), values)
        floats = values.cast(pl.Float64)
        numbers = floats.fill_null(np.nan).to_numpy()
        there = np.isfinite(numbers)
        codes = _codes(values) if _needs_codes(values.dtype, numbers) else None
        return cls(numbers if there.all() else np.where(there, numbers, 0.0), there, codes=codes)

    @property
    def told_apart(self) -> Floats:
        """Numbers that differ where the values do."""
        return self.numbers if self.codes is None else self.codes

    @property
    def summed(self) -> NDArray[np.bool_]:
        """Which values are summed: all that count, for what cannot be summed makes its sums unknown, see `addends`."""
        return self.there

    @cached_property
    def addends(self) -> Floats:
        """The numbers as they are summed: NaN where one is too large, or too close to 0, for an exact sum of squares."""
        size = np.abs(self.numbers)
        unfit = (size >= LARGEST) | ((size < SMALLEST) & (size > 0))
        return np.where(unfit, np.nan, self.numbers) if unfit.any() else self.numbers

    def at(self, places: Ints | slice) -> "Terms":
        """Those of some versions."""
        texts = None if self.texts is None else self.texts[places if isinstance(places, slice) else pl.Series(places)]
        codes = None if self.codes is None else self.codes[places]
        return Terms(self.numbers[places], self.there[places], texts, codes)


def _codes(values: pl.Series) -> Floats:
    return values.rank("dense").fill_null(0).cast(pl.Float64).to_numpy()


def _needs_codes(dtype: pl.DataType, numbers: Floats) -> bool:
    """Whether doubles are too few for such values: whole numbers from 2**53 on, and decimals."""
    if dtype.is_decimal():
        return True
    return dtype.is_integer() and bool((np.abs(numbers) >= 2.0**53).any())


@dataclass(frozen=True)
class Found:
    """Versions by group and then by when they happened.

    Args:
        group: their key; `happened`, `begins`, `until`: in microseconds.
        terms: by the code of the expression.
        keys: the source's key, where rows must not count for themselves.
        before: how many versions stand before these.
        calendars: when they leave the calendar windows of the features.
    """

    group: Ints
    happened: Ints
    begins: Ints
    until: Ints
    terms: Mapping[str, Terms]
    keys: pl.DataFrame | None = None
    before: int = 0
    calendars: Mapping[Calendar, Ints] = field(default_factory=dict)

    def leaves(self, window: Window) -> Ints:
        """When they leave a window, in microseconds."""
        return self.calendars[window] if isinstance(window, Calendar) else leaves(self.happened, window)

    def at(self, places: slice) -> "Found":
        """A stretch of them."""
        terms = {name: terms.at(places) for name, terms in self.terms.items()}
        keys = None if self.keys is None else self.keys[places]
        place = (self.group[places], self.happened[places], self.begins[places], self.until[places])
        calendars = {window: ends[places] for window, ends in self.calendars.items()}
        return Found(*place, terms, keys, self.before + places.start, calendars)


class Past(Protocol):
    """Where versions are looked up by key."""

    def find(
        self, rows: pl.DataFrame, by: dict[str, str], features: Sequence[History], since: int | None, *, own: bool
    ) -> tuple[Ints, Ints, Found]:
        """The rows that have a key, by number, and its group; and the versions of those groups.

        Args:
            by: entity column to source column; `features`: all with these columns.
            since: versions that happened by this microsecond are in no window; None: all may be.
            own: whether the versions' own keys are wanted.
        """
        ...


class Versions:
    """All versions of a log in one frame: for training and batch scoring, whose rows ask for most of its keys."""

    def __init__(self, log: pl.DataFrame, source: Source) -> None:
        self._versions, self._source = counting_versions(log, source), source

    def find(
        self, rows: pl.DataFrame, by: dict[str, str], features: Sequence[History], since: int | None, *, own: bool
    ) -> tuple[Ints, Ints, Found]:
        """See `Past`."""
        names = {"_happened", "_from", "_until", *by.values(), *(self._source.key if own else ())}
        read = names.union(*(feature.expression.meta.root_names() for feature in features))
        recent = self._versions.select(name for name in self._versions.columns if name in read)
        if since is not None:
            recent = recent.filter(pl.col("_happened") > since)
        if not by:
            asked, group = np.arange(len(rows)), np.zeros(len(rows), np.int64)
            versions = recent.sort("_happened", maintain_order=True)
        else:
            keyed = rows.select(*by).with_row_index("_row").drop_nulls(list(by))
            groups = keyed.select(*by).unique().with_row_index("_group")
            keyed = keyed.join(groups, on=list(by), maintain_order="left")
            asked, group = keyed["_row"].to_numpy().astype(np.int64), keyed["_group"].to_numpy().astype(np.int64)
            versions = recent.join(groups.rename(by), on=list(by.values()), maintain_order="left")
            of_version = versions["_group"].to_numpy().astype(np.int64)
            order = group_order(of_version, versions["_happened"].to_numpy())
            versions = versions[order]
            return asked, group, arrays(versions, of_version[order], features, self._source, own=own)
        return asked, group, arrays(versions, np.zeros(len(versions), np.int64), features, self._source, own=own)


def arrays(
    versions: pl.DataFrame, group: Ints, features: Sequence[History], source: Source, *, own: bool = True
) -> Found:
    """Sorted versions as arrays, with what the features aggregate."""
    expressions = {feature.code: feature.expression for feature in features}
    valued = versions.select(**{f"_{n}": e for n, e in enumerate([pl.col("_happened"), *expressions.values()])})
    happened = versions["_happened"].to_numpy()
    return Found(
        group=group,
        happened=happened,
        begins=versions["_from"].to_numpy(),
        until=versions["_until"].to_numpy(),
        terms={code: Terms.of(valued[f"_{n}"]) for n, code in enumerate(expressions, start=1)},
        keys=versions.select(source.key) if own else None,
        calendars={w: leaves(happened, w) for w in {f.window for f in features} if isinstance(w, Calendar)},
    )


def counting_versions(log: pl.DataFrame, source: Source) -> pl.DataFrame:
    """The log's versions with `_happened`, and `_from` and `_until`: while each had happened and was the latest known.

    Args:
        log: every version of every row of the source, with `_known_at`, in the order they became known.

    Versions known at the same instant are one piece of knowledge: the last of them counts. One without event time counts
    nowhere, and ends what it corrects.
    """
    ordered = flatten(source, log).drop_nulls(MOMENT).sort(MOMENT, maintain_order=True)
    timed = ordered.with_columns(
        _happened=pl.col(str(source.event_time)).dt.epoch("us"),
        _from=pl.max_horizontal(MOMENT, str(source.event_time)).dt.epoch("us"),
        _until=corrected_at(ordered, source.correction_key),
    )
    return timed.filter(pl.col("_happened").is_not_null() & (pl.col("_from") < pl.col("_until")))


def leaves(happened: Ints, window: Window) -> Ints:
    """When rows that happened at these instants leave the window, in microseconds."""
    if window is None:
        return np.full(len(happened), FOREVER)
    if isinstance(window, timedelta):
        return happened + window // timedelta(microseconds=1)
    instants = pl.Series(happened).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(window.time_zone)
    step = _STEPS[window.period]
    if window.period == "hour":
        return instants.dt.truncate(step).dt.offset_by(step).dt.epoch("us").to_numpy()
    dates = instants.dt.date().dt.truncate(step).dt.offset_by(step)
    begins = pl.DataFrame({"day": dates.unique()}).with_columns(begins=_begin_of("day", window))
    return pl.DataFrame({"day": dates}).join(begins, on="day", how="left", maintain_order="left")["begins"].to_numpy()


def _begin_of(day: str, window: Calendar) -> pl.Expr:
    """When a day begins: at its first midnight or, where the clock leaps over midnight, at the first hour that it has."""
    hours = (pl.col(day).cast(pl.Datetime("us")) + timedelta(hours=hour) for hour in range(4))
    zoned = (h.dt.replace_time_zone(window.time_zone, ambiguous="earliest", non_existent="null") for h in hours)
    return pl.coalesce(*zoned).dt.epoch("us")
