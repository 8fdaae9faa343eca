"""Whether a function of rows looks at other rows: tried on invented ones, together, in another order and one by one."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

RowFunction = Callable[[pl.LazyFrame], pl.LazyFrame]
_ROWS = 8
_WORDS = ("ab", "B", "xyz", "ab", "", "Q1", "north", "12")


def find_dependent(function: RowFunction, schema: Mapping[str, Any]) -> list[str]:
    """The columns whose value for a row depends on which rows are beside it; none where invented rows cannot be computed.

    Args:
        function: from rows to rows.
        schema: what it is given, by column.
    """
    rows = invent_rows(schema)
    backwards = list(reversed(range(_ROWS)))
    try:
        together = function(rows.lazy()).collect()
        turned = function(rows[backwards].lazy()).collect()
        alone = pl.concat([function(rows[number].lazy()).collect() for number in range(_ROWS)], how="vertical_relaxed")
    except pl.exceptions.PolarsError:
        return []  # a pattern, a cast or a number that invented values do not fit: the contract's own would
    if not len(together) == len(turned) == len(alone) == _ROWS:
        return list(together.columns)
    return [
        name
        for name in together.columns
        if not together[name].equals(alone[name].cast(together[name].dtype), null_equal=True)
        or not together[name][backwards].equals(turned[name], null_equal=True)
    ]


def invent_rows(schema: Mapping[str, Any]) -> pl.DataFrame:
    """Eight rows that differ, of any columns; the last but one is null."""
    return pl.DataFrame([_invent(name, dtype, number) for number, (name, dtype) in enumerate(schema.items())])


def _invent(name: str, dtype: Any, number: int) -> pl.Series:
    # another order in every column, so that sorting by one of them changes the others
    draws = [(7 * row + 3 * number + row * row) % 11 for row in range(_ROWS)]
    values: list[Any]
    if dtype == pl.Boolean:
        values = [draw % 2 == 0 for draw in draws]
    elif isinstance(dtype, pl.Datetime):
        values = [datetime(2024, 1 + draw, 1 + draw, draw, tzinfo=UTC) for draw in draws]
    elif dtype == pl.Date:
        values = [date(2024, 1, 1) + timedelta(days=40 * draw) for draw in draws]
    elif dtype.is_float():
        values = [draw + 0.5 for draw in draws]
    elif dtype.is_integer():
        values = [draw + 1 for draw in draws]
    elif dtype == pl.String:
        values = [_WORDS[draw % len(_WORDS)] for draw in draws]
    else:
        return pl.Series(name, [None] * _ROWS, dtype)
    values[-2] = None
    return pl.Series(name, values, dtype)
