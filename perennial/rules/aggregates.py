"""The aggregates of history features, each over the values whose interval of positions holds a position. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

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
from perennial.rules.versions import Terms
from perennial.spec.history import HALF_LIVES, History

EWM_SPAN = HALF_LIVES // 2  # half-lives between the instants that weights are measured from: a power of two apart
SUMMED = ("sum", "mean", "std", "ewm")


@dataclass(frozen=True)
class Counted:
    """Values and the intervals of positions they count in.

    Args:
        terms: the values of every event, by group and then by when it happened.
        which: (n,) the event of each interval; `first`, `end`: its positions [first, end), none of them empty.
        group: (events,) the event's key; `happened`: (events,) in microseconds.
        positions: how many there are.
        at: (group, instant) to the first position not before.
    """

    terms: Terms
    which: Ints
    first: Ints
    end: Ints
    group: Ints
    happened: Ints
    positions: int
    at: Callable[[Ints, Ints], Ints]

    @cached_property
    def numbers(self) -> Floats:
        """(n,) the value of each interval."""
        return self.terms.numbers[self.which]

    @cached_property
    def count(self) -> Ints:
        """(positions,) how many intervals hold each."""
        return interval_counts(self.first, self.end, self.positions)

    @cached_property
    def sums(self) -> tuple[Floats, Floats]:
        """(positions,) the sum of their values, as a double and its remainder."""
        return interval_sums(self.numbers, self.first, self.end, self.positions)


def aggregate(feature: History, counted: Counted) -> Floats:
    """The feature at every position; NaN where it has no value. The last of texts is the number of its event."""
    name, first, end, positions = feature.aggregate, counted.first, counted.end, counted.positions
    if name == "count":
        return counted.count.astype(np.float64)
    if name == "distinct":
        return _distinct(counted).astype(np.float64)
    if name == "last":  # the events are in the order in which they happened, then in which they became known
        last = interval_maximum(counted.which, first, end, positions)
        if counted.terms.texts is not None:
            return np.where(last < 0, np.nan, last)
        return np.append(counted.terms.numbers, np.nan)[last]
    values = counted.numbers
    if name in ("min", "max"):
        sign = -1.0 if name == "min" else 1.0
        best = sign * interval_maximum(sign * values, first, end, positions)
        return np.where(np.isinf(best), np.nan, best)
    if name == "ewm":
        assert feature.half_life is not None
        return _weighted_mean(counted, feature.half_life)
    total, rest = counted.sums
    if name == "sum":
        return total
    return _divide(total, counted.count) if name == "mean" else _deviation(counted, values, total, rest)


def result_type(feature: History, value: pl.DataType) -> pl.DataType:
    """The type of a feature's column, from the type of what is aggregated."""
    if feature.aggregate in ("count", "distinct"):
        return pl.Int64()
    is_number = value.is_numeric() or value == pl.Boolean
    return pl.Float64() if feature.aggregate != "last" or is_number else pl.String()


def _distinct(counted: Counted) -> Ints:
    """Values with at least one interval at a position: intervals of one value are united first."""
    code = counted.numbers
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


def _divide(total: Floats, count: Ints | Floats) -> Floats:
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _deviation(counted: Counted, values: Floats, total: Floats, rest: Floats) -> Floats:
    """Sample standard deviation from exact sums: (n * sum of squares - square of the sum) / n / (n - 1), in two doubles."""
    square, lost = multiply_exactly(values, values)
    squares, squares_rest = interval_sums(square, counted.first, counted.end, counted.positions)
    more, more_rest = interval_sums(lost, counted.first, counted.end, counted.positions)
    squares, carried = add_exactly(squares, more)
    squares_rest += more_rest + carried
    number = counted.count.astype(np.float64)
    left, left_rest = multiply_exactly(number, squares)
    right, right_rest = multiply_exactly(total, total)
    difference = (left - right) + (left_rest + number * squares_rest - right_rest - 2 * total * rest)
    variance = _divide(np.maximum(difference, 0), np.maximum(number, 1) * (number - 1))
    return np.sqrt(variance)


def _weighted_mean(counted: Counted, half_life: timedelta) -> Floats:
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
    values = np.tile(counted.numbers, len(weights))
    total, _ = interval_sums(all_weights * values, first, end, counted.positions)
    weight_sum, _ = interval_sums(all_weights, first, end, counted.positions)
    return _divide(total, weight_sum)
