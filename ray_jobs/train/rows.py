"""The rows a version is trained and judged on, read from a pinned snapshot of the features."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, LessThan, LessThanOrEqual, NotNull
from pyiceberg.io.pyarrow import ArrowScan

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.description import ModelDescription
from perennial.spec import Pipeline

LABEL_KNOWN_AT = "_label_known_at"
NUMBERS, CATEGORIES, TARGET, EVENT_TIME, POSITION = "numbers", "categories", "target", "event_time", "position"


def event_time_of(pipeline: Pipeline) -> str:
    """The column of the entity's event time.

    Raises:
        ValueError: the entity source declares none; what is new and what is old cannot be told apart.
    """
    name = pipeline.entity_source.event_time
    if name is None:
        raise ValueError(
            f"pipeline {pipeline.name} cannot be trained: its entity source {pipeline.entity_source.name!r} declares no "
            "event_time, so nothing newer than the training rows could be kept for the judgement. Declare it."
        )
    return name


def labelled(
    pipeline: Pipeline, as_of: datetime, start: datetime | None = None, end: datetime | None = None
) -> BooleanExpression:
    """Rows whose label was known by `as_of` and whose event time lies in [start, end)."""
    found: BooleanExpression = And(
        NotNull(pipeline.label.name),
        _test(LessThanOrEqual, LABEL_KNOWN_AT, as_of),
    )
    if start:
        found = And(found, _test(GreaterThanOrEqual, event_time_of(pipeline), start))
    if end:
        found = And(found, _test(LessThan, event_time_of(pipeline), end))
    return found


def _test(kind: Callable[..., BooleanExpression], column: str, moment: datetime) -> BooleanExpression:
    return kind(column, moment.isoformat())  # as a callable: pyiceberg's __init__ is hidden behind pydantic's


def read_rows(
    lake: Lake, pipeline: Pipeline, snapshot_id: int, row_filter: BooleanExpression, columns: list[str] | None = None
) -> pl.DataFrame:
    """Rows in one order for one snapshot: by event time, then key; the label as a float64."""
    key = [column for column in pipeline.entity_source.key if columns is None or column in columns]
    event_time = event_time_of(pipeline)
    table = read_snapshot(lake, lake.table(pipeline.name, "features"), snapshot_id, columns, row_filter)
    rows = pl.from_arrow(table)
    assert isinstance(rows, pl.DataFrame)
    rows = rows.with_columns(pl.col(pipeline.label.name).cast(pl.Float64))
    return rows.sort(event_time, *(name for name in key if name != event_time))


def row_hash(rows: pl.DataFrame) -> str:
    """SHA-256 over the rows' values, as text, in their order: the same on every machine and for every file layout."""
    digest = hashlib.sha256()
    for part in rows.select(sorted(rows.columns)).iter_slices(50_000):
        digest.update(part.write_csv(include_header=False).encode())
    return digest.hexdigest()


class PrepareFile:
    """Reads planned files and turns their rows into matrices: one callable, so rows cross the object store once."""

    def __init__(
        self,
        lake: Lake,
        pipeline: str,
        snapshot_id: int,
        row_filter: BooleanExpression,
        names: tuple[str, str],
        description: ModelDescription,
    ) -> None:
        self.lake, self.pipeline, self.snapshot_id, self.row_filter = lake, pipeline, snapshot_id, row_filter
        self.event_time, self.label = names
        self.description = description.model_dump_json()

    def __call__(self, groups: pa.Table) -> Iterator[pa.Table]:
        """Groups of file paths in, a block of matrices for each out."""
        description = ModelDescription.model_validate_json(self.description)
        table = self.lake.catalog().load_table(self.lake.table(self.pipeline, "features"))
        columns = (*description.inputs, self.event_time, self.label)
        scan = table.scan(row_filter=self.row_filter, selected_fields=columns, snapshot_id=self.snapshot_id)
        planned = sorted(scan.plan_files(), key=lambda task: task.file.file_path)
        for group in groups.to_pylist():
            tasks = [task for task in planned if task.file.file_path in set(group["paths"])]
            reader = ArrowScan(table.metadata, table.io, scan.projection(), self.row_filter, True, None)
            rows = pl.from_arrow(reader.to_table(tasks))
            assert isinstance(rows, pl.DataFrame)
            yield self._matrices(rows, description, group["group"])

    def _matrices(self, rows: pl.DataFrame, description: ModelDescription, number: int) -> pa.Table:
        matrices = description.preprocessing.apply(rows)
        label = rows[self.label].cast(pl.Float64).to_numpy()
        target = (label - description.target_center) / description.target_scale
        columns = {
            NUMBERS: _wide(matrices.numbers),
            CATEGORIES: _wide(matrices.categories),
            TARGET: pa.array(target.astype(np.float32)),
            EVENT_TIME: pa.array(rows[self.event_time].dt.epoch("us").to_numpy()),
            POSITION: pa.array((np.int64(number) << 40) + np.arange(rows.height, dtype=np.int64)),
        }
        return pa.table({name: column for name, column in columns.items() if column is not None})


def gather_blocks(blocks: list[pa.Table]) -> dict[str, NDArray[Any]]:
    """The blocks' columns as one array each, in one order however they arrived: by event time, then file and row."""
    table = pa.concat_tables(block for block in blocks if block.num_rows)
    order = np.lexsort((table[POSITION].to_numpy(), table[EVENT_TIME].to_numpy()))
    found = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        wide = pa.types.is_fixed_size_list(column.type)
        values = column.values.to_numpy().reshape(-1, column.type.list_size) if wide else column.to_numpy()
        found[name] = values[order]
    return found


def _wide(matrix: NDArray[Any]) -> pa.Array | None:
    if not matrix.shape[1]:
        return None
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def file_groups(
    lake: Lake, pipeline: str, snapshot_id: int, row_filter: BooleanExpression, groups: int
) -> list[dict[str, Any]]:
    """The snapshot's files in `groups` of about the same number of rows, each the same for the same snapshot."""
    table = lake.catalog().load_table(lake.table(pipeline, "features"))
    tasks = table.scan(row_filter=row_filter, snapshot_id=snapshot_id).plan_files()
    files = sorted((task.file.file_path, task.file.record_count) for task in tasks)
    groups = max(1, min(groups, len(files)))
    filled: list[tuple[int, list[str]]] = [(0, []) for _ in range(groups)]
    for path, rows in sorted(files, key=lambda file: (-file[1], file[0])):
        lightest = min(range(groups), key=lambda g: filled[g][0])
        filled[lightest] = (filled[lightest][0] + rows, [*filled[lightest][1], path])
    return [{"group": number, "paths": paths} for number, (_, paths) in enumerate(filled)]
