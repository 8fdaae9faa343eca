"""Iceberg tables: made with our properties, read at a snapshot, written as files that no table refers to yet."""

import itertools
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import FileScanTask, Table
from sqlalchemy.exc import IntegrityError

from perennial.lakehouse.lake import Lake

Identifier = tuple[str, str]

PROPERTIES = {
    "format-version": "2",
    "commit.retry.num-retries": "0",  # the committer looks before it tries again; pyiceberg's own retry does not
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.manifest-merge.enabled": "true",  # else every commit reads and writes the list of all manifests before it
    "commit.manifest.min-count-to-merge": "20",
    "commit.manifest.target-size-bytes": "65536",  # of some 500 files: a merge reads and writes all that it merges
    "write.parquet.compression-codec": "zstd",
}


class SchemaChanged(ValueError):
    """A table exists with a column of another type than the one that is to be written."""


class SnapshotExpired(LookupError):
    """A snapshot was to be read that the table does not know any more."""


def dotted(identifier: Identifier) -> str:
    """The identifier as people write it."""
    return ".".join(identifier)


def ensure_table(
    lake: Lake, identifier: Identifier, schema: pa.Schema, properties: dict[str, str] | None = None
) -> Table:
    """The table, made if it is not there; columns it lacks are added, as nullable ones.

    Raises:
        SchemaChanged: a column exists with another type. Nothing was changed.
    """
    catalog = lake.catalog()
    try:
        table = catalog.load_table(identifier)
    except NoSuchTableError:
        try:
            catalog.create_namespace_if_not_exists(identifier[0])
        except IntegrityError:
            pass  # another run made it meanwhile: pyiceberg asks first and then inserts
        try:
            return catalog.create_table(identifier, schema=schema, properties={**PROPERTIES, **(properties or {})})
        except TableAlreadyExistsError:  # another run made it meanwhile
            table = catalog.load_table(identifier)
    have = table.schema().as_arrow()
    changed = [
        f"{field.name}: {have.field(field.name).type} in the table, {field.type} now"
        for field in schema
        if field.name in have.names and not _same_type(have.field(field.name).type, field.type)
    ]
    if changed:
        raise SchemaChanged(
            f"{dotted(identifier)} cannot be written: {'; '.join(changed)}. Nothing was changed. Give the column a new "
            "name in the pipeline's file, or write to another environment (PERENNIAL_ENVIRONMENT)."
        )
    if any(field.name not in have.names for field in schema):
        with table.update_schema() as update:
            update.union_by_name(schema)
        table = catalog.load_table(identifier)
    return table


def _same_type(a: pa.DataType, b: pa.DataType) -> bool:
    """Whether two Arrow types are one Iceberg type: strings and lists may be large, instants carry any UTC name."""
    simple = {"large_string": "string", "large_binary": "binary"}
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b):
        return (a.tz is None) == (b.tz is None)
    if _is_list(a) and _is_list(b):
        return _same_type(a.value_type, b.value_type)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return a.names == b.names and all(_same_type(a.field(name).type, b.field(name).type) for name in a.names)
    return simple.get(str(a), str(a)) == simple.get(str(b), str(b))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def write_files(table: Table, rows: pa.Table, batch: str, part: int = 0) -> list[DataFile]:
    """Write rows as data files that no table refers to yet; their names carry the batch and the part of it."""
    rows = conform(rows, table)
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{batch}/{part}/{uuid.uuid4()}")  # an attempt never overwrites another's
    return list(
        _dataframe_to_data_files(
            table_metadata=table.metadata, df=rows, io=table.io, write_uuid=name, counter=itertools.count(part * 1000)
        )
    )


def conform(rows: pa.Table, table: Table) -> pa.Table:
    """The rows with exactly the table's columns, in its order and types; columns the rows lack become null."""
    target = table.schema().as_arrow()
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in target
    ]
    return pa.Table.from_arrays(columns, schema=target)


def current_snapshot_id(lake: Lake, identifier: Identifier) -> int | None:
    """The table's current snapshot; None where there is no table or it has never been written."""
    try:
        snapshot = lake.catalog().load_table(identifier).current_snapshot()
    except NoSuchTableError:
        return None
    return snapshot.snapshot_id if snapshot else None


def read_snapshot(
    lake: Lake,
    identifier: Identifier,
    snapshot_id: int | None = None,
    columns: Sequence[str] | None = None,
    row_filter: str | BooleanExpression | None = None,
) -> pa.Table:
    """The rows of a table at a snapshot (None: the current one); instants come back as UTC microseconds.

    Raises:
        NoSuchTableError: nothing was ever written under this name.
    """
    table = load_at(lake, identifier, snapshot_id)
    scan = table.scan(
        row_filter=row_filter if row_filter is not None else AlwaysTrue(),
        selected_fields=tuple(columns) if columns else ("*",),
        snapshot_id=snapshot_id,
    )
    return scan.to_arrow()


def load_at(lake: Lake, identifier: Identifier, snapshot_id: int | None) -> Table:
    """The table with metadata that knows a snapshot: where it has just expired, an earlier version of the metadata.

    Raises:
        SnapshotExpired: it has been expired for more commits than versions of the metadata are kept.
    """
    table = lake.catalog().load_table(identifier)
    if snapshot_id is None or table.snapshot_by_id(snapshot_id):
        return table
    for entry in reversed(table.metadata.metadata_log):
        metadata = FromInputFile.table_metadata(table.io.new_input(entry.metadata_file))
        if metadata.snapshot_by_id(snapshot_id):
            table.metadata = metadata
            return table
    raise SnapshotExpired(
        f"snapshot {snapshot_id} of {dotted(identifier)} has expired: {len(table.metadata.metadata_log)} commits and more "
        "have followed it. Run the flow again; tag a snapshot that is needed for long."
    )


def plan_files(
    lake: Lake, identifier: Identifier, snapshot_id: int, row_filter: str | BooleanExpression | None = None
) -> list[FileScanTask]:
    """The data files a reader of this snapshot has to open."""
    table = lake.catalog().load_table(identifier)
    return list(
        table.scan(
            row_filter=row_filter if row_filter is not None else AlwaysTrue(), snapshot_id=snapshot_id
        ).plan_files()
    )


def snapshot_summary(table: Table, snapshot_id: int) -> dict[str, Any]:
    """What the commit of a snapshot said of itself."""
    snapshot = table.snapshot_by_id(snapshot_id)
    return dict(snapshot.summary.additional_properties) if snapshot and snapshot.summary else {}
