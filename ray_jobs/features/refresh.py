"""Features that were built before, brought to what is known now: only rows that what is new can reach are built again.

What became known since the last build cannot change a row whose moment was before, save its label. What was known
before and came into the tables after (late rows, late corrections) can: for each such version the moments that it
counts at are worked out, and the rows at those moments, of its keys, are built again and compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import ray
import ray.data
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.types import PrimitiveType

from perennial.lakehouse.stretch import Stretch, read_files, read_news, read_versions
from perennial.rules.flatten import flatten
from perennial.rules.joins import MOMENT
from perennial.rules.reach import Reach, reached_moments, touched_rows
from perennial.spec.load import load_pipeline
from perennial.spec.pipeline import Pipeline
from ray_jobs.features.blocks import (
    BLOCK_ROWS,
    Inputs,
    build_rows,
    cut_at,
    first_versions,
    keys_in_table,
    times_of,
    with_labels,
    write_block,
)
from ray_jobs.features.coverage import Covered
from ray_jobs.features.rebuild import BUILD_CPUS, Part, inside

EVERYTHING = Stretch()
MOST_TOUCHED_SHARE = 0.3  # of the rows that stand, from which building all anew costs less


@dataclass(frozen=True)
class News:
    """What is new of a pipeline's sources.

    Args:
        entity: key and event time of entity rows of which a version is new; `late`: those of which it came late.
        labels: keys of rows whose label may be another.
        reaches: per use of a source, the moments that its late versions count at.
    """

    entity: pl.DataFrame
    late: pl.DataFrame
    labels: pl.DataFrame
    reaches: list[Reach]


def refresh_stretch(
    inputs: Inputs,
    pipeline: Pipeline,
    pipelines: Path,
    table: Table,
    key: str,
    stretch: Stretch,
    before: Covered,
    block_rows: int,
) -> Part | None:
    """Bring the rows of a stretch up to date; None where so much is touched that building all anew costs less."""
    news = read_all_news(inputs, pipeline, before)
    event_time = str(pipeline.entity_source.event_time)
    files = [task.file for task in table.scan(row_filter=stretch.filter(event_time)).plan_files()]
    standing = sum(file.record_count for file in files)
    much = len(news.entity) + len(news.labels) > 2 * standing or len(news.late) > MOST_TOUCHED_SHARE * standing
    if much and standing > BLOCK_ROWS:
        return None
    touched = [file for file in files if _may_hold(table, pipeline, file, news)]
    entity = news.entity.filter(stretch.holds(event_time))
    times = entity[event_time].dt.epoch("us").to_numpy()
    spans = cut_at(times, stretch, block_rows) if len(times) else []
    work: list[dict[str, Any]] = [{"path": file.file_path, "start": None, "end": None} for file in touched]
    work += [{"path": "", "start": span.start, "end": span.end} for span in spans]
    if not work:
        return Part()
    instants = pa.timestamp("us", "UTC")
    asked = pa.Table.from_pylist(work, pa.schema([("path", pa.string()), ("start", instants), ("end", instants)]))
    builder = RefreshBlock(inputs, pipeline.name, pipelines, key, stretch, ray.put(news))
    if len(asked) == 1:  # a block of memory, and less CPU than it takes to start a worker: it is built right here
        done = [row for part in builder(asked) for row in part.to_pylist()]
    else:
        blocks = ray.data.from_arrow([asked[n : n + 1] for n in range(len(asked))])
        done = blocks.map_batches(builder, batch_format="pyarrow", batch_size=None, num_cpus=BUILD_CPUS).take_all()
    replaced = {d["path"] for d in done if d["path"]}
    return Part(
        taken=[(file, stretch) for file in touched if file.file_path in replaced],
        manifests=[d["manifest"] for d in done if d["manifest"]],
        rows=sum(d["rows"] for d in done),
        labelled_rows=sum(d["labelled"] for d in done),
        rebuilt_rows=sum(d["changed"] for d in done),
    )


def read_all_news(inputs: Inputs, pipeline: Pipeline, before: Covered) -> News:
    """What of every source became known since a build, or came late."""
    entity = pipeline.entity_source
    key, named = list(entity.key), [*dict.fromkeys([*entity.key, str(entity.event_time)])]
    new_rows, late_rows, labels, reaches = [], [], [], []
    for source in pipeline.sources:
        if not (snapshot := inputs.snapshots[source.name]):
            continue
        looked_at = before.sequences.get(source.name, 0)
        place = (inputs.lake, pipeline, source.name)
        new, late = read_news(*place, before.as_of, looked_at, inputs.as_of, snapshot)
        if source is entity:
            new_rows += [new.select(named), late.select(named)]
            late_rows.append(late.select(named))
        if source is pipeline.label_source:
            labels += [new.select(key), late.select(key)]
        if source.name in pipeline.looked_up and len(late):
            keys = late.select(source.key).unique()
            versions = read_versions(*place, keys, inputs.as_of, snapshot)
            reaches += reached_moments(pipeline, source, versions, late)
    empty = pl.DataFrame(schema=new_rows[0].schema) if new_rows else pl.DataFrame(schema=dict.fromkeys(named, pl.Null))
    return News(
        entity=pl.concat([empty, *new_rows]).unique(maintain_order=True),
        late=pl.concat([empty, *late_rows]).unique(maintain_order=True),
        labels=pl.concat([empty.select(key), *labels]).unique(maintain_order=True),
        reaches=[reach for reach in reaches if reach.begins() <= before.as_of],
    )


class RefreshBlock:
    """Brings what a file of the features holds of a stretch up to date, or builds the new rows of a part of it."""

    def __init__(
        self,
        inputs: Inputs,
        pipeline: str,
        pipelines: Path,
        key: str,
        stretch: Stretch,
        news: "ray.ObjectRef[News]",
    ) -> None:
        self.inputs, self.pipeline, self.pipelines = inputs, pipeline, pipelines
        self.key, self.stretch, self.news = key, stretch, news

    def __call__(self, blocks: pa.Table) -> Iterator[pa.Table]:
        pipeline = load_pipeline(self.pipeline, self.pipelines)
        lake = self.inputs.lake
        table = lake.catalog().load_table(lake.table(self.pipeline, "features"))
        news = ray.get(self.news)
        for block in blocks.to_pylist():
            if block["path"]:
                yield self._file(pipeline, table, news, block["path"])
            else:
                yield self._new(pipeline, table, news, Stretch(block["start"], block["end"]))

    def _file(self, pipeline: Pipeline, table: Table, news: News, path: str) -> pa.Table:
        key, label = list(pipeline.entity_source.key), pipeline.label.name
        old = read_files(table, {path}).filter(inside(self.stretch, str(pipeline.entity_source.event_time)))
        touched = self._touched(pipeline, news, old)
        relabelled = old.select(key).join(news.labels, on=key, how="semi", nulls_equal=True)
        relabelled = relabelled.join(touched, on=key, how="anti", nulls_equal=True)
        if touched.is_empty() and relabelled.is_empty():
            return _done()
        rebuilt = self._rebuild(pipeline, touched, self.stretch)  # a row that moved out of it is built where it now is
        same = old.join(relabelled, on=key, how="semi", nulls_equal=True, maintain_order="left")
        labelled = with_labels(self.inputs, pipeline, same)
        again = pl.concat([frame.select(old.columns).cast(old.schema) for frame in (rebuilt, labelled)])
        asked = pl.concat([touched, relabelled])
        rest = old.join(asked, on=key, how="anti", nulls_equal=True, maintain_order="left")
        was = old.join(asked, on=key, how="semi", nulls_equal=True, maintain_order="left")
        changed = int((~was.hash_rows().is_in(again.hash_rows().implode())).sum())
        if not changed:
            return _done()
        rows = pl.concat([rest, again]).sort(str(pipeline.entity_source.event_time), maintain_order=True)
        manifest = write_block(self.inputs, table, rows, self.key) if len(rows) else ""
        more = int(again[label].count()) - int(was[label].count())
        return _done(path, manifest, len(again) - len(was), more, changed)

    def _new(self, pipeline: Pipeline, table: Table, news: News, stretch: Stretch) -> pa.Table:
        entity = pipeline.entity_source
        keys = news.entity.filter(stretch.holds(str(entity.event_time))).select(entity.key).unique()
        keys = keys.join(
            keys_in_table(table, pipeline, keys, self.stretch), on=keys.columns, how="anti", nulls_equal=True
        )
        rows = self._rebuild(pipeline, keys, stretch)
        if rows.is_empty():
            return _done()
        manifest = write_block(self.inputs, table, rows, self.key)
        labelled = int(rows[pipeline.label.name].count())
        return _done("", manifest, len(rows), labelled, len(rows))

    def _touched(self, pipeline: Pipeline, news: News, old: pl.DataFrame) -> pl.DataFrame:
        """Keys of the old rows that late versions reach: their own, or of a source that they look up."""
        key = list(pipeline.entity_source.key)
        found = [old.select(key).join(news.late.select(key), on=key, how="semi", nulls_equal=True)]
        near = (
            old.filter(pl.any_horizontal(reach.may_hold(pl.col(MOMENT)) for reach in news.reaches))
            if news.reaches
            else old[:0]
        )
        if len(near):
            log = self._versions(pipeline, near.select(key))
            rows = flatten(pipeline.entity_source, first_versions(log, pipeline))
            found.append(touched_rows(rows, news.reaches).select(key))
        return pl.concat(found).unique()

    def _rebuild(self, pipeline: Pipeline, keys: pl.DataFrame, stretch: Stretch = EVERYTHING) -> pl.DataFrame:
        log = self._versions(pipeline, keys)
        event_time = str(pipeline.entity_source.event_time)
        rows = first_versions(log, pipeline).filter(stretch.holds(event_time)).sort(event_time, maintain_order=True)
        if rows.is_empty():
            from ray_jobs.features.build import features_schema

            return pl.DataFrame(pl.from_arrow(features_schema(pipeline).empty_table()))
        return build_rows(self.inputs, pipeline, rows, log)

    def _versions(self, pipeline: Pipeline, keys: pl.DataFrame) -> pl.DataFrame:
        name = pipeline.entity_source.name
        return read_versions(self.inputs.lake, pipeline, name, keys, self.inputs.as_of, self.inputs.snapshots[name])


def _may_hold(table: Table, pipeline: Pipeline, file: DataFile, news: News) -> bool:
    """Whether a file's bounds leave room for a row that may change."""
    least, most = times_of(table, file, MOMENT)
    if any(reach.may_reach(least, most) for reach in news.reaches):
        return True
    return any(_may_have(table, file, keys.select(pipeline.entity_source.key)) for keys in (news.late, news.labels))


