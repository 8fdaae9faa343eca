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
from perennial.rules.features import label_type
from perennial.spec import Pipeline

LABEL_KNOWN_AT = "_label_known_at"
NUMBERS, CATEGORIES, TARGET, WEIGHT = "numbers", "categories", "target", "weight"
EVENT_TIME, POSITION = "event_time", "position"


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
    """Rows in one order for one snapshot: by event time, then key; the label as `label_type` says."""
    key = [column for column in pipeline.entity_source.key if columns is None or column in columns]
    event_time = event_time_of(pipeline)
    table = read_snapshot(lake, lake.table(pipeline.name, "features"), snapshot_id, columns, row_filter)
    rows = pl.from_arrow(table)
    assert isinstance(rows, pl.DataFrame)
    rows = rows.with_columns(pl.col(pipeline.label.name).cast(label_type(pipeline)))
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
        names: tuple[str, ...],
        description: ModelDescription,
    ) -> None:
        """`names`: the columns of the event time, of the label and, where rows have weights, of those."""
        self.lake, self.pipeline, self.snapshot_id, self.row_filter = lake, pipeline, snapshot_id, row_filter
        self.event_time, self.label, *self.weights = names
        self.description = description.model_dump_json()

    def __call__(self, groups: pa.Table) -> Iterator[pa.Table]:
        """Groups of file paths in, a block of matrices for each out."""
        description = ModelDescription.model_validate_json(self.description)
        table = self.lake.catalog().load_table(self.lake.table(self.pipeline, "features"))
        columns = (*description.inputs, self.event_time, self.label, *self.weights)
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
        weights = [rows[name].cast(pl.Float32).to_numpy() for name in self.weights]
        columns = {
            NUMBERS: _wide(matrices.numbers),
            CATEGORIES: _wide(matrices.categories),
            TARGET: pa.array(description.target(rows[self.label]).astype(np.float32)),
            WEIGHT: pa.array(weights[0]) if weights else None,
            EVENT_TIME: pa.array(rows[self.event_time].dt.epoch("us").to_numpy()),
            POSITION: pa.array((np.int64(number) << 40) + np.arange(rows.height, dtype=np.int64)),
        }
        return pa.table({name: column for name, column in columns.items() if column is not None})


class Blocks:
    """Blocks as Ray Data made them, in one order however they arrived: by event time, then file and row.

    The blocks stay where they are, in the object store; only the rows that are taken are copied.
    """

    def __init__(self, blocks: list[pa.Table]) -> None:
        self._blocks = [block for block in blocks if block.num_rows]
        times = np.concatenate([block[EVENT_TIME].to_numpy() for block in self._blocks])
        positions = np.concatenate([block[POSITION].to_numpy() for block in self._blocks])
        self._order = np.lexsort((positions, times))
        self.event_times: NDArray[np.int64] = times[self._order]

    def take(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The columns of the rows at these places of the order, as one array each."""
        wanted = self._order[rows]
        found: dict[str, NDArray[Any]] = {}
        start = 0
        for block in self._blocks:
            here = np.flatnonzero((wanted >= start) & (wanted < start + block.num_rows))
            for name in set(block.column_names) - {EVENT_TIME, POSITION}:
                values = _values(block[name])
                column = found.setdefault(name, np.empty((len(rows), *values.shape[1:]), values.dtype))
                column[here] = values[wanted[here] - start]
            start += block.num_rows
        return found


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    whole = column.combine_chunks()
    if pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole.values.to_numpy().reshape(-1, whole.type.list_size))
    return np.asarray(whole.to_numpy())


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
