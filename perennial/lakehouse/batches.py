"""What became of every batch: one row each, for people and for the pages of data docs.

The row cannot be committed together with `raw`, so the `raw` commit names the staged result, as it names the staged
quarantine files, and whoever comes next writes the row: once, whatever was killed in between.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import EqualTo
from pyiceberg.table import FileScanTask, Table

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.history import find_batch
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.results import RESULT, BatchResult, read_result
from perennial.lakehouse.tables import Identifier, ensure_table

FINISHED = "perennial.finished."
"""Property of the batches table, by source: the last batch whose row was written."""

BATCHES = pa.schema(
    [
        ("source", pa.string()),
        ("batch_id", pa.string()),
        ("verdict", pa.string()),
        ("reasons", pa.list_(pa.string())),  # why it was refused, and what nobody may overlook
        ("as_of", pa.timestamp("us", "UTC")),
        ("committed_at", pa.timestamp("us", "UTC")),
        ("run_id", pa.string()),
        ("contract_version", pa.string()),
        ("snapshot_id", pa.int64()),  # of the raw table; null when it expired before the row was written
        ("arrived", pa.string()),
        ("parts", pa.int64()),
        ("bytes", pa.int64()),
        ("rows", pa.int64()),
        ("quarantined_rows", pa.int64()),
        ("newest_event_at", pa.timestamp("us", "UTC")),
        (
            "checks",
            pa.list_(pa.struct([("check", pa.string()), ("severity", pa.string()), ("failed_rows", pa.int64())])),
        ),
        (
            "rules",
            pa.list_(
                pa.struct(
                    [("name", pa.string()), ("severity", pa.string()), ("passed", pa.bool_()), ("detail", pa.string())]
                )
            ),
        ),
        ("columns", pa.list_(pa.struct([("column", pa.string()), ("nulls", pa.int64())]))),
    ]
)


class _Moved(Exception):
    """The last finished batch is not the one it was."""


def batches_table(lake: Lake, pipeline: str) -> Identifier:
    """Identifier of a pipeline's table of batches."""
    return lake.table(pipeline, "batches")


def finish_batch(lake: Lake, pipeline: str, source: str) -> None:
    """Write the row of the last batch that a source committed, if nobody has; it is written once, by however many.

    Raises:
        ResultDamaged: the staged result is not the one that the raw table names.
    """
    # This first and then the raw table: a run that was stopped in between then finds the row written, or nobody's.
    finished = last_finished(lake, pipeline, source)
    try:
        raw = lake.catalog().load_table(raw_table(lake, pipeline, source))
    except NoSuchTableError:
        return
    batch_id, *staged = raw.properties.get(RESULT, "").split(" ")
    if not staged or batch_id == finished:
        return
    row = _row(raw, read_result(lake, *staged))
    ensure_table(lake, batches_table(lake, pipeline), BATCHES)
    try:
        append_once(
            lake,
            batches_table(lake, pipeline),
            pa.Table.from_pylist([row], BATCHES),
            f"{source}/{batch_id}",
            properties={FINISHED + source: batch_id},
            expect=_still(source, finished),
        )
    except _Moved:
        pass  # another run has written the row meanwhile


def last_finished(lake: Lake, pipeline: str, source: str) -> str | None:
    """The last batch of a source that has its row; None before the first."""
    try:
        return lake.catalog().load_table(batches_table(lake, pipeline)).properties.get(FINISHED + source)
    except NoSuchTableError:
        return None


def read_batches(lake: Lake, pipeline: str, source: str, last: int = 120) -> pl.DataFrame:
    """The rows of the last batches of a source, from old to new; empty where nothing was ever ingested.

    Reads the newest files only, so that its cost does not grow with history.
    """
    empty = pl.DataFrame(pl.from_arrow(BATCHES.empty_table()))
    try:
        table = lake.catalog().load_table(batches_table(lake, pipeline))
    except NoSuchTableError:
        return empty
    tasks = table.scan(EqualTo(term="source", value=source)).plan_files()
    pending, rows = sorted(tasks, key=lambda task: _upper(table, task), reverse=True), empty
    while pending:
        files = [pending.pop(0)]
        while pending and sum(task.file.record_count for task in files) < last - len(rows):
            files.append(pending.pop(0))
        paths = [task.file.file_path.removeprefix("s3://") for task in files]
        # pyarrow reads a hundred small files in a tenth of the time that pyiceberg takes
        found = ds.dataset(paths, schema=table.schema().as_arrow(), format="parquet", filesystem=lake.arrow_files())
        arrow = found.to_table(columns=empty.columns, filter=ds.field("source") == source)
        rows = pl.concat([rows, pl.DataFrame(pl.from_arrow(arrow))]).sort("committed_at", "snapshot_id").tail(last)
        if len(rows) == last:  # a file may have rows of other sources, or old ones beside new ones
            pending = [task for task in pending if _upper(table, task) > rows["committed_at"][0]]
    return rows


def _upper(table: Table, task: FileScanTask) -> datetime:
    """The newest commit time in a file."""
    field = table.schema().find_field("committed_at")
    microseconds = from_bytes(field.field_type, task.file.upper_bounds[field.field_id])  # type: ignore[arg-type]  # a primitive type
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(microseconds))


def _still(source: str, finished: str | None) -> Callable[[Table], None]:
    def check(table: Table) -> None:
        if table.properties.get(FINISHED + source) != finished:
            raise _Moved

    return check


def _row(raw: Table, result: BatchResult) -> dict[str, object]:
    snapshot_id = find_batch(raw, result.batch_id)
    snapshot = raw.snapshot_by_id(snapshot_id) if snapshot_id else None
    milliseconds = snapshot.timestamp_ms if snapshot else raw.metadata.last_updated_ms
    return result.model_dump() | {
        "snapshot_id": snapshot_id,
        "committed_at": datetime.fromtimestamp(milliseconds / 1000, UTC),
    }
