"""Values of one column of a request: JSON in, a typed column out, or a refusal that names the row and the column."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

FIRST_YEAR, LAST_YEAR = 1700, 2200  # what every reader of the prediction log can hold, nanoseconds included


class BadRequest(ValueError):
    """The request cannot be answered as it stands; `status` is its HTTP code, the text what to change."""

    def __init__(self, detail: str, status: int = 422) -> None:
        super().__init__(detail)
        self.detail, self.status = detail, status


@dataclass(frozen=True)
class Column:
    """What one column of a request's rows may hold."""

    dtype: pl.DataType
    nullable: bool


class _Absent:
    pass


ABSENT = _Absent()
"""Stands for a row that does not have the column."""
_Reader = Callable[[Any], Any]


def read_column(name: str, values: Sequence[Any], column: Column) -> pl.Series:
    """The column, typed.

    Raises:
        BadRequest: with the first row whose value is not what the contract promises.
    """
    kinds = set(map(type, values))
    if _Absent in kinds:
        index = next(i for i, value in enumerate(values) if value is ABSENT)
        raise BadRequest(f"row {index}: column {name!r} is missing, and other rows have it.")
    if type(None) in kinds and not column.nullable:
        raise BadRequest(f"row {values.index(None)}: column {name!r} is null, and its contract does not allow that.")
    try:
        if kinds <= _plain(column.dtype):
            typed = pl.Series(name, values, dtype=column.dtype, strict=True)
            if not column.dtype.is_float() or typed.drop_nulls().is_finite().all():
                return typed
        read = _reader(column.dtype)
        each = [None if value is None else _read_value(read, value, name, index) for index, value in enumerate(values)]
        return pl.Series(name, each, dtype=column.dtype)
    except UnicodeEncodeError as error:
        raise BadRequest(f"column {name!r} holds {say(error.object)}, which is no text.") from None
    except (OverflowError, TypeError, pl.exceptions.PolarsError):
        bad = next(
            (i for i, value in enumerate(values) if isinstance(value, int) and not _fits(value, column.dtype)), 0
        )
        raise BadRequest(
            f"row {bad}: column {name!r} is {say(values[bad])}, out of the range of {column.dtype}."
        ) from None


def _plain(dtype: pl.DataType) -> set[type]:
    """Python types that become the column as they stand, all at once."""
    if dtype.is_integer():
        return {int, type(None)}
    if dtype.is_float():
        return {float, type(None)}
    if dtype == pl.Boolean:
        return {bool, type(None)}
    return {str, type(None)} if dtype == pl.String else set()


def _read_value(read: _Reader, value: Any, name: str, index: int) -> Any:
    try:
        return read(value)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"row {index}: column {name!r} is {say(value)}; {error}") from None


def _reader(dtype: pl.DataType) -> _Reader:
    if dtype == pl.Boolean:
        return _boolean
    if dtype.is_integer():
        return _integer
    if dtype.is_float():
        return _number
    if isinstance(dtype, pl.Datetime):
        return _instant
    if dtype == pl.Date:
        return _day
    return _text


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("it must be true or false.")


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("it must be a whole number.")


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError("it must be a finite number; a missing one is null where the contract allows it.")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("it must be a string.")


def _instant(value: Any) -> datetime:
    expected = "it must be an instant with its time zone, such as 2013-01-01T10:15:00Z."
    if not isinstance(value, str):
        raise ValueError(expected)
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is not None and FIRST_YEAR <= instant.year <= LAST_YEAR:
            return instant.astimezone(UTC)
    except ValueError:
        pass
    raise ValueError(expected)


def _day(value: Any) -> date:
    expected = "it must be a day, such as 2013-01-01."
    if not isinstance(value, str):
        raise ValueError(expected)
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError(expected) from None


def _fits(value: int, dtype: pl.DataType) -> bool:
    bits = 64 if dtype.is_float() else int("".join(c for c in str(dtype) if c.isdigit()) or 64)
    signed = not str(dtype).startswith("UInt")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return low <= value <= high


def say(value: object) -> str:
    """A value as it stands in an error: never long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
