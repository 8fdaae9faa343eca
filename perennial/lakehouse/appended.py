"""What was appended to a table since one looked before: each data file is read once, whatever its rows say of time."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, ManifestContent, ManifestEntry, ManifestEntryStatus
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Operation

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import Identifier


def last_commit(lake: Lake, identifier: Identifier) -> int:
    """The number of the table's last commit, 0 before the first.

    Raises:
        NoSuchTableError: there is no such table.
    """
    return _head(lake.catalog().load_table(identifier))


def read_appended(
    lake: Lake, identifier: Identifier, columns: Sequence[str], after: int
) -> tuple[int, Iterator[pa.Table]]:
    """The number of the table's last commit, and a file at a time the rows that commits later than `after` appended.

    Compaction writes rows again and appends none. A file that it has replaced since it came is not read; one that it
    wrote is, where more than ten commits came since: what a snapshot did is forgotten with it.

    Raises:
        NoSuchTableError: there is no such table.
    """
    table = lake.catalog().load_table(identifier)
    head = _head(table)
    files = _appended(table, after) if head > after else []
    scan = ArrowScan(table.metadata, table.io, table.schema().select(*columns), AlwaysTrue())
    return head, (scan.to_table([FileScanTask(file)]) for file in files)


def _head(table: Table) -> int:
    snapshot = table.current_snapshot()
    return (snapshot.sequence_number or 0) if snapshot else 0


def _appended(table: Table, after: int) -> list[DataFile]:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return [
        entry.data_file
        for manifest in snapshot.manifests(table.io)
        if manifest.content == ManifestContent.DATA and (manifest.sequence_number or 0) > after
        for entry in manifest.fetch_manifest_entry(table.io)
        if entry.status != ManifestEntryStatus.DELETED
        and (entry.sequence_number or 0) > after
        and _was_appended(table, entry)
    ]


def _was_appended(table: Table, entry: ManifestEntry) -> bool:
    by = table.snapshot_by_id(entry.snapshot_id) if entry.snapshot_id is not None else None
    return by is None or by.summary is None or by.summary.operation == Operation.APPEND
