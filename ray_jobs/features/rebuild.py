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
from ray_jobs.features.blocks import Inputs, build_rows, plan_blocks, read_entity, times_of, write_block

BUILD_CPUS = 0.5  # training or a canary may run meanwhile on two cores


@dataclass(frozen=True)
class Part:
    """What part of a build changes: files out and files in, and the difference in rows that it makes.

    Args:
        taken: a file that goes, and the stretch of it whose rows the new files hold as far as they are still there.
    """

    taken: list[tuple[DataFile, Stretch]] = field(default_factory=list)
    manifests: list[str] = field(default_factory=list)
    rows: int = 0
    labelled_rows: int = 0
    rebuilt_rows: int = 0

    def plus(self, other: "Part") -> "Part":
        """Both together."""
        return Part(**{name: getattr(self, name) + getattr(other, name) for name in Part.__dataclass_fields__})

    @property
    def old(self) -> list[DataFile]:
        """The files that go, each once, whichever of its stretches were taken."""
        return list({file.file_path: file for file, _ in self.taken}.values())


def rebuild_stretch(
    inputs: Inputs, pipeline: Pipeline, pipelines: Path, table: Table, key: str, stretch: Stretch, block_rows: int
) -> Part:
    """Build every row whose event time lies in the stretch; what else its files hold is for `keep_others`."""
    event_time = str(pipeline.entity_source.event_time)
    old = [task.file for task in table.scan(row_filter=stretch.filter(event_time)).plan_files()]
    gone, labelled_gone = _count_inside(pipeline, table, stretch, old)
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
        taken=[(file, stretch) for file in old],
        manifests=[d["manifest"] for d in done if d["manifest"]],
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


def inside(stretch: Stretch, event_time: str) -> pl.Expr:
    """Whether a row of the features lies in a stretch; one without event time lies in no part of the table."""
    return pl.lit(value=True) if stretch == Stretch() else pl.col(event_time).is_not_null() & stretch.holds(event_time)


def keep_others(inputs: Inputs, pipeline: Pipeline, table: Table, key: str, part: Part) -> Part:
    """The part with the rows of its old files that no stretch took: written again, each file's once.

    Files are written by stretch, so that few reach beyond one: those that were compacted since. Such a file may lie in
    several stretches of the same build.
    """
    event_time = str(pipeline.entity_source.event_time)
    manifests = []
    for file in part.old:
        stretches = [stretch for taken, stretch in part.taken if taken.file_path == file.file_path]
        if any(_lies_inside(table, file, stretch, event_time) for stretch in stretches):
            continue
        rows = read_files(table, {file.file_path})
        others = rows.filter(~pl.any_horizontal(inside(stretch, event_time) for stretch in stretches))
        if len(others):
            manifests.append(write_block(inputs, table, others, key))
    return part.plus(Part(manifests=manifests))


def _lies_inside(table: Table, file: DataFile, stretch: Stretch, event_time: str) -> bool:
    """Whether all rows of a file lie in a stretch, as far as its bounds tell."""
    if stretch == Stretch():
        return True
    nulls = (file.null_value_counts or {}).get(table.schema().find_field(event_time).field_id)
    if nulls != 0:
        return False
    least, most = times_of(table, file, event_time)
    bounds = pl.DataFrame({event_time: [least, most]}).cast(pl.Datetime("us", "UTC"))
    return bool(bounds.select(stretch.holds(event_time).all()).item())


def _count_inside(pipeline: Pipeline, table: Table, stretch: Stretch, files: list[DataFile]) -> tuple[int, int]:
    """Rows of the files that lie in the stretch, and the labelled ones; only files that reach beyond it are read."""
    event_time, label = str(pipeline.entity_source.event_time), pipeline.label.name
    number = table.schema().find_field(label).field_id
    rows, labelled = 0, 0
    for file in files:
        if _lies_inside(table, file, stretch, event_time):
            rows += file.record_count
            labelled += file.record_count - (file.null_value_counts or {}).get(number, 0)
        else:
            leaving = read_files(table, {file.file_path}).filter(inside(stretch, event_time))
            rows, labelled = rows + len(leaving), labelled + int(leaving[label].count())
    return rows, labelled
