"""Blocks of feature rows, each built on its own from the parts of the tables that it needs: memory is a block's."""

import itertools
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.types import TimestamptzType

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.staging import stage_files
from perennial.lakehouse.stretch import Stretch, both, bounds, reach_back, read_around, read_stretch, read_versions
from perennial.lakehouse.tables import load_at, write_files
from perennial.rules.features import compute_features, label_value, label_weights
from perennial.rules.joins import MOMENT
from perennial.spec.pipeline import Pipeline

BLOCK_ROWS = 100_000
REACHED_SHARE = 0.5  # of the rows reached back to: a block reads three rows for one that it builds, at most
LABEL_KNOWN_AT = "_label_known_at"
_POINTS = 20  # per block, by which the rows of a file are taken to lie evenly in its stretch of time
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MICROSECOND = timedelta(microseconds=1)


class Inputs(BaseModel, frozen=True):
    """What a build looks at: the snapshots of the raw tables, as of a moment."""

    lake: Lake
    as_of: datetime
    snapshots: dict[str, int]


class LabelsAmbiguous(ValueError):
    """Rows have more than one label, and nothing says which of them is meant."""


def first_versions(log: pl.DataFrame, pipeline: Pipeline) -> pl.DataFrame:
    """The entity's rows as they were when each was predicted for: see `perennial.lakehouse.raw.read_moments`."""
    key = list(pipeline.entity_source.key)
    first = log.filter(pl.col(MOMENT) == pl.col(MOMENT).min().over(key))
    return first.unique(key, keep="last", maintain_order=True)


