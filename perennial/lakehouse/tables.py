"""Iceberg tables: made with our properties, read at a snapshot, written as files that no table refers to yet."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import FileScanTask, Table
from sqlalchemy.exc import IntegrityError

from perennial.lakehouse.data_files import DataFiles
from perennial.lakehouse.evolution import Declared, evolve_table
from perennial.lakehouse.lake import Lake

Identifier = tuple[str, str]

PROPERTIES = {
    "format-version": "2",
    "commit.retry.num-retries": "0",  # the committer looks before it tries again; pyiceberg's own retry does not
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


class SnapshotExpired(LookupError):
    """A snapshot was to be read that the table does not know any more."""


def dotted(identifier: Identifier) -> str:
    """The identifier as people write it."""
    return ".".join(identifier)


def ensure_table(
    lake: Lake,
    identifier: Identifier,
    schema: pa.Schema,
    properties: dict[str, str] | None = None,
    declared: Declared = Declared(),  # noqa: B008 - a constant
) -> Table:
    """The table, made if it is not there, with these columns: changed in place as far as is declared.

    Raises:
        SchemaRefused: its columns differ in a way that is not declared. Nothing was changed.
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
    return evolve_table(lake, table, schema, declared)


def write_files(table: Table, rows: pa.Table, batch: str, part: int = 0) -> list[DataFile]:
    """Write rows as data files that no table refers to yet; their names carry the batch and the part of it."""
    files = DataFiles(table, batch, part)
    files.add(rows)
    return files.close()


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
    """The rows of a table at a snapshot (None: the current one), under the names and types of then.

    Instants come back as UTC microseconds.

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


def read_columns(
    lake: Lake,
    identifier: Identifier,
    columns: pa.Schema,
    snapshot_id: int | None = None,
    row_filter: str | BooleanExpression | None = None,
    limit: int | None = None,
) -> pa.Table:
    """The rows of a table at a snapshot under today's names: columns that came later, or not yet, are null.

    A scan of a snapshot otherwise sees the columns of then, so that a column that was added or renamed since is not found.
    """
    table = load_at(lake, identifier, snapshot_id)
    scan = table.scan(
        row_filter=row_filter if row_filter is not None else AlwaysTrue(), snapshot_id=snapshot_id, limit=limit
    )
    there = table.schema().select(*(name for name in columns.names if name in table.schema().column_names))
    rows = ArrowScan(table.metadata, table.io, there, scan.row_filter, limit=limit).to_table(scan.plan_files())
    full = [rows.column(f.name) if f.name in rows.column_names else pa.nulls(len(rows), f.type) for f in columns]
    return pa.table(full, names=columns.names)


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
