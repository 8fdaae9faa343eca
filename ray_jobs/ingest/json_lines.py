"""JSON objects, one a line or one a message, as rows of text: what a field holds, whatever type JSON gave it."""

import io
from collections.abc import Sequence

import orjson
import polars as pl

MAXIMUM_FIELDS = 1_000  # that the contract does not name: a map with a million keys is no table


def read_objects(values: Sequence[bytes | None], declared: Sequence[str], reasons: dict[int, str]) -> pl.DataFrame:
    """Every field as text, null where it is null or missing, nested ones as JSON: the declared ones and all others.

    orjson judges each value, because Polars takes `\\ud800` for a letter, skips empty lines and reads two objects in a
    line as two: then no row would stand where it was. It also tells the fields' names. Polars reads the fields, all
    objects at once.

    Args:
        values: those whose number is in `reasons` are left out already.
        reasons: gets the numbers of those that are no object, and why.
    """
    names: set[str] = set()
    lines = []
    for number, value in enumerate(values):
        if number in reasons:
            continue
        try:
            found = orjson.loads(value or b"")
        except orjson.JSONDecodeError:
            reasons[number] = "json:syntax"
            continue
        if type(found) is not dict:
            reasons[number] = "json:object"
            continue
        names.update(found)
        assert value is not None  # then it would be none of JSON
        nested = {name: inner for name, inner in found.items() if type(inner) in (dict, list)}
        if nested:  # Polars writes the texts inside of them without their escapes
            value = orjson.dumps(found | {name: orjson.dumps(inner).decode() for name, inner in nested.items()})
        # inside of JSON a line break is only ever white space
        lines.append(value.replace(b"\n", b" ") if b"\n" in value else value)
    schema = dict.fromkeys([*declared, *sorted(names - {*declared})[:MAXIMUM_FIELDS]], pl.String)
    if not lines:
        return pl.DataFrame(schema=schema)
    rows = pl.read_ndjson(io.BytesIO(b"\n".join(lines)), schema=schema)
    if len(rows) != len(lines):
        raise RuntimeError(f"{len(lines)} JSON objects were read as {len(rows)} rows. Nothing was published.")
    return rows
