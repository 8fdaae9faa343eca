"""History features: what a row's past amounted to, as it was known at its moment. Pure functions of frames.

Every version of every row of a source counts during one stretch of moments: from when it had both happened and become
known, to when it leaves the window or a correction of it becomes known. So a feature at a moment is an aggregate over
the stretches that hold it, late rows and corrections included, and nothing has to be replayed. Moments are sorted once
by key; stretches become intervals of their positions, and aggregates are taken over those (`perennial.rules.exact`).
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol

import numpy as np
import polars as pl

from perennial.rules.aggregates import Counted, aggregate, countable, result_type
from perennial.rules.exact import Ints
from perennial.rules.flatten import flatten
from perennial.rules.joins import MOMENT
from perennial.spec.history import Calendar, History, Window
from perennial.spec.sources import Source

FOREVER = np.iinfo(np.int64).max // 4  # microseconds: far enough from the end of int64 to be added to
_STEPS = {"hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y"}


def add_history(rows: pl.DataFrame, past: "Past", features: Sequence[History], own: Sequence[str] = ()) -> pl.DataFrame:
    """The rows with one column more for every feature, in the rows' order.

    Args:
        rows: with `_known_at`, the moment of the prediction, and the columns of the features' keys.
        past: the source's versions, where they can be looked up by key.
        features: all of one source.
        own: the key, where the source is the entity itself: a row does not count for itself.
    """
    found: dict[str, pl.Series] = {}
    for by in dict.fromkeys(tuple(feature.columns.items()) for feature in features):
        wanted = [feature for feature in features if tuple(feature.columns.items()) == by]
        found |= _by_key(rows, past, wanted, dict(by), own)
    return rows.with_columns(found[feature.name].alias(feature.name) for feature in features)


class Past(Protocol):
    """Where the versions that count are looked up by key."""

    def versions_of(self, by: dict[str, str], groups: pl.DataFrame, since: int | None) -> pl.DataFrame:
        """`counting_versions` of these keys with their `_group`, by group and then by when they happened.

        Args:
            by: entity column to source column.
            groups: a row per key: the entity's columns, and `_group`.
            since: versions that happened by this microsecond are in no window; None: all may be.
        """
        ...


class Versions:
    """All versions of a log in one frame: for training and batch scoring, whose rows ask for most of its keys."""

    def __init__(self, log: pl.DataFrame, source: Source) -> None:
        self._versions = counting_versions(log, source)

    def versions_of(self, by: dict[str, str], groups: pl.DataFrame, since: int | None) -> pl.DataFrame:
        """See `Past`."""
        recent = self._versions if since is None else self._versions.filter(pl.col("_happened") > since)
        if not by:
            return recent.sort("_happened", maintain_order=True).with_columns(_group=pl.lit(0))
        keyed = recent.join(groups.rename(by), on=list(by.values()), maintain_order="left")
        return keyed.sort("_group", "_happened", maintain_order=True)


def counting_versions(log: pl.DataFrame, source: Source) -> pl.DataFrame:
    """The log's versions with `_happened`, and `_from` and `_until`: while each had happened and was the latest known.

    Args:
        log: every version of every row of the source, with `_known_at`, in the order they became known.

    Versions known at the same instant are one piece of knowledge: the last of them counts.
    """
    ordered = flatten(source, log).drop_nulls([MOMENT, str(source.event_time)]).sort(MOMENT, maintain_order=True)
    return ordered.with_columns(
        _happened=pl.col(str(source.event_time)).dt.epoch("us"),
        _from=pl.max_horizontal(MOMENT, str(source.event_time)).dt.epoch("us"),
        _until=pl.col(MOMENT).dt.epoch("us").shift(-1).over(list(source.key)).fill_null(FOREVER),
    ).filter(pl.col("_from") < pl.col("_until"))


def history_types(features: Sequence[History], columns: dict[str, pl.DataType]) -> dict[str, pl.DataType]:
    """Names and types of what `add_history` adds, from the source's columns."""
    empty = pl.LazyFrame(schema=columns)
    return {f.name: result_type(f, empty.select(_v=f.expression).collect_schema()["_v"]) for f in features}


def _by_key(
    rows: pl.DataFrame, past: "Past", features: Sequence[History], by: dict[str, str], own: Sequence[str]
) -> dict[str, pl.Series]:
    """The features of one set of key columns, each a value for every one of `rows`."""
    asked = rows.select(*by, MOMENT, *(name for name in own if name not in by)).with_row_index("_row")
    asked = asked.drop_nulls([*by, MOMENT])
    groups = asked.select(*by).unique().with_row_index("_group") if by else pl.DataFrame({"_group": [0]})
    asked = asked.join(groups, on=list(by), maintain_order="left") if by else asked.with_columns(_group=pl.lit(0))
    asked = asked.sort("_group", MOMENT, "_row")
    versions = past.versions_of(by, groups, _since(asked, features))
    parts = [_answer(some, events, features, own) for some, events in _pieces(asked, versions)]
    placed = pl.concat([asked.select("_row"), pl.concat(parts)], how="horizontal") if parts else None
    every = pl.DataFrame({"_row": pl.int_range(len(rows), dtype=pl.UInt32, eager=True)})
    if placed is None:
        types = history_types(features, dict(versions.schema))
        return {name: pl.Series(name, [None] * len(rows), dtype) for name, dtype in types.items()}
    return every.join(placed, on="_row", how="left", maintain_order="left").drop("_row").to_dict()


