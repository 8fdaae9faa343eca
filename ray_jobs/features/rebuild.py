"""A stretch of the features built anew: in blocks of event time, each from the parts of the tables that it needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import ray.data
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from perennial.lakehouse.stretch import Stretch, read_files
from perennial.spec.load import load_pipeline
from perennial.spec.pipeline import Pipeline
from ray_jobs.features.blocks import Inputs, build_rows, plan_blocks, read_entity, write_block

BUILD_CPUS = 0.5  # training or a canary may run meanwhile on two cores


@dataclass(frozen=True)
class Part:
    """What part of a build changes: files out and files in, and the difference in rows that it makes."""

    old: list[DataFile] = field(default_factory=list)
    manifests: list[str] = field(default_factory=list)
    rows: int = 0
    labelled_rows: int = 0
    rebuilt_rows: int = 0

    def plus(self, other: "Part") -> "Part":
        """Both together."""
        return Part(**{name: getattr(self, name) + getattr(other, name) for name in Part.__dataclass_fields__})


def rebuild_stretch(
    inputs: Inputs, pipeline: Pipeline, pipelines: Path, table: Table, key: str, stretch: Stretch, block_rows: int
) -> Part:
    """Build every row whose event time lies in the stretch; of files that reach beyond it the other rows are kept."""
    event_time = str(pipeline.entity_source.event_time)
    old = [task.file for task in table.scan(row_filter=stretch.filter(event_time)).plan_files()]
    outside, gone, labelled_gone = _kept(inputs, pipeline, table, key, stretch, old)
    blocks = [{"start": b.start, "end": b.end} for b in plan_blocks(inputs, pipeline, stretch, block_rows)]
    done = []
    if blocks:
        instants = pa.timestamp("us", "UTC")
        asked = pa.Table.from_pylist(blocks, schema=pa.schema([("start", instants), ("end", instants)]))
        work = ray.data.from_arrow([asked[n : n + 1] for n in range(len(asked))])
        builder = RebuildBlock(inputs, pipeline.name, pipelines, key)
        done = work.map_batches(builder, batch_format="pyarrow", batch_size=None, num_cpus=BUILD_CPUS).take_all()
    rows, labelled = sum(d["rows"] for d in done), sum(d["labelled"] for d in done)
    return Part(
        old=old,
        manifests=[*outside, *(d["manifest"] for d in done if d["manifest"])],
        rows=rows - gone,
        labelled_rows=labelled - labelled_gone,
        rebuilt_rows=rows,
    )


class RebuildBlock:
    """Reads, computes and writes the rows of a block; yields the manifest of the files, and how many rows there are."""

    def __init__(self, inputs: Inputs, pipeline: str, pipelines: Path, key: str) -> None:
        self.inputs, self.pipeline, self.pipelines, self.key = inputs, pipeline, pipelines, key

    def __call__(self, blocks: pa.Table) -> Iterator[pa.Table]:
        pipeline = load_pipeline(self.pipeline, self.pipelines)
        lake = self.inputs.lake
        table = lake.catalog().load_table(lake.table(self.pipeline, "features"))
        for block in blocks.to_pylist():
            rows, log = read_entity(self.inputs, pipeline, Stretch(block["start"], block["end"]))
            manifest, labelled = "", 0
            if len(rows):
                built = build_rows(self.inputs, pipeline, rows, log)
                manifest = write_block(self.inputs, table, built, self.key)
                labelled = int(built[pipeline.label.name].count())
            yield pa.table({"manifest": [manifest], "rows": [len(rows)], "labelled": [labelled]})


def _kept(
    inputs: Inputs, pipeline: Pipeline, table: Table, key: str, stretch: Stretch, old: list[DataFile]
) -> tuple[list[str], int, int]:
    """Write rows of the old files that lie outside of the stretch again; count those inside, and the labelled ones.

    Files are written by stretch, so that few reach beyond one: those that were compacted since.
    """
    if stretch == Stretch() or not old:
        gone = sum(file.record_count for file in old)
        number = table.schema().find_field(pipeline.label.name).field_id
        unlabelled = sum((file.null_value_counts or {}).get(number, 0) for file in old)
        return [], gone, gone - unlabelled
    event_time, label = str(pipeline.entity_source.event_time), pipeline.label.name
    snapshot = table.current_snapshot()
    assert snapshot is not None
    paths = {file.file_path for file in old}
    manifests, gone, labelled = [], 0, 0
    for path in sorted(paths):
        rows = read_files(table, {path})
        inside = pl.col(event_time).is_not_null() & stretch.holds(event_time)
        leaving = rows.filter(inside)
        gone, labelled = gone + len(leaving), labelled + int(leaving[label].count())
        if len(leaving) < len(rows):
            manifests.append(write_block(inputs, table, rows.filter(~inside), key))
    return manifests, gone, labelled
