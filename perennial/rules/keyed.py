"""Rows in memory by their keys. Pure."""

from typing import Any

import numpy as np
import polars as pl

Spans = dict[tuple[Any, ...], tuple[int, int]]
"""Where the rows of a key stand: [start, end)."""


def key_spans(rows: pl.DataFrame, columns: list[str]) -> Spans:
    """Where the rows of each key stand, of rows that are sorted by key; of no columns, all rows under `()`."""
    if not columns:
        return {(): (0, len(rows))}
    sizes = rows.group_by(columns, maintain_order=True).len()
    ends = np.cumsum(sizes["len"].to_numpy().astype(np.int64))
    starts = ends - sizes["len"].to_numpy().astype(np.int64)
    return dict(zip(sizes.select(columns).rows(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True))


def key_rows(rows: pl.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """The key of every row, in the rows' order; of no columns, `()`."""
    if not columns:
        return [()] * len(rows)
    return list(zip(*(rows[name].to_list() for name in columns), strict=True))
