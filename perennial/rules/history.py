"""History features: what a row's past amounted to, as it was known at its moment. Pure functions of frames.

Every version of every row of a source counts during one stretch of moments: from when it had both happened and become
known, to when it leaves the window or a correction of it becomes known. So a feature at a moment is an aggregate over
the stretches that hold it, late rows and corrections included, and nothing has to be replayed. Moments are sorted once
by key; stretches become intervals of their positions, and aggregates are taken over those (`perennial.rules.intervals`).
The few moments of a request are paired with what counts at each (`perennial.rules.pairs`), with the same bits.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.rules.aggregates import SUMMED, Counted, aggregate, result_type
from perennial.rules.exact import Floats, Ints
from perennial.rules.intervals import Intervals
from perennial.rules.joins import FOREVER, MOMENT
from perennial.rules.keyed import group_order
from perennial.rules.pairs import Pairs
from perennial.rules.versions import Found, Past
from perennial.spec.history import History, Window

MOST_PAIRS = 2  # times as many as versions, up to which pairs cost less than intervals do
PIECE = 32_768  # moments taken together: their arrays stay in the cache, which more than halves the cost
_NO_PLACES = np.empty(0, np.int64)


def add_history(rows: pl.DataFrame, past: Past, features: Sequence[History], own: Sequence[str] = ()) -> pl.DataFrame:
    """The rows with one column more for every feature, in the rows' order.

    Args:
        rows: with `_known_at`, the moment of the prediction, and the columns of the features' keys.
        past: the source's versions, where they can be looked up by key.
        features: all of one source.
        own: the key, where the source is the entity itself: a row does not count for itself.
    """
    found: dict[str, pl.Series] = {}
    instants = rows[MOMENT].cast(pl.Int64)
    for by in dict.fromkeys(tuple(feature.columns.items()) for feature in features):
        wanted = [feature for feature in features if tuple(feature.columns.items()) == by]
        found |= _by_key(rows, instants, past, wanted, dict(by), own)
    if any(name in rows.columns for name in found):
        rows = rows.drop(found, strict=False)
    return rows.hstack([found[feature.name] for feature in features])


def history_types(features: Sequence[History], columns: dict[str, pl.DataType]) -> dict[str, pl.DataType]:
    """Names and types of what `add_history` adds, from the source's columns."""
    empty = pl.LazyFrame(schema=columns)
    return {f.name: result_type(f, empty.select(_v=f.expression).collect_schema()["_v"]) for f in features}


def _by_key(
    rows: pl.DataFrame,
    instants: pl.Series,
    past: Past,
    features: Sequence[History],
    by: dict[str, str],
    own: Sequence[str],
) -> dict[str, pl.Series]:
    """The features of one set of key columns, each a value for every one of `rows`."""
    since = _since(instants, features)
    asked, group, found = past.find(rows, by, features, since, own=bool(own))
    moments = (
        instants.to_numpy()[asked] if not instants.null_count() else instants.fill_null(-FOREVER).to_numpy()[asked]
    )
    order = group_order(group, moments)
    asked, group, moments = asked[order], group[order], moments[order]
    keys = rows.select(own) if own else None
    sizes = np.bincount(found.group, minlength=int(group[-1]) + 1)[group] if len(group) else _NO_PLACES
    if int(sizes.sum()) <= MOST_PAIRS * len(found.group):
        parts = [_answer_few(group, moments, sizes, found, features, keys[asked] if keys is not None else None)]
    else:
        parts = [
            _answer(
                group[some],
                moments[some],
                found.at(versions),
                features,
                keys[asked[some]] if keys is not None else None,
            )
            for some, versions in _pieces(group, moments, found.group)
        ]
    return {
        feature.name: _placed(feature, [part[number] for part in parts], asked, len(rows), found)
        for number, feature in enumerate(features)
    }


def _placed(feature: History, parts: list[Floats], asked: Ints, rows: int, found: Found) -> pl.Series:
    """A value for every row; null where it has no key, and where NaN stands for no value."""
    values = np.full(rows, np.nan)
    if parts:
        values[asked] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    texts = found.terms[feature.code].texts
    if feature.aggregate == "last" and texts is not None:
        places = pl.Series(values, nan_to_null=True).cast(pl.UInt32)
        return texts.cast(pl.String).gather(places).alias(feature.name)
    whole = feature.aggregate in ("count", "distinct")
    if not np.isnan(values).any():
        return pl.Series(feature.name, values.astype(np.int64) if whole else values)
    placed = pl.Series(feature.name, values, nan_to_null=True)
    return placed.cast(pl.Int64) if whole else placed


