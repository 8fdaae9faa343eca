"""A joined source that an endpoint holds in memory, by key: a request finds the row that was newest at its moment at once.

What `perennial.rules.joins.join_known` finds, without sorting or filtering the log for every request.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import polars as pl

from perennial.rules.joins import MOMENT, usable_rows
from perennial.rules.keyed import key_rows, key_spans


class JoinState:
    """A join's log, ready to be asked by key. Never changed.

    Args are those of `join_known`. `values`: what may be found, and a row of nulls.
    """

    def __init__(
        self,
        log: pl.DataFrame,
        by: dict[str, str],
        prefix: str,
        event_time: str | None = None,
        tolerance: timedelta | None = None,
        key: Sequence[str] = (),
    ) -> None:
        usable, names = usable_rows(log, by, prefix, event_time, key)
        usable = usable.sort(list(by), maintain_order=True) if by else usable
        self._by, self._spans = list(by), key_spans(usable, list(by))
        self._usable_at = usable["_usable_at"].to_physical().to_numpy()
        self._happened = usable["_happened"].to_physical().fill_null(0).to_numpy()  # nothing is never too old
        self.values = pl.concat([usable.select(names), usable.select(names).clear(1)])
        self._tolerance = None if tolerance is None else tolerance // timedelta(microseconds=1)

    def add(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with the join's columns, in the rows' order."""
        places = self.places(rows)
        return rows.hstack(self.values[places] if len(places) != 1 else self.values.slice(places[0], 1))

    def places(self, rows: pl.DataFrame) -> list[int]:
        """Where in `values` stands what was newest at each row's `_known_at`; the last place, where nothing is."""
        moments = rows[MOMENT].cast(pl.Int64).to_list()
        return [self._place(key, moment) for key, moment in zip(key_rows(rows, self._by), moments, strict=True)]

    def _place(self, key: tuple[Any, ...], moment: int | None) -> int:
        nowhere = len(self._usable_at)
        start, end = self._spans.get(key, (0, 0))
        if start == end or moment is None:
            return nowhere
        place = start + int(self._usable_at[start:end].searchsorted(moment, "right")) - 1
        if place < start:
            return nowhere
        late = self._tolerance is not None and moment - self._happened[place] > self._tolerance
        return nowhere if late else place
