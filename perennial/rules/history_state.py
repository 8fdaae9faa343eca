"""The past that an endpoint holds in memory: a source's versions by key, so that a request finds those of its keys at once.

The values come from the same function as in training (`perennial.rules.history`); only where the versions are looked up
differs. A state is data: Arrow out, Arrow in, and two of them make one.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from perennial.rules.exact import Ints
from perennial.rules.joins import MOMENT
from perennial.rules.keyed import key_rows, key_spans
from perennial.rules.versions import Found, arrays, counting_versions
from perennial.spec.history import History
from perennial.spec.sources import Source


class HistoryState:
    """A source's past, ready to be asked by key. Never changed: `merged` makes another, which can be swapped in.

    Args:
        log: every version of every row of the source, with `_known_at`, in the order they became known.
        features: all of this source.
    """

    def __init__(self, log: pl.DataFrame, source: Source, features: Sequence[History]) -> None:
        self.log, self._source, self._features = log, source, features
        versions = counting_versions(log, source)
        self._by_key = {
            by: _Index(versions, [f for f in features if tuple(f.columns.values()) == by], list(by), source)
            for by in dict.fromkeys(tuple(feature.columns.values()) for feature in features)
        }

    def find(
        self, rows: pl.DataFrame, by: dict[str, str], features: Sequence[History], since: int | None, *, own: bool
    ) -> tuple[Ints, Ints, Found]:
        """See `perennial.rules.versions.Past`."""
        keys = key_rows(rows, list(by))
        groups: dict[tuple[Any, ...], int] = {}
        asked = [number for number, key in enumerate(keys) if None not in key]
        group = [groups.setdefault(keys[number], len(groups)) for number in asked]
        found = self._by_key[tuple(by.values())].pick(list(groups), since, own=own)
        return np.array(asked, np.int64), np.array(group, np.int64), found

    def merged(self, more: pl.DataFrame) -> "HistoryState":
        """The state with rows that became known since."""
        log = pl.concat([self.log, more.select(self.log.columns)]).sort(MOMENT, maintain_order=True)
        return HistoryState(log, self._source, self._features)

    def since(self, moment: datetime) -> "HistoryState":
        """The state for moments from this one on: without rows that count at none of them."""
        spans = [feature.reach_back for feature in self._features]
        if any(span is None for span in spans):
            return self
        begin = moment - max((span for span in spans if span is not None), default=timedelta(0))
        recent = self.log.filter((pl.col(str(self._source.event_time)) > begin) | (pl.col(MOMENT) > begin))
        key = list(self._source.key)
        kept = self.log.join(recent.select(key).unique(), on=key, how="semi", nulls_equal=True, maintain_order="left")
        return HistoryState(kept, self._source, self._features)

    def to_arrow(self) -> pa.Table:
        """The state as a table, to be kept as Parquet; `HistoryState(pl.from_arrow(table), ...)` brings it back."""
        return self.log.to_arrow()


class _Index:
    """Versions by the values of some columns, each key's in the order in which they happened."""

    def __init__(self, versions: pl.DataFrame, features: Sequence[History], columns: list[str], source: Source) -> None:
        rows = versions.drop_nulls(columns).sort(*columns, "_happened", maintain_order=True)
        self._found = arrays(rows, np.zeros(len(rows), np.int64), features, source)
        self._spans = key_spans(rows, columns)

    def pick(self, keys: list[tuple[Any, ...]], since: int | None, *, own: bool) -> Found:
        """The versions of these keys that happened since an instant; a key's number is their group."""
        happened = self._found.happened
        places, sizes = [np.empty(0, np.int64)], []
        for key in keys:
            start, end = self._spans.get(key, (0, 0))
            if since is not None:
                start += int(np.searchsorted(happened[start:end], since, "right"))
            places.append(np.arange(start, end))
            sizes.append(end - start)
        at = np.concatenate(places)
        found = self._found
        return Found(
            group=np.repeat(np.arange(len(keys)), sizes),
            happened=happened[at],
            begins=found.begins[at],
            until=found.until[at],
            terms={text: terms.at(at) for text, terms in found.terms.items()},
            calendars={window: ends[at] for window, ends in found.calendars.items()},
            keys=found.keys[pl.Series(at)] if own and found.keys is not None else None,
        )
