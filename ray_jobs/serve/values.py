"""Values of one column of a request: JSON in, a typed column out, or a refusal that names the row and the column."""

import math
import reprlib
from collections.abc import Callable
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


def read_column(name: str, values: list[Any] | pl.Series, column: Column) -> pl.Series:
    """The column, typed: from JSON's values, or from a series in a type of its own.

    Raises:
        BadRequest: with the first row whose value is not what the contract promises.
    """
    return _read_series(name, values, column) if isinstance(values, pl.Series) else _read_list(name, values, column)


def _read_list(name: str, values: list[Any], column: Column) -> pl.Series:
    kinds = set(map(type, values))
    if _Absent in kinds:
        index = next(i for i, value in enumerate(values) if value is ABSENT)
        raise BadRequest(f"row {index}: column {name!r} is missing, and other rows have it.")
    if type(None) in kinds and not column.nullable:
        raise BadRequest(f"row {values.index(None)}: column {name!r} is null, and its contract does not allow that.")
    try:
        if kinds <= _plain(column.dtype) and (not column.dtype.is_float() or all(map(_is_finite, values))):
            typed = pl.Series(name, values, dtype=column.dtype, strict=True)
        else:
            read = _reader(column.dtype)
            each = [
                None if value is None else _read_value(read, value, name, index) for index, value in enumerate(values)
            ]
            typed = pl.Series(name, each, dtype=column.dtype)
        if column.dtype == pl.Float32 and typed.is_infinite().any():
            bad = typed.is_infinite().arg_max() or 0
            raise BadRequest(f"row {bad}: column {name!r} is {say(values[bad])}, out of the range of Float32.")
        return typed
    except UnicodeEncodeError as error:
        raise BadRequest(f"column {name!r} holds {say(error.object)}, which is no text.") from None
    except (OverflowError, TypeError, pl.exceptions.PolarsError):
        if isinstance(column.dtype, pl.Enum):
            known = set(column.dtype.categories)
            bad = next((i for i, value in enumerate(values) if value is not None and value not in known), 0)
            raise BadRequest(
                f"row {bad}: column {name!r} is {say(values[bad])}; it must be one of {sorted(known)}."
            ) from None
        bad = next(
            (i for i, value in enumerate(values) if isinstance(value, int) and not _fits(value, column.dtype)), 0
        )
        raise BadRequest(
            f"row {bad}: column {name!r} is {say(values[bad])}, out of the range of {column.dtype}."
        ) from None


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _read_series(name: str, values: pl.Series, column: Column) -> pl.Series:
    if values.null_count() and not column.nullable:
        raise BadRequest(
            f"row {values.is_null().arg_max()}: column {name!r} is null, and its contract does not allow that."
        )
    if values.dtype == pl.String and column.dtype != pl.String:
        return _read_list(name, values.to_list(), column)
    if not _is_kin(values.dtype, column.dtype):
        raise BadRequest(f"row 0: column {name!r} has the type {values.dtype}; it must be {column.dtype}.")
    typed = values.cast(column.dtype, strict=False).alias(name)
    lost = typed.is_null() & values.is_not_null()
    if column.dtype.is_float():
        lost |= (~typed.is_finite()).fill_null(value=False)
    if isinstance(column.dtype, pl.Datetime | pl.Date):
        lost |= (~typed.dt.year().is_between(FIRST_YEAR, LAST_YEAR)).fill_null(value=False)
    if lost.any():
        bad = lost.arg_max() or 0
        raise BadRequest(f"row {bad}: column {name!r} is {say(_plain_value(values, bad))}; {_expected(column.dtype)}")
    return typed


def _is_kin(sent: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether values of one type are values of another by themselves: whole numbers are numbers, and nothing else is."""
    if sent == pl.Null:
        return True
    if wanted.is_integer():
        return sent.is_integer()
    if wanted.is_float():
        return sent.is_integer() or sent.is_float()
    if isinstance(wanted, pl.Datetime):
        return isinstance(sent, pl.Datetime) and sent.time_zone is not None
    return sent == wanted


def _plain_value(values: pl.Series, row: int) -> object:
    try:
        return values[row]
    except (ValueError, OverflowError):  # an instant beyond what Python's datetime holds
        return values[row : row + 1].to_physical()[0]


def _expected(dtype: pl.DataType) -> str:
    if dtype.is_float():
        return "it must be a finite number; a missing one is null where the contract allows it."
    if isinstance(dtype, pl.Datetime | pl.Date):
        return f"it must be between the years {FIRST_YEAR} and {LAST_YEAR}."
    return f"out of the range of {dtype}."


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
    expected = f"it must be a day between the years {FIRST_YEAR} and {LAST_YEAR}, such as 2013-01-01."
    if not isinstance(value, str):
        raise ValueError(expected)
    try:
        day = date.fromisoformat(value)
        if FIRST_YEAR <= day.year <= LAST_YEAR:
            return day
    except ValueError:
        pass
    raise ValueError(expected)


def _fits(value: int, dtype: pl.DataType) -> bool:
    bits = 64 if dtype.is_float() else int("".join(c for c in str(dtype) if c.isdigit()) or 64)
    signed = not str(dtype).startswith("UInt")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return low <= value <= high


# A plain repr fails at about a thousand levels, which JSON may have, and spells out megabytes of which 60 characters are kept.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120


def say(value: object) -> str:
    """A value as it stands in an error: never long."""
    text = _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
