"""Data files written again: small ones together, and without the rows whose time is over."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, GreaterThanOrEqual, IsNull, Or
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.types import TimestamptzType

from perennial.lakehouse.data_files import DataFiles
from perennial.rules.upkeep import SizedFile, pack


class RowsDiffer(RuntimeError):
    """Files that were written again have another number of rows than those they were to replace. Nothing was changed."""


def plan_compaction(table: Table, target_bytes: int) -> list[list[DataFile]]:
    """Groups of live files to be written together, each about one file's worth; none when there is nothing to do."""
    files = [task.file for task in table.scan().plan_files() if not task.delete_files]
    by_path = {file.file_path: file for file in files}
    sized = [SizedFile(f.file_path, f.file_size_in_bytes, f"{f.spec_id} {f.partition}") for f in files]
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
    """Write the rows of the files to new ones that no table refers to, one per partition of today; none where no row is kept.

    Memory is bounded by one of the files and `DataFiles`: they are read one after the other.

    Raises:
        RowsDiffer: rows got lost or doubled on the way.
    """
    written = DataFiles(table, "rewritten", target_bytes=sys.maxsize)  # the files were chosen to fill one
    for part in _batches(table, files, keep or AlwaysTrue()):
        written.add(part)
    new = written.close()
    rows, expected = (sum(file.record_count for file in some) for some in (new, files))
    if keep is None and rows != expected:
        raise RowsDiffer(f"{expected} rows of {len(files)} files of {'.'.join(table.name())} became {rows}.")
    return new


def _batches(table: Table, files: Sequence[DataFile], keep: BooleanExpression) -> Iterator[pa.Table]:
    scan = ArrowScan(table.metadata, table.io, table.schema(), keep)
    for file in files:
        for batch in scan.to_record_batches([FileScanTask(file)]):
            yield pa.Table.from_batches([batch])


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
