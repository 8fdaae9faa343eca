"""Rows of any shape as JSON, so that the quarantine of all sources is one table, and back, exactly as they arrived.

JSON has no instants, bytes or NaN, and knows one kind of number. So every row is kept with the Arrow schema it had:
what JSON cannot hold is written as text, and read back by its type.
"""

import base64
import hashlib
import json
import zlib
from typing import Any

import polars as pl
import pyarrow as pa
from polars.datatypes import DataTypeClass

Dtype = pl.DataType | DataTypeClass
ARRIVED_SCHEMA = "arrived_schema"
RAW_ROW = "raw_row"

_TEXT = "text:"
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31, in days since 1970
_UNITS_PER_DAY = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def encode_rows(fields: pl.DataFrame) -> pl.DataFrame:
    """`raw_row`: a JSON object per row, for people; `arrived_schema`: what `decode_rows` needs besides.

    Rows with the same fields and types have the same schema, and others have another.
    """
    fields = fields.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    fields = fields.cast({name: _without_maps(dtype) for name, dtype in fields.schema.items() if dtype.is_nested()})
    if not fields.columns:
        rows = pl.repeat("{}", len(fields), eager=True)
    else:
        wire = [
            _to_json(pl.col(name), dtype, _is_finite(fields[name])).alias(name) for name, dtype in fields.schema.items()
        ]
        rows = fields.select(pl.struct(wire).struct.json_encode().alias(RAW_ROW))[RAW_ROW]
    return pl.DataFrame({RAW_ROW: rows, ARRIVED_SCHEMA: pl.repeat(_schema_text(fields), len(rows), eager=True)})


def decode_rows(rows: pl.Series, schema: str | None) -> pl.DataFrame:
    """The fields of rows that `encode_rows` wrote with this schema; categories come back as text.

    Args:
        rows: at least one JSON object.
        schema: None: written before schemas were kept, when every source was CSV.
    """
    if schema is None or schema.startswith(_TEXT):
        alike = rows.head(1) if schema else rows
        names = alike.str.json_decode(infer_schema_length=None).struct.fields
        types: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())
    else:
        arrow = pa.ipc.read_schema(pa.py_buffer(zlib.decompress(base64.b64decode(schema))))
        types = dict(pl.DataFrame(pl.from_arrow(arrow.empty_table())).schema)
    if not types:
        return pl.DataFrame(height=len(rows))
    wire = pl.Struct({name: _wire_type(dtype) for name, dtype in types.items()})
    decoded = rows.str.json_decode(wire).struct.unnest()
    return decoded.select(_from_json(pl.col(name), dtype).alias(name) for name, dtype in types.items())


def _schema_text(fields: pl.DataFrame) -> str:
    """An Arrow IPC schema, deflated, in base64. Fields of text only, as in CSV, are named by a hash and read off a row:
    a copy of this stands beside each row until it is written."""
    if all(dtype == pl.String for dtype in fields.dtypes):
        return f"{_TEXT}{hashlib.sha256(json.dumps(fields.columns).encode()).hexdigest()[:16]}"
    arrow = fields.head(0).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    return base64.b64encode(zlib.compress(arrow.serialize().to_pybytes())).decode()


def _is_finite(field: pl.Series) -> bool:
    return field.dtype.is_float() and bool(field.is_finite().all())


def _without_maps(dtype: Any) -> Any:
    """A map is a list of keys with their values, which may come twice: as an object of JSON it would lose them."""
    match dtype:
        case pl.Map(key=key, value=value):
            return pl.List(pl.Struct({"key": _without_maps(key), "value": _without_maps(value)}))
        case pl.List(inner=inner):
            return pl.List(_without_maps(inner))
        case pl.Struct(fields=parts):
            return pl.Struct({part.name: _without_maps(part.dtype) for part in parts})
        case _:
            return dtype


def _to_json(field: pl.Expr, dtype: Dtype, finite: bool = False) -> pl.Expr:
    match dtype:
        case pl.List(inner=inner) | pl.Array(inner=inner):
            items = field if isinstance(dtype, pl.List) else field.arr.to_list()
            return items.list.eval(_to_json(pl.element(), inner))
        case pl.Struct(fields=fields):
            parts = [_to_json(field.struct.field(part.name), part.dtype).alias(part.name) for part in fields]
            return pl.when(field.is_not_null()).then(pl.struct(parts))
        case pl.Binary():
            return field.bin.encode("base64")
        case pl.Date() | pl.Datetime():
            return pl.coalesce(_iso(field, dtype), field.to_physical().cast(pl.String))
        case pl.Time() | pl.Duration():
            return field.to_physical()
        case pl.Decimal():
            return field.cast(pl.String)
        case _ if dtype.is_float() and not finite:
            return field.cast(pl.String)  # NaN and infinity are no JSON
        case _:
            return field


def _iso(field: pl.Expr, dtype: pl.Date | pl.Datetime) -> pl.Expr:
    """ISO 8601 in UTC; null for years beyond 9999, which a broken file may hold and Polars cannot write."""
    physical = field.to_physical()
    if isinstance(dtype, pl.Date):
        return pl.when(physical.is_between(_FIRST_DAY, _LAST_DAY)).then(field).dt.strftime("%Y-%m-%d")
    day = _UNITS_PER_DAY[dtype.time_unit]
    plain = physical.cast(pl.Datetime(dtype.time_unit))
    return (
        pl.when(physical.is_between(_FIRST_DAY * day, (_LAST_DAY + 1) * day - 1))
        .then(plain)
        .dt.strftime("%Y-%m-%dT%H:%M:%S%.9f")
    )


def _wire_type(dtype: Dtype) -> pl.DataType:
    """What the JSON is read as: every leaf as text, which is exact for numbers of any length."""
    match dtype:
        case pl.List(inner=inner) | pl.Array(inner=inner):
            return pl.List(_wire_type(inner))
        case pl.Struct(fields=fields):
            return pl.Struct({part.name: _wire_type(part.dtype) for part in fields})
        case _:
            return pl.String()


def _from_json(field: pl.Expr, dtype: Dtype) -> pl.Expr:
    match dtype:
        case pl.List(inner=inner):
            return field.list.eval(_from_json(pl.element(), inner))
        case pl.Array(inner=inner, size=size):
            return field.list.eval(_from_json(pl.element(), inner)).list.to_array(size)
        case pl.Struct(fields=fields):
            parts = [_from_json(field.struct.field(part.name), part.dtype).alias(part.name) for part in fields]
            return pl.when(field.is_not_null()).then(pl.struct(parts))
        case pl.Binary():
            return field.str.decode("base64")
        case pl.Date() | pl.Datetime():
            return _instant(field, dtype)
        case pl.Time() | pl.Duration():
            return field.cast(pl.Int64).cast(dtype)
        case pl.Boolean():
            return field == "true"
        case _:
            return field.cast(dtype)


def _instant(field: pl.Expr, dtype: pl.Date | pl.Datetime) -> pl.Expr:
    number = field.cast(pl.Int64, strict=False)
    if isinstance(dtype, pl.Date):
        return pl.coalesce(field.str.to_date("%Y-%m-%d", strict=False), number.cast(pl.Int32).cast(dtype))
    form = "%Y-%m-%dT%H:%M:%S%.f"
    text = field.str.to_datetime(form, time_unit=dtype.time_unit, strict=False).cast(pl.Int64)
    return pl.coalesce(text, number).cast(dtype)
