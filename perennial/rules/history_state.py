"""The past that an endpoint holds in memory: a source's versions by key, so that a request finds those of its keys at once.

The values come from the same function as in training (`perennial.rules.history`); only where the versions are looked up
differs. A state is data: Arrow out, Arrow in, and two of them make one.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from perennial.rules.exact import Ints
from perennial.rules.history import counting_versions
from perennial.rules.joins import MOMENT
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
            tuple(feature.columns.values()): _Index(versions, list(feature.columns.values())) for feature in features
        }

    def versions_of(self, by: dict[str, str], groups: pl.DataFrame, since: int | None) -> pl.DataFrame:
        """The versions of these keys that happened since an instant, by `_group` and when they happened.

        Args:
            by: entity column to source column; `groups`: the entity's columns and `_group`, one row per key.
            since: in microseconds; None: all.
        """
        keys = groups.select(*by).rows() if by else [()]
        return self._by_key[tuple(by.values())].pick(keys, groups["_group"].to_numpy(), since)

    def merged(self, more: pl.DataFrame) -> "HistoryState":
        """The state with rows that became known since."""
        log = pl.concat([self.log, more.select(self.log.columns)])
        return HistoryState(log.sort(MOMENT, maintain_order=True), self._source, self._features)

    def since(self, moment: Any) -> "HistoryState":
        """The state for moments from this one on: without versions that count at none of them."""
        spans = [feature.reach_back for feature in self._features]
        if any(span is None for span in spans):
            return self
        reach = max((span for span in spans if span is not None), default=timedelta(0))
        happened = pl.col(str(self._source.event_time))
        recent = self.log.filter((happened > moment - reach) | (pl.col(MOMENT) > moment - reach))
        kept = self.log.join(
            recent.select(self._source.key).unique(), on=list(self._source.key), how="semi", maintain_order="left"
        )
        return HistoryState(kept, self._source, self._features)

    def to_arrow(self) -> pa.Table:
        """The state as a table, to be kept as Parquet."""
        return self.log.to_arrow()


class _Index:
    """Versions by the values of some columns, each key's in the order in which they happened."""

    def __init__(self, versions: pl.DataFrame, columns: list[str]) -> None:
        keyed = versions.drop_nulls(columns)
        self._rows = keyed.sort(*columns, "_happened", maintain_order=True)
        self._happened = self._rows["_happened"].to_numpy()
        if columns:
            sizes = self._rows.group_by(columns, maintain_order=True).len()
            ends = np.cumsum(sizes["len"].to_numpy())
            starts = ends - sizes["len"].to_numpy()
            self._spans = dict(
                zip(sizes.select(columns).rows(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True)
            )
        else:
            self._spans = {(): (0, len(self._rows))}

    def pick(self, keys: list[tuple[Any, ...]], groups: Ints, since: int | None) -> pl.DataFrame:
        places, sizes = [np.empty(0, np.int64)], []
        for key in keys:
            start, end = self._spans.get(key, (0, 0))
            if since is not None:
                start += int(np.searchsorted(self._happened[start:end], since, "right"))
            places.append(np.arange(start, end))
            sizes.append(end - start)
        picked = self._rows[np.concatenate(places)]
        return picked.with_columns(pl.Series("_group", np.repeat(groups, sizes)))
