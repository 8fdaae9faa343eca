"""Sums that do not depend on the order of their terms, and the maximum, over intervals of positions. Pure numpy.

A feature must be the same bits in training, batch and serving, in a full build and in one that knows the last week
only. A running sum of floats is not: it remembers what it has forgotten. Here every value is cut into whole numbers of
32 bits at fixed places (limbs), whose sums in 64 bits are exact; the only rounding is the one at the end.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLACES = tuple(2.0**power for power in range(128, -193, -32))
"""What a limb counts. Values up to 2**159 and, of their last digits, down to 2**-192 are kept."""
_SPLIT = 134_217_729.0  # 2**27 + 1


def interval_sums(values: Floats, first: Ints, end: Ints, positions: int) -> tuple[Floats, Floats]:
    """For every position the sum of the values whose interval [first, end) holds it, as a double and its remainder.

    The same values give the same sum in every order and beside any other intervals. Up to 2**31 intervals a position.
    """
    total, rest_of_total = np.zeros(positions), np.zeros(positions)
    rest = np.array(values, dtype=np.float64)
    largest = float(np.max(np.abs(rest), initial=0.0))
    for place in PLACES:
        if largest < place and place > PLACES[-1]:
            continue
        limbs = np.trunc(rest / place)
        rest -= limbs * place
        sums = interval_counts(first, end, positions, limbs.astype(np.int64)).astype(np.float64) * place
        total, error = add_exactly(total, sums)
        rest_of_total += error
        if not rest.any():
            break
        largest = float(np.max(np.abs(rest)))
    return add_exactly(total, rest_of_total)


def interval_counts(first: Ints, end: Ints, positions: int, weights: Ints | None = None) -> Ints:
    """For every position how many intervals [first, end) hold it, or the sum of their whole weights: exact."""
    change = np.zeros(positions + 1, np.int64)
    weights = np.ones(len(first), np.int64) if weights is None else weights
    np.add.at(change, first, weights)
    np.subtract.at(change, end, weights)
    return np.cumsum(change)[:-1]


def interval_maximum(ranks: Ints, first: Ints, end: Ints, positions: int) -> Ints:
    """For every position the largest rank (0 or more) among the intervals [first, end) that hold it; -1 where none does.

    A sparse table filled backwards: an interval is covered by two overlapping spans of a power of two, each noted where
    it begins; then every span tells its two halves. n + p log p steps for n intervals and p positions, all in numpy.
    """
    found = np.full(positions, -1, np.int64)
    length = end - first
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
