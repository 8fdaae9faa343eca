"""Messages as rows: JSON, Avro or raw, each with its place; those that are none are kept beside them with the reason."""

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

import polars as pl

from perennial.spec.kafka import Kafka
from perennial.spec.load import contract_columns
from ray_jobs.ingest.json_lines import read_objects
from ray_jobs.ingest.typed import avro_schema, avro_table, finish_typed

Read = TypeVar("Read")
_NO_VALUE = "kafka:no_value"  # the marker that deletes a key in a compacted topic
_REGISTRY = struct.Struct(">bI")  # a zero byte and the schema's id, before each record


class NotARow(ValueError):
    """Why a message is no row: the name of a check, such as `json:syntax`."""


@dataclass
class Messages:
    """Messages that wait to become a block. What the contract does not ask for is not fetched from them."""

    wanted: frozenset[str]
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    bytes: int = 0

    @staticmethod
    def of(source: Kafka) -> "Messages":
        """No messages yet."""
        wanted = frozenset(_EXTRA) & frozenset(contract_columns(source))
        return Messages(wanted, extra={name: [] for name in wanted})

    def add(self, messages: list[Any]) -> None:
        """Take messages as the client gives them."""
        values = [message.value() for message in messages]
        self.values += values
        self.bytes += sum(len(value) for value in values if value)
        self.partitions += [message.partition() for message in messages]
        self.offsets += [message.offset() for message in messages]
        for name in self.wanted:
            self.extra[name] += [_EXTRA[name](message) for message in messages]


def decode(source: Kafka, messages: Messages) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A block of (rows, messages that are none).

    Rows have the messages' fields and the contract's columns, `_position` (`topic[partition]@offset`) and what the
    contract names of `kafka_key`, `kafka_headers` and `kafka_timestamp`. The others have `message`, or `message_base64`
    where it is not text, `_position` and `_failed_checks`.
    """
    reasons: dict[int, str] = {}
    rows = _FORMATS[source.format](source, messages.values, reasons)
    frame = pl.DataFrame(
        {"partition": messages.partitions, "offset": messages.offsets, **messages.extra}, schema_overrides=_EXTRA_TYPES
    )
    place = pl.format("{}[{}]@{}", pl.lit(source.topic), "partition", "offset")
    places = frame.select(*sorted(messages.wanted), _position=place)
    good = pl.Series(range(len(messages.values)), dtype=pl.UInt32)
    if reasons:
        good = good.filter(~good.is_in(sorted(reasons)))
    arrived = rows.drop(places.columns, strict=False).hstack(places[good])
    return arrived, _unreadable(messages.values, reasons, places["_position"])


def _json_rows(source: Kafka, values: list[bytes | None], reasons: dict[int, str]) -> pl.DataFrame:
    """Every field as text, null where it is null or missing."""
    reasons.update((number, _NO_VALUE) for number, value in enumerate(values) if value is None)
    return read_objects(values, list(contract_columns(source)), reasons)


def _avro_rows(source: Kafka, values: list[bytes | None], reasons: dict[int, str]) -> pl.DataFrame:
    """Fields with the types of their schema, as those of Avro files have."""
    schemas = _parsed_schemas(json.dumps({str(number): schema for number, schema in source.avro_schemas.items()}))
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for number, (schema, record) in _judged(values, reasons, partial(_avro_record, schemas)):
        found.setdefault(schema, {})[number] = record
    if not found:
        return pl.DataFrame(schema=contract_columns(source))
    tables = [
        pl.DataFrame(avro_table([*records.values()], avro_schema(schemas[schema]))).with_columns(
            _number=pl.Series([*records], dtype=pl.UInt32)
        )
        for schema, records in found.items()
    ]
    rows, _ = finish_typed(pl.concat(tables, how="diagonal_relaxed").sort("_number").drop("_number"), marked=False)
    return rows


def _raw_rows(source: Kafka, values: list[bytes | None], reasons: dict[int, str]) -> pl.DataFrame:
    """The whole message as `value`, or as `value_base64` where the contract names that."""
    if "value_base64" in contract_columns(source):
        kept = [value for _, value in _judged(values, reasons, bytes)]
        return pl.DataFrame({"value_base64": pl.Series(kept, dtype=pl.Binary).bin.encode("base64")})
    return pl.DataFrame({"value": pl.Series([text for _, text in _judged(values, reasons, _text)], dtype=pl.String)})


_FORMATS = {"json": _json_rows, "avro": _avro_rows, "raw": _raw_rows}


def _judged(
    values: list[bytes | None], reasons: dict[int, str], read: Callable[[bytes], Read]
) -> Iterator[tuple[int, Read]]:
    """Yield the number and the content of each message that can be read; note the others' reasons by their number."""
    for number, value in enumerate(values):
        try:
            if value is None:
                raise NotARow(_NO_VALUE)
            yield number, read(value)
        except NotARow as reason:
            reasons[number] = str(reason)


def _avro_record(schemas: dict[str, Any], value: bytes) -> tuple[str, dict[str, Any]]:
    """The name of its schema, and the record."""
    import fastavro

    stream, schema = io.BytesIO(value), "None"
    if schema not in schemas:
        head = stream.read(_REGISTRY.size)
        if len(head) < _REGISTRY.size or head[0]:
            raise NotARow("avro:schema_id")
        schema = str(_REGISTRY.unpack(head)[1])
        if schema not in schemas:
            raise NotARow("avro:schema_unknown")
    try:
        record = fastavro.schemaless_reader(stream, schemas[schema], None)
    except Exception as error:  # fastavro raises whatever it stumbles over: EOFError, IndexError, UnicodeDecodeError
        raise NotARow("avro:record") from error
    if stream.tell() != len(value) or not isinstance(record, dict):
        raise NotARow("avro:record")
    return schema, record


@cache
def _parsed_schemas(schemas: str) -> dict[str, Any]:
    import fastavro

    return {number: fastavro.parse_schema(json.loads(schema)) for number, schema in json.loads(schemas).items()}


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise NotARow("raw:utf8") from error


def _unreadable(values: list[bytes | None], reasons: dict[int, str], positions: pl.Series) -> pl.DataFrame:
    rows = [
        {**_kept(values[number]), "_position": positions[number], "_failed_checks": [reason]}
        for number, reason in sorted(reasons.items())
    ]
    kept = {"message": pl.String, "message_base64": pl.String}
    return pl.DataFrame(rows, {**kept, "_position": pl.String, "_failed_checks": pl.List(pl.String)})


def _kept(value: bytes | None) -> dict[str, str | None]:
    try:
        return {"message": value if value is None else value.decode(), "message_base64": None}
    except UnicodeDecodeError:
        return {"message": None, "message_base64": base64.b64encode(value or b"").decode()}


def _key(message: Any) -> str | None:
    key: bytes | None = message.key()
    return key if key is None else key.decode(errors="replace")


def _headers(message: Any) -> str | None:
    headers = message.headers()
    return headers and json.dumps([[name, value and value.decode(errors="replace")] for name, value in headers])


def _timestamp(message: Any) -> int | None:
    kind, milliseconds = message.timestamp()
    return milliseconds * 1000 if kind else None


_EXTRA: dict[str, Callable[[Any], Any]] = {
    "kafka_key": _key,
    "kafka_headers": _headers,
    "kafka_timestamp": _timestamp,
}
_EXTRA_TYPES: dict[str, type[pl.DataType] | pl.DataType] = {
    "partition": pl.Int32,
    "offset": pl.Int64,
    "kafka_key": pl.String,
    "kafka_headers": pl.String,
    "kafka_timestamp": pl.Datetime("us", "UTC"),
}
