"""Columns of `raw` that are computed from a row when it is brought in: `derived=` of a source."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from polars.datatypes import DataTypeClass

from perennial.spec.expressions import HIDDEN, calls_python, expression_code

_INSTANT = pl.Datetime("us", "UTC")
_SAMPLES: dict[Any, list[Any]] = {pl.String: ["b", "", "a"], pl.Boolean: [True, False, True]}


def derive_columns(derived: Mapping[str, pl.Expr], rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with their derived columns, in the types that the table keeps: integers and floats of 64 bits.

    Raises:
        PolarsError: an expression does not compute on these rows.
    """
    return rows.with_columns(_widest(derived, rows.schema)) if derived else rows


def derived_types(derived: Mapping[str, pl.Expr], columns: Mapping[str, Any]) -> dict[str, pl.DataType]:
    """Names and types of the derived columns of rows with these columns."""
    empty = pl.LazyFrame(schema=columns)
    return dict(empty.select(_widest(derived, columns)).collect_schema())


def find_misderived(
    name: str, derived: Mapping[str, Any], columns: Mapping[str, Any], personal: tuple[str, ...]
) -> Iterator[tuple[str, list[str]]]:
    """What is wrong with the derived columns of a source called `name`, each with the words to look for in the file.

    Args:
        columns: of the contract, to their Polars types.
        personal: those of them that no derived column may read: what it would show is what they hide.
    """
    for column, expression in derived.items():
        here = f"derived column {column!r} of source {name!r}"
        for message in _mistakes(column, expression, columns, personal):
            yield f"{here} {message}", ["derived", column]
            break


def _mistakes(column: str, expression: Any, columns: Mapping[str, Any], personal: tuple[str, ...]) -> Iterator[str]:
    if not column.isidentifier() or column.startswith("_") or column != column.lower():
        yield "must match [a-z][a-z0-9_]*; names that begin with _ are Perennial's own."
    if column in columns:
        yield "is called like a column of the contract; raw keeps what arrived, so give it a name of its own."
    if not isinstance(expression, pl.Expr):
        yield f"must be a Polars expression of the contract's columns, it is {expression!r}."
        return
    if calls_python(expression_code(expression)):
        yield HIDDEN
        return
    for read in expression.meta.root_names():
        if read not in columns:
            yield f"reads {read!r}, which the contract does not have; it has {list(columns)}."
        if read in personal:
            yield f"reads {read!r}, which is personal: it would show what the pseudonym hides."
    try:
        dtype = derived_types({column: expression}, columns)[column]
        alone = _alone(expression, columns)
    except (pl.exceptions.PolarsError, TypeError) as error:
        yield f"cannot be computed on the declared columns: {' '.join(str(error).split())}"
        return
    if dtype.is_nested() or not _can_be_kept(dtype):
        yield f"is {dtype}, which the table does not keep: cast it to a number, a boolean, text, a date or an instant (UTC, us)."
    if not alone:
        yield (
            "looks at other rows (a sum, a rank, a shift): it would depend on how a batch is cut into blocks. Derive it row "
            "by row here, and what looks further in features()."
        )


def _alone(expression: pl.Expr, columns: Mapping[str, Any]) -> bool:
    """Whether each of a few rows gets the value by itself that it gets beside others."""
    rows = pl.DataFrame({name: _sample(dtype) for name, dtype in columns.items()}, schema=dict(columns))
    together = rows.select(expression.alias("_"))
    single = pl.concat([rows[n : n + 1].select(expression.alias("_")) for n in range(len(rows))])
    backwards = rows.reverse().select(expression.alias("_")).reverse()
    return len(together) == len(rows) and together.equals(single) and together.equals(backwards)


def _sample(dtype: Any) -> pl.Series:
    values = _SAMPLES.get(dtype, [3, 0, 1]) if not dtype.is_nested() else [None, None, None]
    return pl.Series(values).cast(dtype, strict=False)


def _widest(derived: Mapping[str, pl.Expr], columns: Mapping[str, Any]) -> list[pl.Expr]:
    types = pl.LazyFrame(schema=columns).select(e.alias(n) for n, e in derived.items()).collect_schema()
    return [_widened(expression, types[name]).alias(name) for name, expression in derived.items()]


def _widened(expression: pl.Expr, dtype: pl.DataType | DataTypeClass) -> pl.Expr:
    if dtype.is_integer():
        return expression.cast(pl.Int64)
    if dtype.is_float():
        return expression.cast(pl.Float64)
    return expression.cast(pl.String) if dtype in (pl.Categorical, pl.Enum) else expression


def _can_be_kept(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Date, _INSTANT)
