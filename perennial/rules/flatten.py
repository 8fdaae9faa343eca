"""Nested JSON flattened as a source declares it: a column per path. Pure."""

from collections.abc import Iterator
from typing import Any

import orjson
import polars as pl

from perennial.spec.flatten import Json
from perennial.spec.sources import Source


def flatten(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the columns that the source makes of nested ones, as far as they are not there already."""
    wanted = {name: json for name, json in source.flatten.items() if name not in rows.columns}
    made = []
    for column in dict.fromkeys(json.column for json in wanted.values()):
        documents = [_parse(text) for text in rows[column]]
        for name, json in wanted.items():
            if json.column == column:
                made.append(pl.Series(name, [_value(json, document) for document in documents], json.type))
    return rows.with_columns(made) if made else rows


def _parse(text: Any) -> Any:
    if not isinstance(text, str):
        return text.to_list() if isinstance(text, pl.Series) else text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _value(json: Json, document: Any) -> Any:
    if document is None:
        return None
    found = [value for value in _walk(document, json.path.split(".")) if _is(value, json.dtype)]
    typed = [json.dtype(value) for value in found]
    match json.aggregate:
        case None | "first":
            return typed[0] if typed else None
        case "count":
            return len(typed)
        case "distinct":
            return len(set(typed))
        case "sum":
            total = sum(typed, json.dtype(0))
            return total if json.dtype is float or _fits(total) else None
        case _ if not typed:
            return None
        case "last":
            return typed[-1]
        case "min":
            return min(typed)
        case "max":
            return max(typed)
    return sum(typed) / len(typed)


def _walk(value: Any, path: list[str]) -> Iterator[Any]:
    """The values that a path leads to, in their order."""
    if not path:
        yield value
        return
    name, rest = path[0], path[1:]
    inner = value.get(name.removesuffix("[]")) if isinstance(value, dict) else None
    if not name.endswith("[]"):
        yield from _walk(inner, rest) if inner is not None else ()
    elif isinstance(inner, list):
        for item in inner:
            yield from _walk(item, rest)


def _fits(number: float) -> bool:
    """Whether a whole number is one of 64 bits."""
    return -(2**63) <= number < 2**63


def _is(value: Any, dtype: type) -> bool:
    if dtype is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if dtype is int:
        return (isinstance(value, int) or (isinstance(value, float) and value.is_integer())) and _fits(value)
    return isinstance(value, int | float) if dtype is float else isinstance(value, str)
