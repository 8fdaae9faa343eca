"""Whether a function of rows looks at other rows: what does is found, however far it looks, and what does not is let be."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from perennial.rules.rowwise import find_dependent

X, TEXT, KEY = pl.col("x"), pl.col("text"), pl.col("key")
SCHEMA = {
    "key": pl.Int64,
    "number": pl.Int64,
    "text": pl.String,
    "x": pl.Float64,
    "at": pl.Datetime("us", "UTC"),
    "yes": pl.Boolean,
    "list": pl.List(pl.Float64),
}
LOOKING = {
    "far back": X.shift(24),
    "far ahead": X.shift(-24),
    "farther than any rows": X.shift(5_000),
    "a moving mean": X.rolling_mean(30),
    "a moving mean in time": X.rolling_mean_by("at", "30d"),
    "a mean by key": X.mean().over("key"),
    "a mean of whole numbers by key": pl.col("number").mean().over("key"),
    "a mean by many keys": X.mean().over("key", "number", "text", "at"),
    "the largest of an instant": X.max().over("at"),
    "any by key": pl.col("yes").any().over("key"),
    "a standard score": (X - X.mean()) / X.std(),
    "the number of rows": X * pl.len(),
    "a rank": X.rank("ordinal"),
    "what was there before": X.fill_null(strategy="forward"),
    "twins": KEY.is_duplicated(),
    "the order": X.reverse(),
    "a Python function": X.map_batches(lambda column: column - column.mean(), return_dtype=pl.Float64),
}
ALONE = {
    "arithmetic": (X * 2 + KEY) // 3,
    "an argument": X.round(2),
    "a list's": pl.col("list").list.eval(pl.element().rank()).list.sum() + pl.col("list").list.mean(),
    "columns side by side": pl.max_horizontal("key", "number")
    + pl.fold(0, lambda one, other: one + other, ["key", "number"]),
    "a table of the file": X - pl.lit(pl.Series([1.0, 2.0])).mean(),
    "a mapping": KEY.replace_strict({1: 5}, default=0),
    "a Python function": X.map_batches(lambda column: column * 2, return_dtype=pl.Float64),
    "what invented texts are not": TEXT.str.to_integer() + TEXT.cast(pl.Int64),
    "the hour": pl.col("at").dt.convert_time_zone("Asia/Tokyo").dt.hour() / timedelta(hours=1).seconds,
}


def beside(expression: pl.Expr) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    return lambda rows: rows.with_columns(made=expression).select("key", made="made", plain=X + 1)


@pytest.mark.parametrize("what", LOOKING)
def test_what_looks_at_other_rows_is_found(what: str) -> None:
    assert find_dependent(beside(LOOKING[what]), SCHEMA) == ["made"]


@pytest.mark.parametrize("what", ALONE)
def test_what_looks_at_its_row_is_let_be(what: str) -> None:
    assert find_dependent(beside(ALONE[what]), SCHEMA) == []


@pytest.mark.parametrize("what", ["twins", "the order", "a Python function", "far back"])
def test_what_cannot_be_computed_of_invented_rows_hides_nothing_beside_it(what: str) -> None:
    strict = TEXT.cast(pl.Int64)
    assert find_dependent(lambda rows: rows.select(strict=strict, made=LOOKING[what]), SCHEMA) == ["made"]
    assert find_dependent(lambda rows: rows.select(made=strict.shift(3)), SCHEMA) == ["made"]


def test_rows_that_go_or_change_places_are_found() -> None:
    assert find_dependent(lambda rows: rows.select("key").filter(KEY > 3), SCHEMA)
    assert find_dependent(lambda rows: rows.select("key").sort("key"), SCHEMA)