def _since(asked: pl.DataFrame, features: Sequence[History]) -> int | None:
    """The microsecond by which nothing happened that counts for any of the moments."""
    earliest, spans = asked[MOMENT].dt.epoch("us").min(), [feature.reach_back for feature in features]
    if earliest is None or any(span is None for span in spans):
        return None
    return int(earliest) - max(span // timedelta(microseconds=1) for span in spans if span is not None)  # type: ignore[arg-type]  # a whole number


def _pieces(asked: pl.DataFrame, past: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Moments and versions of so many groups together that (group, microsecond) is a whole number below 2**62."""
    if asked.is_empty():
        return
    group, instant = asked["_group"].to_numpy(), asked[MOMENT].dt.epoch("us").to_numpy()
    span = int(instant.max() - instant.min()) + 2
    edges = np.arange(0, int(group[-1]) + 1, max(1, (1 << 62) // span), dtype=np.int64)
    cuts = np.append(np.searchsorted(group, edges), len(group))
    of_past = past["_group"].to_numpy()
    ends = np.append(np.searchsorted(of_past, edges), len(of_past))
    for number in range(len(edges)):
        yield asked[cuts[number] : cuts[number + 1]], past[ends[number] : ends[number + 1]]


def _answer(asked: pl.DataFrame, past: pl.DataFrame, features: Sequence[History], own: Sequence[str]) -> pl.DataFrame:
    """The features at every moment, in the moments' order: by group, then time."""
    first_group = int(asked["_group"][0])
    instant = asked[MOMENT].dt.epoch("us").to_numpy()
    zero, span = int(instant.min()), int(instant.max() - instant.min()) + 2
    line = (asked["_group"].to_numpy().astype(np.int64) - first_group) * span + (instant - zero)

    def at(group: Ints, moment: Ints) -> Ints:
        return np.searchsorted(line, group * span + np.clip(moment - zero, 0, span - 1))

    group, happened = past["_group"].to_numpy().astype(np.int64) - first_group, past["_happened"].to_numpy()
    first, until = at(group, past["_from"].to_numpy()), past["_until"].to_numpy()
    selves = _own_positions(asked, past, own)
    ends: dict[object, Ints] = {}
    values: dict[str, pl.Series] = {}
    found = []
    for feature in features:
        window = feature.reach_back if feature.window is None else feature.window
        if window not in ends:
            ends[window] = at(group, np.minimum(until, leaves(happened, window)))
        told = str(feature.expression)
        if told not in values:
            values[told] = past.with_columns(_v=feature.expression)["_v"]
        counts = countable(values[told], feature.aggregate).to_numpy()
        which, starts, stops = _around(np.flatnonzero((ends[window] > first) & counts), first, ends[window], selves)
        counted = Counted(values[told], which, starts, stops, group, happened, len(asked), at)
        found.append(aggregate(feature, counted).alias(feature.name))
    return pl.DataFrame(found)


def _own_positions(asked: pl.DataFrame, past: pl.DataFrame, own: Sequence[str]) -> tuple[Ints, Ints]:
    """Pairs of an event and the position of a moment of the very same row."""
    if not own:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = asked.select(own).with_row_index("_place")
    pairs = past.select(own).with_row_index("_event").join(places, on=list(own))
    return pairs["_event"].to_numpy().astype(np.int64), pairs["_place"].to_numpy().astype(np.int64)


def _around(events: Ints, first: Ints, end: Ints, own: tuple[Ints, Ints]) -> tuple[Ints, Ints, Ints]:
    """Intervals of these events as (event, first, end), each cut around the positions that are the event's own."""
    starts, stops = first[events], end[events]
    mine = np.isin(own[0], events) if len(own[0]) else np.zeros(0, np.bool_)
    event, place = own[0][mine], own[1][mine]
    inside = (place >= first[event]) & (place < end[event])
    event, place = event[inside], place[inside]
    if not len(event):
        return events, starts, stops
    which = np.concatenate([events, event])
    starts, stops = np.concatenate([starts, place + 1]), np.concatenate([stops, place])
    by_start, by_stop = np.lexsort((starts, which)), np.lexsort((stops, which))
    which, starts, stops = which[by_start], starts[by_start], stops[by_stop]
    some = stops > starts
    return which[some], starts[some], stops[some]


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
