"""From a request's body to rows with the contract's types, or to a refusal that names the row and the column."""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
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

    @cached_property
    def known(self) -> Mapping[str, Column]:
        """All columns that may be sent."""
        return {**self.columns, **{n: column for columns in self.joined.values() for n, column in columns.items()}}

    def refuse_unknown(self, present: Set[str]) -> None:
        """Asked before columns are made of what was sent: rows times columns may be a thousand times the body.

        Raises:
            BadRequest: a column is not among those known.
        """
        if unknown := present - self.known.keys():
            raise BadRequest(
                f"row 0: column {say(min(unknown))} is unknown; the columns of a row are {sorted(self.known)}."
            )

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
class Sent:
    """The rows of one request as they came: each column a list of JSON's values, or a typed series."""

    height: int
    columns: Mapping[str, list[Any] | pl.Series]
    request_id: str | None = None


def read_rows(body: bytes, maximum_rows: int, schema: RowSchema) -> Sent:
    """The rows of a JSON body, `{"rows": [{column: value, ...}, ...]}`, their values not yet checked.

    Raises:
        BadRequest: the body is not of this form, or has a column that is unknown.
    """
    content = parse_json(body)
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object: {"rows": [{column: value, ...}, ...]}.')
    if strange := sorted(set(content) - {"rows", "request_id"}):
        raise BadRequest(f"the body has a field {say(strange[0])}; it may have 'rows' and 'request_id'.")
    rows = _check_rows(content.get("rows"), maximum_rows)
    present = set(rows[0]) if len(rows) == 1 else set().union(*rows)
    schema.refuse_unknown(present)
    columns = {name: [row.get(name, ABSENT) for row in rows] for name in present}
    return Sent(len(rows), columns, check_request_id(content.get("request_id")))


class RowReader:
    """What rows may hold, and the way from requests to one typed frame. Safe from any thread."""

    def __init__(self, schema: RowSchema) -> None:
        self.schema = schema
        self._brought: dict[frozenset[str], frozenset[str]] = {}

    def brought(self, present: frozenset[str]) -> frozenset[str]:
        """The sources whose joined columns are among those that were sent.

        Raises:
            BadRequest: a column is unknown, or one is missing.
        """
        found = self._brought.get(present)
        if found is None:
            found = _check_columns(present, self.schema)
            if len(self._brought) < 1_000:
                self._brought[present] = found
        return found

    def frame(self, requests: Sequence[Sent]) -> pl.DataFrame:
        """The rows of requests that have the same columns, one below the other, in the contract's types.

        Raises:
            BadRequest: a value is not of its column's type. Its row is counted over all requests.
        """
        first = requests[0].columns
        return pl.DataFrame(
            [
                read_column(name, _stack(name, column, requests), column)
                for name, column in self.schema.known.items()
                if name in first
            ]
        )


def _stack(name: str, column: Column, requests: Sequence[Sent]) -> list[Any] | pl.Series:
    parts = [request.columns[name] for request in requests]
    if len(parts) == 1:
        return parts[0]
    lists = [part for part in parts if isinstance(part, list)]
    if len(lists) == len(parts):
        return [value for part in lists for value in part]
    return pl.concat([read_column(name, part, column) for part in parts])


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


def parse_json(body: bytes) -> Any:
    """JSON, and NaN and infinity as well, which are none: then the row and the column can be named.

    Raises:
        BadRequest: it is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refusal = BadRequest(f"the body is not JSON: {error}.", status=400)
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


def _check_columns(present: frozenset[str], schema: RowSchema) -> frozenset[str]:
    schema.refuse_unknown(present)
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
