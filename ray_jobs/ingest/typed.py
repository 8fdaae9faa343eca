"""Parquet and Avro as tables with the files' own types, a block at a time."""

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import fastavro
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ray_jobs.ingest.chunks import NOTHING_UNREADABLE, Arrived, Chunk, UnreadableFile

AVRO_ROWS = 20_000
_AVRO_BROKEN = (ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error)
_AVRO_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "fixed": pa.binary(),
    "string": pa.string(),
    "enum": pa.string(),
    "date": pa.date32(),
    "timestamp-millis": pa.timestamp("us", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("us"),
    "local-timestamp-micros": pa.timestamp("us"),
    "time-millis": pa.time64("us"),
    "time-micros": pa.time64("us"),
    "uuid": pa.string(),
}


def read_parquet(file: Any, block_bytes: int, start: int, end: int) -> Iterator[tuple[int, Chunk]]:
    """Yield (number of the first row, rows) of the row groups that begin between two bytes of the file."""
    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    first = 1
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        if start <= _begins(group) < end and group.num_rows:
            rows = max(1024, block_bytes * group.num_rows // max(1, group.total_byte_size))
            at = first
            for batch in parquet.iter_batches(batch_size=rows, row_groups=[number], use_threads=False):
                yield at, Chunk(_readable(pa.Table.from_batches([batch])))
                at += len(batch)
        first += group.num_rows


def _readable(rows: pa.Table) -> pa.Table:
    """Decimals of more than 38 digits, which Polars does not have, as text: the contract's type tells what fits."""
    for number, field in enumerate(rows.schema):
        if pa.types.is_decimal256(field.type):
            rows = rows.set_column(number, field.name, rows.column(number).cast(pa.string()))
        elif "decimal256" in str(field.type):
            raise UnreadableFile(
                f"its column {field.name!r} is of {field.type}; decimals may have 38 digits, so write it so"
            )
    return rows


def read_avro(file: Any) -> Iterator[Chunk]:
    """Yield the records of an Avro container file."""
    try:
        reader: Any = fastavro.reader(file)  # of records, which its types do not say
        schema = avro_schema(reader.writer_schema)
        while records := list(itertools.islice(reader, AVRO_ROWS)):
            yield Chunk(avro_table(records, schema))
    except _AVRO_BROKEN as error:
        raise UnreadableFile(f"{type(error).__name__}: {error}") from error


def avro_schema(writer: Any) -> pa.Schema:
    """The Arrow columns of an Avro record; maps, arrays, records and unions of several types become JSON text."""
    if not isinstance(writer, dict) or writer.get("type") != "record":
        raise UnreadableFile("its schema is not a record, so it has no columns")
    return pa.schema([(field["name"], _avro_type(field["type"])) for field in writer["fields"]])


def avro_table(records: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Decoded Avro records as a table."""
    columns = []
    for column in schema:
        values = [record.get(column.name) for record in records]
        if pa.types.is_string(column.type):
            values = [_as_text(value) for value in values]
        columns.append(pa.array(values, column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def finish_typed(rows: pl.DataFrame, marked: bool) -> Arrived:
    """The rows as Polars has them; bytes as text, or as hexadecimal digits where they are none."""
    binary = [name for name, dtype in rows.schema.items() if dtype == pl.Binary]
    return rows.with_columns(_text(rows[name]) for name in binary), NOTHING_UNREADABLE


def _text(column: pl.Series) -> pl.Series:
    try:
        return column.cast(pl.String)
    except pl.exceptions.ComputeError:  # also where it is asked not to be strict
        return pl.Series(column.name, [_decoded(value) for value in column], dtype=pl.String)


def _decoded(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _begins(group: Any) -> int:
    column = group.column(0)
    return min(offset for offset in (column.data_page_offset, column.dictionary_page_offset) if offset)


def _avro_type(kind: Any) -> pa.DataType:
    if isinstance(kind, list):
        kinds = [inner for inner in kind if inner != "null"]
        return _avro_type(kinds[0]) if len(kinds) == 1 else pa.string()
    if isinstance(kind, dict):
        if kind.get("logicalType") == "decimal":
            return pa.decimal128(kind["precision"], kind.get("scale", 0))
        known = _AVRO_TYPES.get(kind.get("logicalType", ""))
        return known or _avro_type(kind["type"])
    return _AVRO_TYPES.get(kind, pa.string())


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return orjson.dumps(value, default=_as_text).decode()
    return value.hex() if isinstance(value, bytes) else str(value)
