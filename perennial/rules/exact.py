"""Sums that do not depend on the order of their terms, and the maximum, over intervals of positions. Pure numpy.

A feature must be the same bits in training, batch and serving, in a full build and in one that knows the last week
only. A running sum of floats is not: it remembers what it has forgotten. Here every value is cut into whole numbers of
36 bits (limbs), whose sums in 64 bits are exact; the only rounding is the one at the end.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LIMB_BITS = 36
_LOW = (1 << 26) - 1
_SPLIT = 134_217_729.0  # 2**27 + 1


def exact_sums(values: Floats, positions: int, sum_whole: Callable[[Ints], Ints]) -> tuple[Floats, Floats]:
    """Sums of some of the values for every position, each as a double and its remainder.

    The same values give the same bits in every order and beside any others: limbs are cut at multiples of 36 bits, wherever
    the largest value lies. Up to 2**27 values a position, each 0 or between 2**-900 and 2**900; where one is NaN, so is the
    sum.

    Args:
        sum_whole: (values,) whole numbers to their (positions,) sums, which it takes exactly.
    """
    total, left = np.zeros(positions), np.zeros(positions)
    rest, largest = values, float(np.abs(values).max(initial=0.0))
    if math.isnan(largest):
        unknown = np.isnan(values)
        total, left = exact_sums(np.where(unknown, 0.0, values), positions, sum_whole)
        return np.where(sum_whole(unknown.astype(np.int64)) > 0, np.nan, total), left
    is_first = True
    while largest:
        place = 2.0 ** ((math.frexp(largest)[1] - 1) // LIMB_BITS * LIMB_BITS)  # what the last bit of the limb counts
        limbs = np.trunc(rest * (1 / place))
        sums = sum_whole(limbs.astype(np.int64))
        rest = rest - limbs * place
        largest = float(np.abs(rest).max(initial=0.0))
        exact = len(sums) == 0 or max(int(sums.max()), -int(sums.min())) < 1 << 53
        if exact and is_first and not largest:
            return sums.astype(np.float64) * place, left  # one limb holds them all: nothing is rounded
        is_first = False
        parts = [sums]
        if not exact:
            low = np.where(np.abs(sums) < 1 << 53, 0, sums & _LOW)
            parts = [sums - low, low]
        for part in parts:  # each is exact as a double
            total, error = add_exactly(total, part.astype(np.float64) * place)
            left += error
    return add_exactly(total, left)


def interval_sums(values: Floats, first: Ints, end: Ints, positions: int) -> tuple[Floats, Floats]:
    """For every position the sum of the values whose interval [first, end) holds it: see `exact_sums`."""
    return exact_sums(values, positions, lambda whole: interval_counts(first, end, positions, whole))


def interval_counts(first: Ints, end: Ints, positions: int, weights: Ints | None = None) -> Ints:
    """For every position how many intervals [first, end) hold it, or the sum of their whole weights: exact."""
    change = np.zeros(positions + 1, np.int64)
    weights = np.ones(len(first), np.int64) if weights is None else weights
    np.add.at(change, first, weights)
    np.subtract.at(change, end, weights)
    return np.cumsum(change)[:-1]


Ranked = TypeVar("Ranked", Ints, Floats)


def interval_maximum(ranks: Ranked, first: Ints, end: Ints, positions: int) -> Ranked:
    """For every position the largest rank among the intervals [first, end) that hold it.

    Where none does: -1 of whole numbers, which are 0 or more, and minus infinity of others.

    A sparse table filled backwards: an interval is covered by two overlapping spans of a power of two, each noted where
    it begins; then every span tells its two halves. n + p log p steps for n intervals and p positions, all in numpy.
    """
    found = np.full(positions, -1 if ranks.dtype.kind == "i" else -np.inf, ranks.dtype)
    length = end - first
    if not length.all():
        some = length > 0
        ranks, first, end, length = ranks[some], first[some], end[some], length[some]
    if not len(ranks):
        return found
    level = np.frexp(length.astype(np.float64))[1] - 1
    for power in range(int(level.max()), -1, -1):
        here, span = level == power, 1 << power
        np.maximum.at(found, first[here], ranks[here])
        np.maximum.at(found, end[here] - span, ranks[here])
        if power:
            half = span >> 1
            known = found.copy()
            np.maximum(found[half:], known[:-half], out=found[half:])
    return found


def add_exactly(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The rounded sum and what the rounding lost. Source: Knuth, TAOCP 2, section 4.2.2."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def multiply_exactly(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The rounded product and what the rounding lost. Source: Dekker 1971, Numerische Mathematik 18."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(value: Floats) -> tuple[Floats, Floats]:
    scaled = _SPLIT * value
    high = scaled - (scaled - value)
    return high, value - high
