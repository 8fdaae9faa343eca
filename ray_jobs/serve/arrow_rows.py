"""Rows as an Arrow IPC stream or file: for thousands of them, without a parser between."""

import struct

import polars as pl
import pyarrow as pa

from ray_jobs.serve.rows import RowSchema, Sent
from ray_jobs.serve.values import BadRequest

STREAM = "application/vnd.apache.arrow.stream"
FILE = "application/vnd.apache.arrow.file"
_MAGIC = b"ARROW1"
_CONTINUATION = 0xFFFFFFFF
_RECORD_BATCH, _DICTIONARY = 3, 2  # in format/Message.fbs of apache/arrow


def read_arrow(body: bytes, maximum_rows: int, maximum_bytes: int, schema: RowSchema) -> Sent:
    """The rows of an Arrow body, its buffers checked, so that nothing below can be led astray by a made-up offset.

    Args:
        maximum_bytes: of all texts, once each row has its own.

    Raises:
        BadRequest: it is not Arrow IPC, is cut off, compressed, has too many rows, or a column that is unknown.
    """
    stream = body[8:] if body[:6] == _MAGIC else body  # a file holds the same stream, after its magic bytes
    _refuse_compressed(stream)
    try:
        with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
            batches, rows = [], 0
            for batch in reader:
                batch.validate(full=True)
                rows += batch.num_rows
                if rows > maximum_rows:
                    detail = f"more than the {maximum_rows:,} rows of one request; send several."
                    raise BadRequest(detail, 413)
                batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        if isinstance(error, BadRequest):
            raise
        raise BadRequest(f"the body is no Arrow IPC stream, or is cut off: {_first_line(error)}.", 400) from None
    if not table.num_rows:
        raise BadRequest("the Arrow stream has no row; send at least one.")
    names = table.column_names
    if len(set(names)) != len(names):
        raise BadRequest("two columns have one name.")
    schema.refuse_unknown(set(names))
    for name in names:
        _refuse_kind(name, table.column(name).type)
    text_bytes = sum(_text_bytes(table.column(name)) for name in names)
    if text_bytes > maximum_bytes:
        detail = (
            f"the texts of these rows are {text_bytes:,} bytes, of {maximum_bytes:,} allowed; send fewer at a time."
        )
        raise BadRequest(detail, 413)
    return Sent(table.num_rows, {name: _series(name, table.column(name)) for name in names})


def write_arrow(columns: dict[str, pl.Series], metadata: dict[str, str]) -> bytes:
    """Answers as an Arrow IPC stream; `metadata` goes into its schema."""
    table = pl.DataFrame(columns).to_arrow().replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _refuse_kind(name: str, sent: pa.DataType) -> None:
    kind = _plain_kind(sent)
    plain = (
        pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string,
        pa.types.is_string_view, pa.types.is_timestamp, pa.types.is_date, pa.types.is_null,
    )  # fmt: skip
    if not any(is_kind(kind) for is_kind in plain):
        raise BadRequest(f"column {name!r} has the Arrow type {sent}, which no input has.")


def _plain_kind(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column's texts, each row's for itself: entries of a dictionary, and views, may all be one long text."""
    kind, is_dictionary = _plain_kind(column.type), pa.types.is_dictionary(column.type)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return 0
    total = 0
    for chunk in column.chunks:
        texts = pl.Series(chunk.dictionary if is_dictionary else chunk)
        sizes = texts.str.len_bytes().cast(pl.UInt64)
        total += int((sizes.gather(pl.Series(chunk.indices)) if is_dictionary else sizes).sum())
    return total


def _series(name: str, column: pa.ChunkedArray) -> pl.Series:
    kind = _plain_kind(column.type)
    try:
        if column.type != kind:
            column = column.cast(kind)
        if pa.types.is_date64(kind):
            column = column.cast(pa.date32())
        if pa.types.is_timestamp(kind):
            if kind.tz is None:
                raise BadRequest(f"row 0: column {name!r} has instants without a time zone.")
            column = column.cast(pa.timestamp("us", "UTC"))
        series = pl.from_arrow(column)
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise BadRequest(f"column {name!r} cannot be read as {kind}: {_first_line(error)}.") from None
    assert isinstance(series, pl.Series)
    return series.alias(name)


def _refuse_compressed(stream: bytes) -> None:
    """A few bytes may stand for gigabytes once unpacked: message by message, before any is.

    The metadata of a message is a flatbuffer: a record batch's table has its compression in the fourth field.
    """
    place = 0
    try:
        while place + 8 <= len(stream):
            mark, length = struct.unpack_from("<Ii", stream, place)
            if mark != _CONTINUATION:
                raise BadRequest("the body is no Arrow IPC stream (as written since Arrow 0.15).", 400)
            if length == 0:
                return
            start = place + 8
            if length < 0 or start + length > len(stream):
                return  # cut off: the reader says so
            message = _Table(stream, start + struct.unpack_from("<I", stream, start)[0])
            kind = message.scalar(1, "<B")
            if kind in (_RECORD_BATCH, _DICTIONARY):
                header = message.table(2)
                if kind == _DICTIONARY and header is not None:
                    header = header.table(1)
                if header is not None and header.has(3):
                    raise BadRequest("the Arrow buffers are compressed; write them without compression.", 415)
            body_length = message.scalar(3, "<q")
            if body_length < 0:
                return
            place = start + length + body_length
    except struct.error:
        return  # no flatbuffer: the reader says so


class _Table:
    """A flatbuffer's table: its fields by number. Source: flatbuffers.dev, internals."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - int(struct.unpack_from("<i", data, place)[0])
        if self._fields < 0:
            raise struct.error("outside of the buffer")
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def has(self, field: int) -> bool:
        return self._offset(field) != 0

    def scalar(self, field: int, kind: str) -> int:
        offset = self._offset(field)
        return int(struct.unpack_from(kind, self._data, self._place + offset)[0]) if offset else 0

    def table(self, field: int) -> "_Table | None":
        offset = self._offset(field)
        if not offset:
            return None
        place = self._place + offset
        return _Table(self._data, place + int(struct.unpack_from("<I", self._data, place)[0]))

    def _offset(self, field: int) -> int:
        place = 4 + 2 * field
        return int(struct.unpack_from("<H", self._data, self._fields + place)[0]) if place + 2 <= self._size else 0


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")[:200]
