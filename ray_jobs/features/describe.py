"""What a pipeline's feature page shows of a snapshot: null shares from the files' own counts, spreads from some of them."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel
from pyiceberg.expressions import LessThanOrEqual
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from perennial.datadocs.features import FeatureFigures, Spread
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.stretch import compares, read_files
from perennial.lakehouse.tables import dotted, load_at
from perennial.rules.joins import MOMENT
from perennial.rules.lineage import InputOrigin, origins
from perennial.spec.load import load_pipeline
from ray_jobs.features.blocks import times_of

FILES = 4  # that are read for the spreads, evenly over event time
FILE_ROWS = 50_000  # of each
BINS = 24
VALUES = 12


class DescribeRequest(BaseModel, frozen=True):
    """Which snapshot of a pipeline's features to describe; `inputs`: the raw snapshots that it was built from."""

    lake: Lake
    pipeline: str
    pipelines: Path
    as_of: datetime
    snapshot_id: int
    inputs: dict[str, int]


def describe(request: DescribeRequest) -> FeatureFigures:
    """The figures of the feature page. Memory is that of a file, whatever the table's size."""
    lake, pipeline = request.lake, load_pipeline(request.pipeline, request.pipelines)
    identifier = lake.table(pipeline.name, "features")
    table = load_at(lake, identifier, request.snapshot_id)
    files = sorted(
        (task.file for task in table.scan(snapshot_id=request.snapshot_id).plan_files()),
        key=lambda file: file.file_path,
    )
    told = origins(pipeline)
    looked_at = _some_rows(table, files, [origin.name for origin in told])
    return FeatureFigures(
        pipeline=pipeline.name,
        table=dotted(identifier),
        snapshot_id=request.snapshot_id,
        as_of=request.as_of,
        rows=sum(file.record_count for file in files),
        spreads=[_spread(origin, looked_at[origin.name], _nulls(table, files, origin.name)) for origin in told],
        origins=told,
        newest={
            name: _newest_known(request, name)
            for name in dict.fromkeys(name for origin in told for name in origin.sources)
        },
    )


def _newest_known(request: DescribeRequest, source: str) -> datetime | None:
    """When the newest row of a source that was known by `as_of` became known; only files that go beyond it are read."""
    snapshot = request.inputs[source]
    if not snapshot:
        return None
    table = load_at(request.lake, raw_table(request.lake, request.pipeline, source), snapshot)
    known = compares(LessThanOrEqual, MOMENT, request.as_of)
    scan, found = table.scan(row_filter=known, snapshot_id=snapshot), list[datetime]()
    for task in scan.plan_files():
        _, most = times_of(table, task.file, MOMENT)
        newest: datetime | None = datetime.fromtimestamp(most / 1e6, UTC)
        if newest is None or newest > request.as_of:
            column = table.schema().select(MOMENT)
            rows = ArrowScan(table.metadata, table.io, column, scan.row_filter).to_table([task])
            newest = pl.Series(rows.column(MOMENT)).max()  # type: ignore[assignment]  # instants
        found += [newest] if newest is not None else []
    return max(found, default=None)


def _some_rows(table: Table, files: list[DataFile], names: list[str]) -> pl.DataFrame:
    chosen = [files[int(at)] for at in np.unique(np.linspace(0, len(files) - 1, FILES).astype(int))] if files else []
    empty = pl.DataFrame(pl.from_arrow(table.schema().as_arrow().empty_table())).select(names)
    parts = [read_files(table, {file.file_path}).select(names) for file in chosen]
    return pl.concat([empty, *(part.gather_every(max(1, len(part) // FILE_ROWS)) for part in parts)])


def _nulls(table: Table, files: list[DataFile], name: str) -> int:
    number = table.schema().find_field(name).field_id
    return sum((file.null_value_counts or {}).get(number, 0) for file in files)


def _spread(origin: InputOrigin, values: pl.Series, nulls: int) -> Spread:
    there = values.drop_nulls()
    found = Spread(name=origin.name, nulls=nulls, rows=len(values))
    if origin.private or there.is_empty():
        return found
    if origin.kind == "category":
        counted = there.value_counts(sort=True)
        top = [(str(value), int(rows)) for value, rows in counted.head(VALUES).iter_rows()]
        return found.model_copy(update={"values": top, "others": len(there) - sum(rows for _, rows in top)})
    numbers = there.cast(pl.Float64).to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return found
    counts, edges = np.histogram(numbers, BINS)
    return found.model_copy(update={"edges": edges.tolist(), "counts": counts.tolist()})
