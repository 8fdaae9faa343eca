"""Values that count at moments, as pairs: for the few moments of a request, each with the past of its own key. Pure numpy."""

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import numpy as np

from perennial.rules.aggregates import EWM_SPAN, forgotten, weights
from perennial.rules.exact import Floats, Ints, exact_sums
from perennial.rules.versions import Terms


@dataclass(frozen=True)
class Pairs:
    """Events and the moments that they count at: see `perennial.rules.aggregates.Counted`.

    Args:
        terms: the values of every event; `happened`: (events,) in microseconds.
        which: (n,) the event of each pair; `position`: (n,) its moment, rising, and for one moment events by when they
            happened.
        moments: (positions,) in microseconds.
    """

    terms: Terms
    happened: Ints
    which: Ints
    position: Ints
    moments: Ints

    @cached_property
    def numbers(self) -> Floats:
        """(n,) the value of each pair."""
        return self.terms.numbers[self.which]

    @cached_property
    def addends(self) -> Floats:
        """(n,) the value of each pair as it is summed."""
        return self.terms.addends[self.which]

    @cached_property
    def count(self) -> Ints:
        """(positions,) how many events count at each."""
        return np.bincount(self.position, minlength=len(self.moments))

    @cached_property
    def _some(self) -> tuple[Ints, Ints]:
        """The positions at which any event counts, and the first pair of each."""
        if len(self.moments) == 1:
            return np.arange(min(1, len(self.which))), np.zeros(min(1, len(self.which)), np.int64)
        some = np.flatnonzero(self.count)
        return some, (np.cumsum(self.count) - self.count)[some]

    @cached_property
    def sums(self) -> tuple[Floats, Floats]:
        """(positions,) the sum of their values, as a double and its remainder."""
        return self.sum_of(self.addends)

    def sum_of(self, values: Floats) -> tuple[Floats, Floats]:
        """(positions,) the sum of a value of each pair, as a double and its remainder."""
        return exact_sums(values, len(self.moments), self._sum_whole)

    def largest(self, ranks: Floats) -> Floats:
        """(positions,) the largest rank of the pairs of each."""
        found, (some, first) = np.full(len(self.moments), -np.inf), self._some
        if len(some):
            found[some] = np.maximum.reduceat(ranks, first)
        return found

    def last(self) -> Ints:
        """(positions,) the event of each's last pair."""
        found, (some, first) = np.full(len(self.moments), -1), self._some
        found[some] = self.which[first + self.count[some] - 1]
        return found

    def distinct(self) -> Ints:
        """(positions,) how many different values."""
        values = self.terms.told_apart[self.which]
        order = np.lexsort((values, self.position))
        position, value = self.position[order], values[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (position[1:] != position[:-1]) | (value[1:] != value[:-1])
        return np.bincount(position[new], minlength=len(self.moments))

    def weighted_sums(self, half_life: timedelta) -> tuple[Floats, Floats]:
        """See `Counted`."""
        span, number, weight = weights(self.happened[self.which], half_life)
        at = self.moments[self.position]
        counts = at < forgotten(self.happened[self.which], half_life)
        later = np.where(counts, at // span - number, 0)
        weight = np.where(counts, weight * np.exp2(-float(EWM_SPAN) * later), 0.0)
        return self.sum_of(np.where(counts, weight * self.addends, 0.0))[0], self.sum_of(weight)[0]

    def _sum_whole(self, whole: Ints) -> Ints:
        found, (some, first) = np.zeros(len(self.moments), np.int64), self._some
        if len(some):
            found[some] = np.add.reduceat(whole, first)
        return found