def _since(instants: pl.Series, features: Sequence[History]) -> int | None:
    """The microsecond by which nothing happened that counts for any of the moments."""
    earliest, spans = instants.min(), [feature.reach_back for feature in features]
    if earliest is None or any(span is None for span in spans):
        return None
    return int(earliest) - max(span // timedelta(microseconds=1) for span in spans if span is not None)  # type: ignore[arg-type]  # a whole number


def _pieces(group: Ints, moments: Ints, of_versions: Ints) -> Iterator[tuple[slice, slice]]:
    """Moments and versions of some groups together: about PIECE moments, and (group, microsecond) below 2**62."""
    if not len(group):
        return
    span = int(moments.max() - moments.min()) + 2
    groups = int(group[-1]) + 1
    edges = np.arange(0, groups, max(1, min(PIECE * groups // len(group), (1 << 62) // span)), dtype=np.int64)
    cuts = np.append(np.searchsorted(group, edges), len(group)).tolist()
    ends = np.append(np.searchsorted(of_versions, edges), len(of_versions)).tolist()
    for number in range(len(edges)):
        if cuts[number] < cuts[number + 1]:
            yield slice(cuts[number], cuts[number + 1]), slice(ends[number], ends[number + 1])


def _answer(
    group: Ints, moments: Ints, found: Found, features: Sequence[History], keys: pl.DataFrame | None
) -> list[Floats]:
    """The features at every moment, in the moments' order: by group, then time."""
    first_group, zero, span = int(group[0]), int(moments.min()), int(moments.max() - moments.min()) + 2
    line = (group - first_group) * span + (moments - zero)

    def at(of: Ints, moment: Ints) -> Ints:
        return np.searchsorted(line, of * span + np.minimum(np.maximum(moment - zero, 0), span - 1))

    of_version = found.group - first_group
    first = at(of_version, found.begins)
    selves = _own_positions(keys, found)
    ends: dict[Window, Ints] = {}
    memo: dict[tuple[Window, str, bool], Counted] = {}
    values = []
    for feature in features:
        window = feature.reach_back if feature.window is None else feature.window
        if window not in ends:
            ends[window] = at(of_version, np.minimum(found.until, found.leaves(window)))
        code, is_summed = feature.code, feature.aggregate in SUMMED
        if (window, code, is_summed) not in memo:
            terms = found.terms[code]
            counts = (ends[window] > first) & (terms.summed if is_summed else terms.there)
            which, starts, stops = _around(np.flatnonzero(counts), first, ends[window], selves)
            memo[window, code, is_summed] = Intervals(
                terms, which, starts, stops, of_version, found.happened, len(moments), at
            )
        value = aggregate(feature, memo[window, code, is_summed])
        if feature.aggregate == "last" and found.terms[code].texts is not None:
            value += found.before
        values.append(value)
    return values


def _answer_few(
    group: Ints, moments: Ints, sizes: Ints, found: Found, features: Sequence[History], keys: pl.DataFrame | None
) -> list[Floats]:
    """The same as `_answer`, by pairing every moment with all versions of its group: `sizes`, how many those are."""
    ends = np.cumsum(sizes)
    position = np.repeat(np.arange(len(sizes)), sizes)
    begins = np.searchsorted(found.group, group)
    which = np.arange(len(position)) + np.repeat(begins - (ends - sizes), sizes)
    at = moments[position]
    counts = (found.begins[which] <= at) & (at < found.until[which])
    if keys is not None and found.keys is not None:
        counts &= ~_same_rows(found.keys, which, keys, position)
    if not counts.all():
        which, position, at = which[counts], position[counts], at[counts]
    inside: dict[Window, Ints] = {}
    memo: dict[tuple[Window, str, bool], Counted] = {}
    values = []
    for feature in features:
        window = feature.reach_back if feature.window is None else feature.window
        code, is_summed = feature.code, feature.aggregate in SUMMED
        if window not in inside:
            inside[window] = np.flatnonzero(at < found.leaves(window)[which])
        if (window, code, is_summed) not in memo:
            terms, within = found.terms[code], inside[window]
            there = (terms.summed if is_summed else terms.there)[which[within]]
            some = within if there.all() else within[there]
            memo[window, code, is_summed] = Pairs(terms, found.happened, which[some], position[some], moments)
        value = aggregate(feature, memo[window, code, is_summed])
        if feature.aggregate == "last" and found.terms[code].texts is not None:
            value += found.before
        values.append(value)
    return values


def _same_rows(keys: pl.DataFrame, which: Ints, others: pl.DataFrame, position: Ints) -> NDArray[np.bool_]:
    """Where a version is one of the very row that is asked for."""
    same = np.ones(len(which), np.bool_)
    for column in keys.columns:
        one, other = keys[column].gather(which), others[column].gather(position)
        same &= one.eq_missing(other).to_numpy()
    return same


def _own_positions(keys: pl.DataFrame | None, found: Found) -> tuple[Ints, Ints]:
    """Pairs of a version and the position of a moment of the very same row."""
    if keys is None or found.keys is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = keys.with_row_index("_place")
    pairs = found.keys.with_row_index("_event").join(places, on=keys.columns, nulls_equal=True)
    return pairs["_event"].to_numpy().astype(np.int64), pairs["_place"].to_numpy().astype(np.int64)


def _around(events: Ints, first: Ints, end: Ints, own: tuple[Ints, Ints]) -> tuple[Ints, Ints, Ints]:
    """Intervals of these events as (event, first, end), each cut around the positions that are the event's own."""
    if len(events) == len(first) and not len(own[0]):
        return events, first, end
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