def _may_have(table: Table, file: DataFile, keys: pl.DataFrame) -> bool:
    if keys.is_empty():
        return False
    for column in keys.iter_columns():
        if column.dtype == pl.Datetime("us", "UTC"):
            least, most = times_of(table, file, column.name)
            if not column.dt.epoch("us").is_between(least, most).fill_null(value=True).any():  # bounds tell no nulls
                return False
        elif column.dtype.is_integer():
            least, most = _whole(table, file, column.name)
            if not column.is_between(least, most).fill_null(value=True).any():
                return False
    return True


def _whole(table: Table, file: DataFile, column: str) -> tuple[int, int]:
    field = table.schema().find_field(column)
    lower, upper = (file.lower_bounds or {}).get(field.field_id), (file.upper_bounds or {}).get(field.field_id)
    if lower is None or upper is None:
        return -(2**63), 2**63 - 1
    assert isinstance(field.field_type, PrimitiveType)
    return int(from_bytes(field.field_type, lower)), int(from_bytes(field.field_type, upper))


def _done(path: str = "", manifest: str = "", rows: int = 0, labelled: int = 0, changed: int = 0) -> pa.Table:
    return pa.table(
        {"path": [path], "manifest": [manifest], "rows": [rows], "labelled": [labelled], "changed": [changed]}
    )
