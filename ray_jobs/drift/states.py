"""The sketches of a window: of every input and the score, on all rows, kept on S3 so that windows can be compared later.

A window that fits is sketched where it was read; a larger one file by file on Ray, so that its rows are read once and
never held together.
"""

import io
from collections.abc import Mapping
from datetime import datetime

import polars as pl
import pyarrow as pa
from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan, NotNull
from pyiceberg.io.pyarrow import ArrowScan

from perennial.lakehouse.lake import Lake
from perennial.rules.sketch import Edges, Sketch, dump_sketches, load_sketches, merge_frames, sketch_frame
from perennial.rules.tabular import InputKind

SCORE = "score"
GROUPS = 64  # of files: how finely a large window is spread over Ray


def reference_edges(reference: pl.DataFrame, inputs: Mapping[str, InputKind]) -> dict[str, Edges]:
    """What the reference fixes for every input and the score."""
    kinds: dict[str, InputKind] = {**inputs, SCORE: "number"}
    return {name: Edges.of(reference[name], kind) for name, kind in kinds.items() if name in reference.columns}


def window_filter(
    event_time: str, start: datetime, end: datetime, role: str, version: int | None = None
) -> BooleanExpression:
    """Which rows of `predictions` belong to a window, of a version or of all."""
    answered = And(
        EqualTo(term="role", value=role),
        NotNull(term="score"),  # a version that failed gave no answer
        GreaterThanOrEqual(term=event_time, value=start.isoformat()),
        LessThan(term=event_time, value=end.isoformat()),
    )
    return answered if version is None else And(answered, EqualTo(term="version", value=version))


def sketch_files(
    lake: Lake, pipeline: str, row_filter: BooleanExpression, edges: Mapping[str, Edges]
) -> dict[str, Sketch]:
    """The states of all rows of `predictions` that the filter lets through: one read, spread over Ray by files."""
    import ray

    table = lake.catalog().load_table(lake.table(pipeline, "predictions"))
    files = sorted(task.file.file_path for task in table.scan(row_filter=row_filter).plan_files())
    job = ray.remote(num_cpus=1)(_sketch_group)
    groups = [files[number::GROUPS] for number in range(min(GROUPS, len(files)))]
    told = {name: edge.model_dump_json() for name, edge in edges.items()}
    waiting = [job.remote(lake, pipeline, row_filter, told, group) for group in groups]
    parts = [load_sketches(pl.DataFrame(pl.from_arrow(part))) for part in ray.get(waiting) if part.num_rows]
    return merge_frames(parts) if parts else sketch_frame(pl.DataFrame(schema=dict.fromkeys(edges, pl.Float64)), edges)


def _sketch_group(
    lake: Lake, pipeline: str, row_filter: BooleanExpression, told: Mapping[str, str], paths: list[str]
) -> pa.Table:
    edges = {name: Edges.model_validate_json(edge) for name, edge in told.items()}
    table = lake.catalog().load_table(lake.table(pipeline, "predictions"))
    scan = table.scan(row_filter=row_filter, selected_fields=tuple(edges))
    tasks = [task for task in scan.plan_files() if task.file.file_path in set(paths)]
    reader = ArrowScan(table.metadata, table.io, scan.projection(), row_filter, True, None)
    parts = [
        sketch_frame(pl.DataFrame(pl.from_arrow(batch)), edges)
        for task in tasks  # a file at a time: memory is bounded by one
        for batch in reader.to_record_batches([task])
    ]
    return dump_sketches(merge_frames(parts)).to_arrow() if parts else dump_sketches({}).to_arrow()


def save_states(lake: Lake, path: str, sketches: Mapping[str, Sketch]) -> None:
    """Keep a window's states below the environment at `path`."""
    buffer = io.BytesIO()
    dump_sketches(sketches).write_parquet(buffer)
    lake.files().pipe_file(lake.uri(path), buffer.getvalue())


def load_states(lake: Lake, path: str) -> dict[str, Sketch]:
    """The states kept at `path`; none where nothing is."""
    files = lake.files()
    if not files.exists(lake.uri(path)):
        return {}
    return load_sketches(pl.read_parquet(io.BytesIO(files.cat_file(lake.uri(path)))))
