"""Fields as they arrived, as the contract's types: exactly what was written, or not at all.

Text is read as people and programs write it; typed fields (Parquet, Avro, JSON) are cast only where nothing is lost.
"""

import re
from typing import Any

import polars as pl

_NUMBER = r"^[+-]?(\d*)\.?(\d*)(?:[eE]([+-]?\d{1,9}))?$"
_LONGEST = pl.Decimal(38, 0)
_SUBMICRO = r"\.\d{6}\d*[1-9]"  # what no column of a table holds
_LAST_INT64 = 2**63 - 1  # of an unsigned integer, all that a table holds
_LISTS = (pl.List, pl.Array)
_LEAVES = (  # inside of nested fields, types that are cast to each other
    (pl.Date, pl.Datetime),
    (pl.Duration,),
    (pl.Categorical, pl.Enum, pl.String),
)
_QUICK_INSTANT = re.compile(r"\d{4}-\d\d-\d\d(?:([T ])\d\d:\d\d(:\d\d)?(Z)?)?")


def parse_block(
    arrived: pl.DataFrame, columns: dict[str, Any], time_zone: str
) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """The contract's columns in its types, null where a field cannot be one; and where that is so.

    Args:
        arrived: text or typed columns.
        columns: the contract's names and types.
        time_zone: of instants that name none.

    Returns:
        The block, and for each column with fields that could not be read a mask that is true for these.
    """
    # not `select`, which makes one row of columns that are null throughout
    read = arrived.with_columns(_read(arrived[name], dtype, time_zone).alias(name) for name, dtype in columns.items())
    parsed = read.select(list(columns))
    lost: dict[str, pl.Series] = {}
    for name, dtype in columns.items():
        if dtype.is_float() and arrived[name].dtype == pl.String and parsed[name].is_infinite().any():
            # looked at again: was it written so, or is it a number too large?
            parsed = parsed.with_columns(pl.when(~pl.col(name).is_infinite()).then(name).alias(name))
        if dtype == pl.UInt64:
            parsed = parsed.with_columns(pl.when(pl.col(name) <= _LAST_INT64).then(name).alias(name))
        if parsed[name].null_count() == arrived[name].null_count():
            continue
        missed = arrived[name].is_not_null() & parsed[name].is_null()
        if arrived[name].dtype == pl.String and not _quick_is_all(dtype):
            # the few fields that are not written like most: every way to write them is tried, for these alone
            rest = arrived.lazy().filter(missed).select(parse_field(pl.col(name), dtype, time_zone)).collect()[name]
            parsed = parsed.with_columns(parsed[name].scatter(missed.arg_true(), rest))
            missed &= parsed[name].is_null()
        if missed.any():
            lost[name] = missed
    return parsed, lost


def parse_field(field: pl.Expr, dtype: Any, time_zone: str) -> pl.Expr:
    """A field of text as the contract's type, however it may be written; null where it cannot be one."""
    if dtype == pl.String:
        return field
    if dtype == pl.Boolean:
        return field.str.to_lowercase().replace_strict(
            {"true": True, "1": True, "false": False, "0": False}, default=None
        )
    if dtype.is_integer():
        # 3.0 is an integer that went through a spreadsheet; 3.5 is not one
        text = field.str.strip_chars()
        exact = text.cast(dtype, strict=False)
        whole = pl.when(_places(text) <= 0).then(text.cast(_LONGEST, strict=False).cast(dtype, strict=False))
        read = exact.fill_null(whole)
        return pl.when(read <= _LAST_INT64).then(read) if dtype == pl.UInt64 else read
    if dtype.is_float():
        number = field.str.strip_chars().cast(dtype, strict=False)
        # a number too large becomes infinite, which is not what was written
        return pl.when(~(number.is_infinite() & field.str.contains(r"\d"))).then(number)
    if dtype == pl.Decimal:
        text = field.str.strip_chars()
        return pl.when(_places(text) <= dtype.scale).then(text.cast(dtype, strict=False))
    if dtype == pl.Datetime:
        return _parse_instant(field, time_zone)
    if dtype == pl.Date:
        return field.str.to_date("%Y-%m-%d", strict=False)
    if dtype == pl.Time:
        return pl.when(~field.str.contains(_SUBMICRO)).then(field.str.to_time("%H:%M:%S%.f", strict=False))
    if dtype.is_nested():
        return pl.lit(None, dtype)  # text is no list
    return field.str.strip_chars().cast(dtype, strict=False)


def _places(text: pl.Expr) -> pl.Expr:
    """Digits that a number has behind the point, once the zeros at its end are taken away; null where text is none."""
    parts = text.str.extract_groups(_NUMBER).struct
    whole, fraction, exponent = parts.field("1"), parts.field("2"), parts.field("3").cast(pl.Int64).fill_null(0)
    digits = whole + fraction
    zeros = digits.str.len_bytes() - digits.str.strip_chars_end("0").str.len_bytes()
    places = fraction.str.len_bytes().cast(pl.Int64) - exponent - zeros
    return pl.when(digits.str.contains("[1-9]")).then(places).when(digits.is_not_null()).then(0)


