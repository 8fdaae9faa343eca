"""Values that count in intervals of moments: for many moments over one log. Pure numpy."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import numpy as np

from perennial.rules.aggregates import EWM_SPAN, forgotten, weights
from perennial.rules.exact import Floats, Ints, interval_counts, interval_maximum, interval_sums
from perennial.rules.versions import Terms
from perennial.spec.history import HALF_LIVES


@dataclass(frozen=True)
class Intervals:
    """Values and the intervals of moments' positions that they count in: see `perennial.rules.aggregates.Counted`.

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
    def addends(self) -> Floats:
        """(n,) the value of each interval as it is summed."""
        return self.terms.addends[self.which]

    @cached_property
    def count(self) -> Ints:
        """(positions,) how many intervals hold each."""
        return interval_counts(self.first, self.end, self.positions)

    @cached_property
    def sums(self) -> tuple[Floats, Floats]:
        """(positions,) the sum of their values, as a double and its remainder."""
        return self.sum_of(self.addends)

    def sum_of(self, values: Floats) -> tuple[Floats, Floats]:
        """(positions,) the sum of a value of each interval, as a double and its remainder."""
        return interval_sums(values, self.first, self.end, self.positions)

    def largest(self, ranks: Floats) -> Floats:
        """(positions,) the largest rank of the intervals that hold each."""
        return interval_maximum(ranks, self.first, self.end, self.positions)

    def last(self) -> Ints:
        """(positions,) the last event: they are in the order in which they happened, then in which they became known."""
        return interval_maximum(self.which, self.first, self.end, self.positions)

    def distinct(self) -> Ints:
        """(positions,) values with at least one interval: intervals of one value are united first."""
        code = self.terms.told_apart[self.which]
        order = np.lexsort((self.first, code, self.group[self.which]))
        group, code = self.group[self.which][order], code[order]
        first, end = self.first[order], self.end[order]
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (group[1:] != group[:-1]) | (code[1:] != code[:-1])
        lift = np.cumsum(begins) * (self.positions + 1)  # so that a running maximum begins anew with every value
        reached = np.maximum.accumulate(end + lift) - lift
        begins[1:] |= first[1:] > reached[:-1]
        at = np.flatnonzero(begins)
        last = np.append(at, len(order))[1:] - 1
        return interval_counts(first[at], reached[last], self.positions)

    def weighted_sums(self, half_life: timedelta) -> tuple[Floats, Floats]:
        """See `Counted`. An event is up to three terms, one for each span of instants that its interval reaches."""
        span, number, weight = weights(self.happened[self.which], half_life)
        group = self.group[self.which]
        last = np.minimum(self.end, self.at(group, forgotten(self.happened[self.which], half_life)))
        firsts, ends, all_weights = [], [], []
        for later in range(HALF_LIVES // EWM_SPAN + 1):
            begins, stops = (self.at(group, (number + later + extra) * span) for extra in (0, 1))
            firsts.append(np.maximum(self.first, begins))
            ends.append(np.maximum(np.minimum(last, stops), firsts[-1]))
            all_weights.append(weight * 2.0 ** (-EWM_SPAN * later))
        first, end, weight = np.concatenate(firsts), np.concatenate(ends), np.concatenate(all_weights)
        values = np.tile(self.addends, len(firsts))
        total, _ = interval_sums(weight * values, first, end, self.positions)
        return total, interval_sums(weight, first, end, self.positions)[0]
