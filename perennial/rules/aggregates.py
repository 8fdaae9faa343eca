"""The aggregates of history features, each over the values that count at a moment. Pure.

Which values count where is told in one of two ways: as intervals of moments (`perennial.rules.intervals`), for many moments
over one log, or as pairs of a moment and a value (`perennial.rules.pairs`), for the few of a request. Both are exact, so
that a value has the same bits either way.
"""

from datetime import timedelta
from typing import Protocol

import numpy as np
import polars as pl

from perennial.rules.exact import Floats, Ints, add_exactly, multiply_exactly
from perennial.rules.versions import Terms
from perennial.spec.history import HALF_LIVES, History

EWM_SPAN = HALF_LIVES // 2  # half-lives between the instants that weights are measured from: a power of two apart
SUMMED = ("sum", "mean", "std", "ewm")


class Counted(Protocol):
    """Values, and at which moments each counts: one entry for each interval, or for each pair."""

    @property
    def terms(self) -> Terms:
        """The values of every event, by group and then by when it happened."""
        ...

    @property
    def which(self) -> Ints:
        """(entries,) the event of each."""
        ...

    @property
    def numbers(self) -> Floats:
        """(entries,) the value of each."""
        ...

    @property
    def addends(self) -> Floats:
        """(entries,) the value of each as it is summed: NaN where it cannot be summed exactly."""
        ...

    @property
    def count(self) -> Ints:
        """(moments,) how many values count."""
        ...

    @property
    def sums(self) -> tuple[Floats, Floats]:
        """(moments,) the sum of the values, as a double and its remainder."""
        ...

    def sum_of(self, values: Floats) -> tuple[Floats, Floats]:
        """(entries,) to (moments,) sums, each as a double and its remainder."""
        ...

    def largest(self, ranks: Floats) -> Floats:
        """(entries,) to the (moments,) largest; minus infinity where no value counts."""
        ...

    def last(self) -> Ints:
        """(moments,) the last event, by when it happened and then by when it became known; -1 where there is none."""
        ...

    def distinct(self) -> Ints:
        """(moments,) how many different values count."""
        ...

    def weighted_sums(self, half_life: timedelta) -> tuple[Floats, Floats]:
        """(moments,) the sum of the values by weights that halve every half-life, and that of the weights."""
        ...


def aggregate(feature: History, counted: Counted) -> Floats:
    """The feature at every moment; NaN where it has no value. The last of texts is the number of its event."""
    name = feature.aggregate
    if name == "count":
        return counted.count.astype(np.float64)
    if name == "distinct":
        return counted.distinct().astype(np.float64)
    if name == "last":
        last = counted.last()
        if counted.terms.texts is not None:
            return np.where(last < 0, np.nan, last)
        return np.append(counted.terms.numbers, np.nan)[last]
    if name in ("min", "max"):
        sign = -1.0 if name == "min" else 1.0
        best = sign * counted.largest(sign * counted.numbers)
        return np.where(np.isinf(best), np.nan, best)
    if name == "ewm":
        assert feature.half_life is not None
        return _divide(*counted.weighted_sums(feature.half_life))
    total, rest = counted.sums
    if name == "sum":
        return total
    return _divide(total, counted.count) if name == "mean" else _deviation(counted, total, rest)


def result_type(feature: History, value: pl.DataType) -> pl.DataType:
    """The type of a feature's column, from the type of what is aggregated."""
    if feature.aggregate in ("count", "distinct"):
        return pl.Int64()
    is_number = value.is_numeric() or value == pl.Boolean
    return pl.Float64() if feature.aggregate != "last" or is_number else pl.String()


def weights(happened: Ints, half_life: timedelta) -> tuple[int, Ints, Floats]:
    """Weights of events for an exponentially weighted mean, 2**(-age / half-life) but for a factor.

    The weight at a moment is what it was at the last of the instants 32 half-lives apart, times a factor that all
    weights of the moment share and that cancels out. From one such instant to the next weights shrink by 2**32, which
    changes no digit of theirs. 64 half-lives after it happened an event does not count: see `forgotten`.

    Returns:
        How many microseconds lie between two such instants; the number of the one before each event; and each event's
        weight at that one.
    """
    span = EWM_SPAN * (half_life // timedelta(microseconds=1))
    number = happened // span
    return span, number, np.exp2(EWM_SPAN * ((happened - number * span) / span))


def forgotten(happened: Ints, half_life: timedelta) -> Ints:
    """From which microsecond events do not count for an exponentially weighted mean, however long its window is."""
    return happened + HALF_LIVES * (half_life // timedelta(microseconds=1))


def _divide(total: Floats, count: Ints | Floats) -> Floats:
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _deviation(counted: Counted, total: Floats, rest: Floats) -> Floats:
    """Sample standard deviation from exact sums: (n * sum of squares - square of the sum) / n / (n - 1), in two doubles."""
    values = counted.addends
    square, lost = multiply_exactly(values, values)
    squares, squares_rest = counted.sum_of(square)
    if lost.any():
        more, more_rest = counted.sum_of(lost)
        squares, carried = add_exactly(squares, more)
        squares_rest = squares_rest + more_rest + carried
    number = counted.count.astype(np.float64)
    left, left_rest = multiply_exactly(number, squares)
    right, right_rest = multiply_exactly(total, total)
    difference = (left - right) + (left_rest + number * squares_rest - right_rest - 2 * total * rest)
    variance = _divide(np.maximum(difference, 0), np.maximum(number, 1) * (number - 1))
    return np.sqrt(variance)