def _read(arrived: pl.Series, dtype: Any, time_zone: str) -> pl.Expr:
    """The quickest way to read a column: most fields, if they are text; every field, if they are typed."""
    column = pl.col(arrived.name)
    if dtype == pl.Time and arrived.dtype == pl.Time:
        return pl.when(column.to_physical() % 1000 == 0).then(column)  # a table has no nanoseconds
    if arrived.dtype == dtype:
        return column
    if arrived.dtype != pl.String:
        return _cast_exactly(column, arrived.dtype, dtype, time_zone)
    if dtype == pl.Datetime:
        return _quick_instant(arrived, time_zone)
    if dtype == pl.Decimal:  # Polars rounds what is longer
        longer = rf"\.\d{{{dtype.scale}}}\d|[eE]"
        return pl.when(~column.str.contains(longer)).then(column.cast(dtype, strict=False))
    if dtype.is_numeric():
        return column.cast(dtype, strict=False)
    return parse_field(column, dtype, time_zone)


def _quick_is_all(dtype: Any) -> bool:
    return bool(dtype in (pl.String, pl.Boolean, pl.Date) or dtype.is_nested())


def _quick_instant(arrived: pl.Series, time_zone: str) -> pl.Expr:
    """Instants written as the first one is: one format without fractions and offsets is read ten times faster."""
    column = pl.col(arrived.name)
    first = arrived.first(ignore_nulls=True)
    shape = _QUICK_INSTANT.fullmatch(first) if isinstance(first, str) else None
    if not shape:
        return _parse_instant(column, time_zone)
    separator, seconds, zulu = shape.groups()
    form = "%Y-%m-%d" if not separator else f"%Y-%m-%d{separator}%H:%M{':%S' if seconds else ''}{zulu or ''}"
    instant = column.str.to_datetime(form, time_unit="us", strict=False)
    return _place(instant, "UTC" if zulu else time_zone)


def _parse_instant(field: pl.Expr, time_zone: str) -> pl.Expr:
    """ISO 8601; without an offset it is in the source's zone. An hour that a clock change skips is none."""
    text = field.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    zoned = pl.coalesce(
        text.str.to_datetime(form, time_unit="us", strict=False).dt.convert_time_zone("UTC")
        for form in ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M%:z")
    )
    local = pl.coalesce(
        text.str.to_datetime(form, time_unit="us", strict=False)
        for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    )
    # a fraction longer than the table's would be cut
    return pl.when(~field.str.contains(_SUBMICRO)).then(pl.coalesce(zoned, _place(local, time_zone)))


def _place(local: pl.Expr, time_zone: str) -> pl.Expr:
    """Instants of a zone in UTC."""
    if time_zone == "UTC":
        return local.dt.replace_time_zone("UTC")
    return local.dt.replace_time_zone(time_zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def _cast_exactly(column: pl.Expr, arrived: Any, wanted: Any, time_zone: str) -> pl.Expr:
    """A typed column in the contract's type; null where a value would change, or the types have nothing in common."""
    if arrived == pl.Null:
        return column.cast(wanted)
    if wanted == pl.String:
        # names of categories are text; a number is not, nor are bytes, whose encoding nobody told
        return column.cast(pl.String, strict=False) if arrived in (pl.Categorical, pl.Enum) else pl.lit(None, pl.String)
    if arrived.is_temporal() and wanted.is_temporal() and pl.Time not in (arrived, wanted):
        return _cast_instant(column, arrived, wanted, time_zone)
    if (arrived.is_numeric() and wanted.is_numeric()) or (arrived.is_nested() and _alike(arrived, wanted)):
        there = column.cast(wanted, strict=False)
        return pl.when(there.cast(arrived, strict=False).eq_missing(column)).then(there)
    return pl.lit(None, wanted)


def _alike(arrived: Any, wanted: Any) -> bool:
    """Whether nested types have one shape, and leaves of which Polars casts one to the other; else it raises, or ignores it."""
    if arrived in (wanted, pl.Null):
        return True
    if arrived in _LISTS and wanted in _LISTS:
        return _alike(arrived.inner, wanted.inner)
    if arrived == pl.Struct and wanted == pl.Struct:
        types = {field.name: field.dtype for field in arrived.fields}
        return all(_alike(types[field.name], field.dtype) for field in wanted.fields if field.name in types)
    numbers = all(leaf.is_numeric() or leaf == pl.String for leaf in (arrived, wanted))
    return numbers or any(arrived in leaves and wanted in leaves for leaves in _LEAVES)


def _cast_instant(column: pl.Expr, arrived: Any, wanted: Any, time_zone: str) -> pl.Expr:
    """Dates are the midnight that begins them; instants without a zone are in the source's."""
    if pl.Duration in (arrived, wanted):
        there = column.cast(wanted, strict=False)
        return pl.when(there.cast(arrived) == column).then(there) if arrived == wanted else pl.lit(None, wanted)
    if wanted == pl.Date:
        there = column.cast(pl.Date)
        return pl.when(there.cast(arrived) == column).then(there) if not _zone(arrived) else pl.lit(None, wanted)
    unit = pl.Datetime("us", _zone(arrived))
    there = column.cast(unit, strict=False)
    kept = pl.when(there.cast(arrived) == column).then(there)
    return kept.dt.convert_time_zone("UTC") if _zone(arrived) else _place(kept, time_zone)


def _zone(dtype: Any) -> str | None:
    return dtype.time_zone if dtype == pl.Datetime else None
