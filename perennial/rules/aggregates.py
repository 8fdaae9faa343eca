"""The aggregates of history features, each over the values whose interval of positions holds a position. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from perennial.rules.exact import (
    Floats,
    Ints,
    add_exactly,
    interval_counts,
    interval_maximum,
    interval_sums,
    multiply_exactly,
)
from perennial.spec.history import HALF_LIVES, History

LARGEST = 2.0**79  # of a value that is summed; its square is still summed exactly
EWM_SPAN = HALF_LIVES // 2  # half-lives between the instants that weights are measured from: a power of two apart
_SUMMED = ("sum", "mean", "std", "ewm")


@dataclass(frozen=True)
class Counted:
    """Values and the intervals of positions they count in.

    Args:
        values: of every event, by group and then by when it happened.
        which: (n,) the event of each interval; `first`, `end`: its positions [first, end), none of them empty.
        group: (events,) the event's key; `happened`: (events,) in microseconds.
        positions: how many there are.
        at: (group, instant) to the first position not before.
    """

    values: pl.Series
    which: Ints
    first: Ints
    end: Ints
    group: Ints
    happened: Ints
    positions: int
    at: Callable[[Ints, Ints], Ints]


def aggregate(feature: History, counted: Counted) -> pl.Series:
    """The feature at every position: Int64 for counts, else Float64, or String for the last of texts."""
    name, first, end, positions = feature.aggregate, counted.first, counted.end, counted.positions
    if name == "count":
        return pl.Series(interval_counts(first, end, positions))
    if name == "distinct":
        return pl.Series(_distinct(counted))
    if name == "last":  # the events are in the order in which they happened, then in which they became known
        return _pick(counted.values, interval_maximum(counted.which, first, end, positions))
    if name in ("min", "max"):
        return _extreme(counted, descending=name == "min")
    if name == "ewm":
        assert feature.half_life is not None
        return _weighted_mean(counted, feature.half_life)
    values = counted.values.cast(pl.Float64).fill_null(0).to_numpy()[counted.which]
    total, rest = interval_sums(values, first, end, positions)
    if name == "sum":
        return pl.Series(total)
    count = interval_counts(first, end, positions)
    return _divide(total, count) if name == "mean" else _deviation(counted, values, total, rest, count)


def result_type(feature: History, value: pl.DataType) -> pl.DataType:
    """The type of a feature's column, from the type of what is aggregated."""
    if feature.aggregate in ("count", "distinct"):
        return pl.Int64()
    is_number = value.is_numeric() or value == pl.Boolean
    return pl.Float64() if feature.aggregate != "last" or is_number else pl.String()


def countable(values: pl.Series, name: str) -> pl.Series:
    """Which values count: neither null nor NaN or infinite nor, where they are summed, beyond 2**79."""
    there = values.is_not_null()
    if values.dtype.is_float():
        there &= values.is_finite().fill_null(value=False)
    if name in _SUMMED and values.dtype.is_numeric():
        there &= (values.cast(pl.Float64).abs() < LARGEST).fill_null(value=False)
    return there


def _distinct(counted: Counted) -> Ints:
    """Values with at least one interval at a position: intervals of one value are united first."""
    code = counted.values.rank("dense").fill_null(0).to_numpy()[counted.which]
    order = np.lexsort((counted.first, code, counted.group[counted.which]))
    group, code = counted.group[counted.which][order], code[order]
    first, end = counted.first[order], counted.end[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (group[1:] != group[:-1]) | (code[1:] != code[:-1])
    lift = np.cumsum(begins) * (counted.positions + 1)  # so that a running maximum begins anew with every value
    reached = np.maximum.accumulate(end + lift) - lift
    begins[1:] |= first[1:] > reached[:-1]
    at = np.flatnonzero(begins)
    last = np.append(at, len(order))[1:] - 1
    return interval_counts(first[at], reached[last], counted.positions)


def _extreme(counted: Counted, *, descending: bool) -> pl.Series:
    numbers = counted.values.cast(pl.Float64)
    ranks = numbers.rank("dense", descending=descending).fill_null(0).cast(pl.Int64).to_numpy()
    best = interval_maximum(ranks[counted.which], counted.first, counted.end, counted.positions)
    return _pick(numbers.drop_nulls().unique().sort(descending=descending), best - 1)


def _pick(values: pl.Series, at: Ints) -> pl.Series:
    """The values at these places; null where the place is negative."""
    kind = pl.Float64 if values.dtype.is_numeric() or values.dtype == pl.Boolean else pl.String
    place = pl.Series(at)
    return values.cast(kind).gather(place.set(place < 0, None))


def _divide(total: Floats, count: Ints | Floats) -> pl.Series:
    some = count > 0
    return pl.Series(np.divide(total, count, out=np.zeros(len(total)), where=some)).set(pl.Series(~some), None)


def _deviation(counted: Counted, values: Floats, total: Floats, rest: Floats, count: Ints) -> pl.Series:
    """Sample standard deviation from exact sums: (n * sum of squares - square of the sum) / n / (n - 1), in two doubles."""
    square, lost = multiply_exactly(values, values)
    squares, squares_rest = interval_sums(square, counted.first, counted.end, counted.positions)
    more, more_rest = interval_sums(lost, counted.first, counted.end, counted.positions)
    squares, carried = add_exactly(squares, more)
    squares_rest += more_rest + carried
    number = count.astype(np.float64)
    left, left_rest = multiply_exactly(number, squares)
    right, right_rest = multiply_exactly(total, total)
    difference = (left - right) + (left_rest + number * squares_rest - right_rest - 2 * total * rest)
    some = count > 1
    pairs = np.where(some, number * (number - 1), 1)
    return pl.Series(np.sqrt(np.maximum(difference, 0) / pairs)).set(pl.Series(~some), None)


def _weighted_mean(counted: Counted, half_life: timedelta) -> pl.Series:
    """Mean with weights 2**(-age / half-life).

    The weight at a moment is what it was at the last of the instants 32 half-lives apart, times a factor that all
    weights of the moment share and that cancels out. From one such instant to the next weights shrink by 2**32, which
    changes no digit of theirs. So an event is up to three terms, one for each such span that its interval reaches.
    """
    span = EWM_SPAN * (half_life // timedelta(microseconds=1))
    happened, group = counted.happened[counted.which], counted.group[counted.which]
    number = happened // span
    weight = np.exp2(EWM_SPAN * ((happened - number * span) / span))
    firsts, ends, weights = [], [], []
    for later in range(HALF_LIVES // EWM_SPAN + 1):
        begins, stops = (counted.at(group, (number + later + extra) * span) for extra in (0, 1))
        firsts.append(np.maximum(counted.first, begins))
        ends.append(np.maximum(np.minimum(counted.end, stops), firsts[-1]))
        weights.append(weight * 2.0 ** (-EWM_SPAN * later))
    first, end, all_weights = np.concatenate(firsts), np.concatenate(ends), np.concatenate(weights)
    values = np.tile(counted.values.cast(pl.Float64).fill_null(0).to_numpy()[counted.which], len(weights))
    total, _ = interval_sums(all_weights * values, first, end, counted.positions)
    weight_sum, _ = interval_sums(all_weights, first, end, counted.positions)
    return _divide(total, weight_sum)
