"""Data files written again: small ones together, and without the rows whose time is over."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime

import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, GreaterThanOrEqual, IsNull, Or
from pyiceberg.io.pyarrow import ArrowScan, ParquetFormatModel, schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import FileScanTask, Table
from pyiceberg.types import TimestamptzType

from perennial.rules.upkeep import SizedFile, pack

TARGET_BYTES = 64 << 20  # of a data file on S3
ROW_GROUP_BYTES = 64 << 20  # of rows in memory


class RowsDiffer(RuntimeError):
    """Files that were written again have another number of rows than those they were to replace. Nothing was changed."""


def plan_compaction(table: Table, target_bytes: int) -> list[list[DataFile]]:
    """Groups of live files to be written together, each about one file's worth; none when there is nothing to do."""
    spec = table.spec().spec_id
    tasks = [task for task in table.scan().plan_files() if task.file.spec_id == spec and not task.delete_files]
    by_path = {task.file.file_path: task.file for task in tasks}
    sized = [SizedFile(f.file_path, f.file_size_in_bytes, repr(f.partition)) for f in by_path.values()]
    return [[by_path[path] for path in group] for group in pack(sized, target_bytes)]


def plan_retention(table: Table, column: str, cutoff: datetime) -> tuple[list[DataFile], list[list[DataFile]]]:
    """Files of which every row is older than the cutoff, and groups of one file each that hold older and newer rows."""
    field = table.schema().find_field(column)
    whole, mixed = [], []
    for task in table.scan(row_filter=f"{column} < '{cutoff.isoformat()}'").plan_files():
        file = task.file
        newest = (file.upper_bounds or {}).get(field.field_id)
        empty = (file.null_value_counts or {}).get(field.field_id, 1)
        if newest is not None and not empty and int(from_bytes(TimestamptzType(), newest)) < _microseconds(cutoff):
            whole.append(file)
        else:
            mixed.append([file])
    return whole, mixed


def not_older(column: str, cutoff: datetime) -> BooleanExpression:
    """The rows that stay: of the cutoff and later, and those that tell no time."""
    return Or(GreaterThanOrEqual(column, cutoff.isoformat()), IsNull(column))


def rewrite(table: Table, files: Sequence[DataFile], keep: BooleanExpression | None = None) -> list[DataFile]:
    """Write the rows of the files to one new file that no table refers to; none where no row is kept.

    Memory is bounded by one of the files and a row group: they are read one after the other.

    Raises:
        RowsDiffer: rows got lost or doubled on the way.
    """
    path = table.location_provider().new_data_location(f"{uuid.uuid4()}-rewritten.parquet")
    output = table.io.new_output(path)
    writer = ParquetFormatModel().create_writer(output, table.schema(), table.properties)
    rows = 0
    for part in _row_groups(table, files, keep or AlwaysTrue()):
        writer.write(part)
        rows += len(part)
    expected = sum(file.record_count for file in files)
    if keep is None and rows != expected:
        raise RowsDiffer(f"{expected} rows of {len(files)} files of {'.'.join(table.name())} became {rows}.")
    if not rows:
        return []
    statistics = writer.close()
    written = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=files[0].partition,
        file_size_in_bytes=len(output),
        sort_order_id=None,
        spec_id=files[0].spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
    return [written]


def _row_groups(table: Table, files: Sequence[DataFile], keep: BooleanExpression) -> Iterator[pa.Table]:
    schema = schema_to_pyarrow(table.schema())  # with the columns' ids, which Iceberg reads Parquet by
    scan = ArrowScan(table.metadata, table.io, table.schema(), keep)
    waiting: list[pa.Table] = []
    for file in files:
        for batch in scan.to_record_batches([FileScanTask(file)]):
            waiting.append(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            if sum(part.nbytes for part in waiting) >= ROW_GROUP_BYTES:
                yield pa.concat_tables(waiting)
                waiting = []
    if any(len(part) for part in waiting):
        yield pa.concat_tables(waiting)


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
