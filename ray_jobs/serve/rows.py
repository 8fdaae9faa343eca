"""From a request's body to rows with the contract's types, or to a refusal that names the row and the column."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from ray_jobs.serve.values import ABSENT, BadRequest, Column, read_column, say

REQUEST_ID_LENGTH = 128


@dataclass(frozen=True)
class RowSchema:
    """What a request's rows look like.

    Args:
        columns: of the entity, by name.
        required: those that must be sent: key, times, and what joins and features read.
        joined: per source that is joined, the columns that may be sent instead of the replica's own table: all or none.
    """

    columns: Mapping[str, Column]
    required: frozenset[str]
    joined: Mapping[str, Mapping[str, Column]]

    def describe(self) -> dict[str, Any]:
        """For the model's page: every column, its type, and whether it has to be sent."""
        return {
            "columns": {
                name: {"type": say_type(column.dtype), "required": name in self.required, "nullable": column.nullable}
                for name, column in self.columns.items()
            },
            "joined": {
                source: {name: {"type": say_type(column.dtype), "nullable": True} for name, column in columns.items()}
                for source, columns in self.joined.items()
            },
        }


@dataclass(frozen=True)
class Question:
    """A request that can be answered. `brought`: the sources whose joined columns came with the rows."""

    request_id: str | None
    rows: pl.DataFrame
    brought: frozenset[str]


def read_question(body: bytes, schema: RowSchema, maximum_rows: int) -> Question:
    """Check and type a request's body.

    Raises:
        BadRequest: with the first mistake found; nothing was computed or logged.
    """
    content = _parse(body)
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object: {"rows": [{column: value, ...}, ...]}.')
    if strange := sorted(set(content) - {"rows", "request_id"}):
        raise BadRequest(f"the body has a field {strange[0]!r}; it may have 'rows' and 'request_id'.")
    rows = _check_rows(content.get("rows"), maximum_rows)
    present = set().union(*rows)
    brought = _check_columns(present, schema)
    known = {**schema.columns, **{name: c for columns in schema.joined.values() for name, c in columns.items()}}
    series = [
        read_column(name, [row.get(name, ABSENT) for row in rows], column)
        for name, column in known.items()
        if name in present
    ]
    return Question(check_request_id(content.get("request_id")), pl.DataFrame(series), brought)


def check_request_id(value: object) -> str | None:
    """A caller's own id for the request, from the body or the header."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= REQUEST_ID_LENGTH:
        raise BadRequest(f"request_id must be a string of 1 to {REQUEST_ID_LENGTH} printable characters.")
    return value


def say_type(dtype: pl.DataType) -> str:
    """What a column's values look like in JSON."""
    if dtype == pl.Boolean:
        return "true or false"
    if dtype.is_integer():
        return "whole number"
    if dtype.is_float():
        return "number"
    if isinstance(dtype, pl.Datetime):
        return "instant with time zone (ISO 8601)"
    if dtype == pl.Date:
        return "day (ISO 8601)"
    return "string"


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refusal = BadRequest(f"the body is not JSON: {error}.", status=400)
    # NaN and infinity are no JSON, but Python's parser reads them: then the row and the column can be named.
    if b"NaN" not in body and b"Infinity" not in body:
        raise refusal
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise refusal from None


def _check_rows(rows: object, maximum_rows: int) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not rows:
        raise BadRequest("'rows' must be a list of at least one row, each an object {column: value, ...}.")
    if len(rows) > maximum_rows:
        raise BadRequest(
            f"{len(rows):,} rows are more than the {maximum_rows:,} of one request; send several.", status=413
        )
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadRequest(f"row {index} is {say(row)}; it must be an object {{column: value, ...}}.")
    return rows


def _check_columns(present: set[str], schema: RowSchema) -> frozenset[str]:
    known = set(schema.columns).union(*schema.joined.values())
    if unknown := sorted(present - known):
        raise BadRequest(f"column {unknown[0]!r} is unknown; the columns of a row are {sorted(known)}.")
    if missing := sorted(schema.required - present):
        raise BadRequest(f"row 0: column {missing[0]!r} is missing; a row needs {sorted(schema.required)}.")
    brought = set()
    for source, columns in schema.joined.items():
        sent = present & set(columns)
        if sent and sent != set(columns):
            lacking = sorted(set(columns) - sent)
            raise BadRequest(
                f"row 0: column {lacking[0]!r} is missing: of the join with {source} all of {sorted(columns)} must be "
                "sent, or none, and then the endpoint joins its own table."
            )
        if sent:
            brought.add(source)
    return frozenset(brought)
