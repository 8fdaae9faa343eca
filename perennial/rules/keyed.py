"""Rows in memory by their keys. Pure."""

from typing import Any

import numpy as np
import polars as pl

from perennial.rules.exact import Ints

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


def group_order(group: Ints, instants: Ints) -> Ints:
    """(n,) what sorts by group and then by instant, equals in their order. Groups are 0 or more.

    Logs stand mostly in the order of time, and what is left is a radix sort of the groups, 16 bits at a time: a third of
    what `lexsort` costs.
    """
    if len(group) < 2:
        return np.arange(len(group))
    order = None if (instants[1:] >= instants[:-1]).all() else np.argsort(instants, kind="stable")
    for shift in range(0, max(1, int(group.max()).bit_length()), 16):
        digits = (group >> shift).astype(np.uint16)  # the lowest 16 bits
        by_digit = np.argsort(digits if order is None else digits[order], kind="stable")
        order = by_digit if order is None else order[by_digit]
    assert order is not None
    return order
