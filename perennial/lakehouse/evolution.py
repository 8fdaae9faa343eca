"""A table's columns, brought to what is declared, in place: field ids stay, so what was written before stays readable."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ServerError
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import IcebergType, ListType, MapType, StructType
from sqlalchemy.exc import DBAPIError

from perennial.lakehouse.lake import Lake
from perennial.rules.schema import PSEUDONYM, Difference, SchemaRefused, compare_with_table, explain
from perennial.spec.sources import SchemaPolicy

TRIES = 10


@dataclass(frozen=True)
class Declared:
    """What the owner of a table declares of changes to its columns.

    Args:
        renamed: former names to today's; None: nobody declares any, as for tables that are made from others.
        columns: what the columns are called in a refusal: `contract Order`; `where`: the place to change it.
    """

    policy: SchemaPolicy = "additive"
    renamed: Mapping[str, str | None] | None = None
    columns: str = "now"
    where: str = field(default="the pipeline's file, or write to another environment (PERENNIAL_ENVIRONMENT)")


def evolve_table(lake: Lake, table: Table, wanted: pa.Schema, declared: Declared) -> Table:
    """The table with the wanted columns. Two runs that evolve it at once both end here: the slower one looks again.

    Raises:
        SchemaRefused: the policy does not accept a difference; the message shows all of them. Nothing was changed.
    """
    schema = Catalog._convert_schema_if_needed(wanted)
    for attempt in range(TRIES):
        differences = _differences(table, schema, declared)
        if all(difference.kind == "gone" for difference in differences):  # such a column stays, null from now on
            return table
        try:
            _apply(table, schema, differences)
        except (CommitFailedException, CommitStateUnknownException, ServerError, OSError, DBAPIError):
            # another writer was faster, or the answer was lost: the next look tells
            if attempt == TRIES - 1:
                raise
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311 - full jitter
        table = lake.catalog().load_table(table.name())
    raise AssertionError("the loop returns or raises")


def check_columns(table: Table, wanted: pa.Schema) -> None:
    """Whether rows with these columns could be appended, without changing anything.

    Raises:
        SchemaRefused: they could not.
    """
    _differences(table, Catalog._convert_schema_if_needed(wanted), Declared())


def _differences(table: Table, schema: Schema, declared: Declared) -> list[Difference]:
    differences = compare_with_table(_types(table.schema()), _types(schema), declared.policy, declared.renamed)
    name = ".".join(table.name())
    policy = "" if declared.renamed is None else f", schema_policy={declared.policy!r}"
    title = f"{name} cannot take these columns{policy}"
    refusal = explain(title, name, declared.columns, differences, declared.where)
    if refusal:
        raise SchemaRefused(refusal)
    return differences


def _types(schema: Schema) -> dict[str, str]:
    # A pseudonym says so in the column's doc, with its key's fingerprint: a change of either is a change of type.
    return {
        field.name: field.doc if field.doc and field.doc.startswith(PSEUDONYM) else _say(field.field_type)
        for field in schema.fields
    }


def _say(kind: IcebergType) -> str:
    """A type by name, without the ids of its fields: a schema that is wanted has none yet."""
    match kind:
        case ListType():
            return f"list<{_say(kind.element_type)}>"
        case StructType():
            return f"struct<{', '.join(f'{field.name}: {_say(field.field_type)}' for field in kind.fields)}>"
        case MapType():
            return f"map<{_say(kind.key_type)}, {_say(kind.value_type)}>"
    return str(kind)


def _apply(table: Table, schema: Schema, differences: list[Difference]) -> None:
    # Not union_by_name: it widens whatever pyiceberg's promote() lets through, which is more than Iceberg allows
    # (string to binary, decimals of another scale), and knows no names of before.
    fields = {field.name: field for field in schema.fields}  # not find_field: all of them have the id -1 still
    with table.update_schema() as update:
        for difference in differences:
            if difference.kind == "gone":
                continue
            wanted = fields[difference.column]
            if difference.kind == "new":
                update.add_column(wanted.name, wanted.field_type, doc=wanted.doc)
                continue
            name = difference.former or wanted.name
            if difference.kind == "widened":
                update.update_column(name, field_type=wanted.field_type)
            if difference.former:
                update.rename_column(name, wanted.name)