def build_rows(inputs: Inputs, pipeline: Pipeline, rows: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """The feature rows of entity rows at their moments, with the label as far as it is known.

    Args:
        log: every version of these rows.
    """
    tables, held = read_around(inputs.lake, pipeline, rows, inputs.snapshots)
    computed = compute_features(pipeline, rows, tables, held)
    return with_labels(inputs, pipeline, computed, log)


def with_labels(
    inputs: Inputs, pipeline: Pipeline, rows: pl.DataFrame, log: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The rows with the label as it is known, and since when; what they say of it is replaced."""
    source, label = pipeline.label_source, pipeline.label
    key = list(pipeline.entity_source.key)
    if source is not pipeline.entity_source or log is None:
        keys = rows.select(key)
        log = read_versions(inputs.lake, pipeline, source.name, keys, inputs.as_of, inputs.snapshots[source.name])
    latest = log.unique(list(source.key), keep="last", maintain_order=True)
    weights = label_weights(pipeline)
    labels = latest.select(
        *key,
        label_value(pipeline).alias(label.name),
        pl.col(MOMENT).alias(LABEL_KNOWN_AT),
        *(weight.cast(pl.Float64).alias(name) for name, weight in weights.items()),
    )
    if not set(source.key) <= set(key):
        _refuse_several(labels, pipeline)
    known = rows.drop(label.name, LABEL_KNOWN_AT, *weights, strict=False)
    return known.join(labels, on=key, how="left", nulls_equal=True, maintain_order="left")


def _refuse_several(labels: pl.DataFrame, pipeline: Pipeline) -> None:
    key, source = list(pipeline.entity_source.key), pipeline.label_source
    several = labels.filter(labels.select(key).is_duplicated())
    if len(several):
        raise LabelsAmbiguous(
            f"pipeline {pipeline.name}: source {source.name!r} has {len(several.unique(key))} rows of "
            f"{pipeline.entity_source.name!r} with several labels, such as {several.select(key).row(0, named=True)}: its key "
            f"{list(source.key)} says more than {key}, by which labels are joined. Nothing was published. Give the label a "
            "source with one row for each of these, or make what else its key says a part of the entity's key."
        )


def read_entity(inputs: Inputs, pipeline: Pipeline, stretch: Stretch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The entity's rows whose first version happened in the stretch, and every version of them."""
    entity = pipeline.entity_source
    log = read_stretch(inputs.lake, pipeline, entity.name, stretch, inputs.as_of, inputs.snapshots[entity.name])
    rows = first_versions(log, pipeline).filter(stretch.holds(str(entity.event_time)))
    return rows.sort(str(entity.event_time), maintain_order=True), log


def write_block(inputs: Inputs, table: Table, rows: pl.DataFrame, key: str) -> str:
    """Write feature rows as files that no table refers to; return the manifest's address."""
    return stage_files(inputs.lake, table, write_files(table, rows.to_arrow(), key), key)


def plan_blocks(inputs: Inputs, pipeline: Pipeline, stretch: Stretch, block_rows: int) -> list[Stretch]:
    """The stretch in parts of about so many entity rows, by what the files say of their event times.

    A block has also half as many rows as its features reach back to: else the week before would be read for every hour.
    """
    entity = pipeline.entity_source
    if not inputs.snapshots[entity.name]:
        return []
    block_rows = max(block_rows, round(_rows_reached(inputs, pipeline) * REACHED_SHARE))
    table = load_at(inputs.lake, raw_table(inputs.lake, pipeline.name, entity.name), inputs.snapshots[entity.name])
    tasks = table.scan(
        row_filter=stretch.filter(str(entity.event_time)), snapshot_id=inputs.snapshots[entity.name]
    ).plan_files()
    points = [np.empty(0, np.int64)]
    for task in tasks:
        least, most = times_of(table, task.file, str(entity.event_time))
        count = max(1, round(task.file.record_count / block_rows * _POINTS))
        points.append(np.linspace(least, most, count).astype(np.int64))
    return cut_at(np.concatenate(points), stretch, _POINTS)


def _rows_reached(inputs: Inputs, pipeline: Pipeline) -> float:
    """How many rows of the past the features of a moment reach back to, in a source's average stretch of time.

    Sources of which all the past counts are not among them: larger blocks would not spare reading them.
    """
    reached = 0.0
    for name in pipeline.looked_up:
        reach, snapshot_id = reach_back(pipeline, name), inputs.snapshots[name]
        if reach is None or not snapshot_id:
            continue
        table = load_at(inputs.lake, raw_table(inputs.lake, pipeline.name, name), snapshot_id)
        files = [task.file for task in table.scan(snapshot_id=snapshot_id).plan_files()]
        times = [times_of(table, file, str(pipeline.source(name).event_time)) for file in files]
        span = max(most for _, most in times) - min(least for least, _ in times)
        reached += sum(file.record_count for file in files) * min(1.0, reach / _MICROSECOND / max(1, span))
    return reached


def cut_at(points: Any, stretch: Stretch, each: int) -> list[Stretch]:
    """The stretch cut between instants, given in microseconds, so that about `each` of them are in every part."""
    inner = np.unique(np.sort(points)[each::each])
    cuts = [_EPOCH + int(at) * _MICROSECOND for at in inner]
    cuts = [c for c in cuts if (not stretch.start or c > stretch.start) and (not stretch.end or c < stretch.end)]
    edges = [stretch.start, *cuts, stretch.end]
    return [Stretch(start, end) for start, end in itertools.pairwise(edges)]


def times_of(table: Table, file: DataFile, column: str) -> tuple[int, int]:
    """The least and the greatest instant of a file's column, in microseconds; of a column of nulls, nothing later."""
    number = table.schema().find_field(column).field_id
    lower, upper = (file.lower_bounds or {}).get(number), (file.upper_bounds or {}).get(number)
    if lower is None or upper is None:
        return 0, 0
    return int(from_bytes(TimestamptzType(), lower)), int(from_bytes(TimestamptzType(), upper))


def keys_in_table(table: Table, pipeline: Pipeline, keys: pl.DataFrame, stretch: Stretch) -> pl.DataFrame:
    """Those of the keys that the features table has in a stretch."""
    entity = pipeline.entity_source
    row_filter = both(bounds(keys), stretch.filter(str(entity.event_time)))
    scan = table.scan(row_filter=row_filter, selected_fields=tuple(entity.key))
    return keys.join(pl.DataFrame(pl.from_arrow(scan.to_arrow())), on=keys.columns, how="semi", nulls_equal=True)
