"""Whether a function of rows looks at other rows: by what it asks Polars for, and tried on invented ones, together and apart.

What it asks for finds a window of any length, also where invented values cannot be computed; the trial finds what Python
functions do and what no list of Polars's functions names.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from perennial.rules.plans import plan_code, plan_expressions

RowFunction = Callable[[pl.LazyFrame], pl.LazyFrame]
_ROWS = 256
_ALIKE, _KINDS = 128, 24  # so many rows of the first have a twin in every column but those of fractions
_ALONE = range(5, _ROWS, 31)
_WORDS = ("ab", "B", "xyz", "abc", "", "Q1", "north", "12")
_NUMBERS = tuple(str(number) for number in range(12))
_WINDOWS = {"Agg", "Over", "Rolling"}
_LOOKING = {
    "Shift",
    "ShiftAndFill",
    "Diff",
    "PctChange",
    "RollingExpr",
    "RollingExprBy",
    "FillNullWithStrategy",
    "Rank",
}
_LOOKING |= {"CumSum", "CumProd", "CumMin", "CumMax", "CumCount"}


def find_dependent(function: RowFunction, schema: Mapping[str, Any]) -> list[str]:
    """The columns whose value for a row depends on which rows are beside it.

    Args:
        function: from rows to rows.
        schema: what it is given, by column.

    A column that cannot be computed of invented rows (a pattern, a cast that they do not fit) is not tried, but asked.
    """
    query = function(pl.LazyFrame(schema=dict(schema)))
    names = query.collect_schema().names()
    if found := sorted(
        {_named(node, names) for node in plan_expressions(json.loads(plan_code(query))) if _looks(node)}
    ):
        return found
    for words in (_WORDS, _NUMBERS):
        rows = invent_rows(schema, words)
        try:
            return _tried(function, rows, names)
        except pl.exceptions.PolarsError:
            continue
    return [name for name in names if _tried_alone(function, rows, name)]


def _tried_alone(function: RowFunction, rows: pl.DataFrame, name: str) -> list[str]:
    try:
        return _tried(lambda some: function(some).select(name), rows, [name])
    except pl.exceptions.PolarsError:
        return []


def _tried(function: RowFunction, rows: pl.DataFrame, names: list[str]) -> list[str]:
    """All rows together, backwards, every other one, and some of them one by one: each must get the same."""
    together = function(rows.lazy()).collect()
    places = [list(reversed(range(_ROWS))), list(range(0, _ROWS, 2)), list(range(1, _ROWS, 2)), *([n] for n in _ALONE)]
    found: set[str] = set()
    for some in places:
        apart = function(rows[some].lazy()).collect()
        if len(together) != _ROWS or len(apart) != len(some):
            return names
        expected = together[some]
        if not expected.equals(apart, null_equal=True):
            found |= {name for name in names if not _same(expected[name], apart[name].cast(expected[name].dtype))}
    return [name for name in names if name in found]


def _same(one: pl.Series, other: pl.Series) -> bool:
    """Fractions but for their last bits: Polars divides one value by a constant otherwise than many."""
    if one.equals(other, null_equal=True) or not one.dtype.is_float():
        return one.equals(other, null_equal=True)
    alike = pl.select(
        (one.is_close(other, rel_tol=1e-9, nans_equal=True) | one.eq_missing(other)).fill_null(value=False)
    )
    return bool(alike.to_series().all())


def _looks(node: Any) -> bool:
    """Whether an expression asks Polars for other rows of a column."""
    return any(True for _ in _looking(node))


def _looking(node: Any) -> Iterator[str]:
    if node == "Len":
        yield node
    elif isinstance(node, list):
        for item in node:
            yield from _looking(item)
    elif isinstance(node, dict):
        for kind, inner in node.items():
            if kind == "Eval":  # within the lists of one row
                yield from _looking(inner["expr"])
                continue
            if kind in _WINDOWS and _reads(inner):
                yield kind
            elif kind == "Function":
                called = inner["function"]
                name = called if isinstance(called, str) else next(iter(called))
                if name in _LOOKING and _reads(inner["input"]):
                    yield name
            yield from _looking(inner)


def _reads(node: Any) -> bool:
    """Whether it is of a column: an aggregate of what the file itself says is the same for every row."""
    if isinstance(node, dict):
        return any(kind in ("Column", "Selector") or _reads(inner) for kind, inner in node.items())
    return isinstance(node, list) and any(isinstance(item, dict | list) and _reads(item) for item in node)


def _named(node: Any, names: list[str]) -> str:
    """An expression's column, or the first of those that a step before the last may have made it into."""
    name = node["Alias"][1] if "Alias" in node else ""
    return name if name in names else _first_column(node, names)


def _first_column(node: Any, names: list[str]) -> str:
    text = json.dumps(node)
    return next((name for name in names if f'"{name}"' in text), names[0])


def invent_rows(schema: Mapping[str, Any], words: Sequence[str] = _WORDS) -> pl.DataFrame:
    """Rows of any columns, of which some share their keys and differ in what they measure; some values are null."""
    return pl.DataFrame([_invent(name, dtype, number, words) for number, (name, dtype) in enumerate(schema.items())])


def _invent(name: str, dtype: Any, number: int, words: Sequence[str]) -> pl.Series:
    chance = random.Random(number)  # noqa: S311 - nothing is secret. Another order in every column, so that sorting by one of them changes the others
    alike = chance.choices(range(12), k=_KINDS)
    draws = [alike[row % _KINDS] for row in range(_ALIKE)] + chance.choices(range(12), k=_ROWS - _ALIKE)
    values: list[Any]
    if dtype == pl.Boolean:
        values = chance.choices([True, False], k=_ROWS)
    elif isinstance(dtype, pl.Datetime):
        values = [datetime(2024, 1 + draw, 1 + draw, draw, tzinfo=UTC) for draw in draws]
    elif dtype == pl.Date:
        values = [date(2024, 1, 1) + timedelta(days=40 * draw) for draw in draws]
    elif dtype.is_float():
        values = [0.25 + place / 8 for place in chance.sample(range(_ROWS), _ROWS)]
    elif dtype.is_integer():
        values = [draw + 1 for draw in draws]
    elif dtype == pl.String:
        values = [words[draw % len(words)] for draw in draws]
    else:
        return pl.Series(name, [None] * _ROWS, dtype)
    for place in chance.sample(range(_ROWS), _ROWS // 16):
        values[place] = None
    return pl.Series(name, values, dtype)
