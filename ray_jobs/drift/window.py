"""What was answered in a window of event time, with the labels known by a moment, and even samples of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, In, LessThan, NotEqualTo

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.features import label_value
from perennial.rules.sketch import Edges, Sketch, sketch_frame
from perennial.spec import Pipeline
from ray_jobs.drift.states import sketch_files, window_filter

LABEL = "_label"
FIRST = datetime(1, 1, 1, tzinfo=UTC)
LARGE_ROWS = 2_000_000
"""From so many rows on a window is never held whole: sketches by Ray, and an even part of the rows for all else."""


@dataclass(frozen=True)
class Answers:
    """What a version answered in a window.

    Args:
        rows: each row once, as answered last, by event time; of a large window an even part.
        sketches: the state of every column on all rows.
        count: rows there are, whatever of them is in `rows`; of a large window about.
        other_rows: rows of the window that other champions answered.
    """

    rows: pl.DataFrame
    sketches: dict[str, Sketch]
    count: int
    other_rows: int


def read_window(
    lake: Lake, pipeline: Pipeline, version: int, start: datetime, end: datetime, edges: Mapping[str, Edges]
) -> Answers:
    """A version's window as champion; a large one is read once, by Ray, and not held."""
    event_time = event_time_of(pipeline)
    planned = _planned_rows(lake, pipeline, start, end)
    if planned < LARGE_ROWS:
        answers = read_answers(lake, pipeline, start, end, role="champion")
        own = answers.filter(version=version) if answers.height else answers
        empty = pl.DataFrame(schema=dict.fromkeys(edges, pl.Null))
        return Answers(own, sketch_frame(own if own.height else empty, edges), own.height, answers.height - own.height)
    sketches = sketch_files(lake, pipeline.name, window_filter(event_time, start, end, "champion", version), edges)
    logged = max((state.rows + state.missing for state in sketches.values()), default=0)
    rows, drawn = read_part(lake, pipeline, version, start, end, share=min(LARGE_ROWS / max(logged, 1), 1.0))
    # Sketches count a row twice that was asked for twice: how many there are of those, the part tells.
    count = round(logged * rows.height / max(drawn, 1))
    return Answers(rows, sketches, count, _count_others(lake, pipeline, version, start, end))


def read_answers(
    lake: Lake, pipeline: Pipeline, start: datetime, end: datetime, role: str, version: int | None = None
) -> pl.DataFrame:
    """The predictions of rows whose event time lies in [start, end): each row once per version, as answered last.

    A client that asks again, or a log that was shipped twice, does not count twice. An empty frame has no columns.
    """
    rows = _scan(lake, pipeline, start, end, role, version)
    if rows.is_empty():
        return pl.DataFrame()
    key = list(pipeline.entity_source.key)
    latest = rows.sort("answered_at", "request_id", "row_index").unique([*key, "version"], keep="last")
    return latest.sort(event_time_of(pipeline), *key)


def read_part(
    lake: Lake, pipeline: Pipeline, version: int, start: datetime, end: datetime, share: float
) -> tuple[pl.DataFrame, int]:
    """About `share` of a version's rows of a window, drawn by a hash of their key: the same ones at every look.

    Each is there once, as answered last; the number says how many were drawn before that.
    """
    event_time, key = event_time_of(pipeline), list(pipeline.entity_source.key)
    table = lake.catalog().load_table(lake.table(pipeline.name, "predictions"))
    scan = table.scan(row_filter=window_filter(event_time, start, end, "champion", version))
    kept = []
    for batch in scan.to_arrow_batch_reader():
        rows = pl.DataFrame(pl.from_arrow(batch))
        kept.append(rows.filter(pl.struct(key).hash(seed=13) < int(share * 2**64)))
    rows = pl.concat(kept)
    latest = rows.sort("answered_at", "request_id", "row_index").unique([*key, "version"], keep="last")
    return latest.sort(event_time, *key), rows.height


def _count_others(lake: Lake, pipeline: Pipeline, version: int, start: datetime, end: datetime) -> int:
    """Rows of the window that other champions answered, each as often as it was asked for."""
    heard = window_filter(event_time_of(pipeline), start, end, "champion")
    table = lake.catalog().load_table(lake.table(pipeline.name, "predictions"))
    scan = table.scan(And(heard, NotEqualTo(term="version", value=version)), selected_fields=("version",))
    return sum(batch.num_rows for batch in scan.to_arrow_batch_reader())


def asked_rows(lake: Lake, pipeline: Pipeline, start: datetime, end: datetime) -> float:
    """How many rows clients asked about in the window: of champion and canary, each for as many as it stands for."""
    event_time = event_time_of(pipeline)
    heard: BooleanExpression = And(
        In("role", ("champion", "canary")),
        GreaterThanOrEqual(term=event_time, value=start.isoformat()),
        LessThan(term=event_time, value=end.isoformat()),
    )
    try:
        table = lake.catalog().load_table(lake.table(pipeline.name, "predictions"))
    except NoSuchTableError:
        return 0.0
    weighed = "weight" in table.schema().column_names  # a table of before has none: each row stands for itself
    scan = table.scan(row_filter=heard, selected_fields=("weight" if weighed else "version",))
    total = 0.0
    for batch in scan.to_arrow_batch_reader():
        rows = pl.DataFrame(pl.from_arrow(batch))
        total += float(rows["weight"].fill_null(1.0).sum()) if weighed else rows.height
    return total


def _planned_rows(lake: Lake, pipeline: Pipeline, start: datetime, end: datetime) -> int:
    """At most so many rows lie in the window, by the files' counts: of every role, and of files that reach beyond it."""
    event_time = event_time_of(pipeline)
    within = And(
        GreaterThanOrEqual(term=event_time, value=start.isoformat()), LessThan(term=event_time, value=end.isoformat())
    )
    try:
        table = lake.catalog().load_table(lake.table(pipeline.name, "predictions"))
    except NoSuchTableError:
        return 0
    return sum(task.file.record_count for task in table.scan(row_filter=within).plan_files())


def last_version(lake: Lake, pipeline: Pipeline, start: datetime, end: datetime) -> int | None:
    """The champion that answered the window's latest row; None where no row was answered."""
    event_time = event_time_of(pipeline)
    rows = _scan(lake, pipeline, start, end, "champion", columns=[event_time, "version"])
    return None if rows.is_empty() else int(rows.sort(event_time, "version")["version"][-1])


def oldest_of_last(lake: Lake, pipeline: Pipeline, before: datetime, rows: int) -> datetime | None:
    """Event time of the oldest of the last `rows` predictions before a moment; None where there are none."""
    event_time = event_time_of(pipeline)
    times = _scan(lake, pipeline, FIRST, before, "champion", columns=[event_time])
    return None if times.is_empty() else times[event_time].sort(descending=True).head(rows)[-1]


def count_labelled(
    lake: Lake, pipeline: Pipeline, windows: Sequence[tuple[int, datetime, datetime]], as_of: datetime
) -> list[int]:
    """For each (version, start, end) how many of its rows have a label that was known by `as_of`.

    Labels and predictions are read once, however many windows share them; of the predictions the labelled ones are held.
    """
    key, event_time = list(pipeline.entity_source.key), event_time_of(pipeline)
    known = read_known(lake, pipeline, pipeline.label_source.name, as_of).select(key)
    first, last = min(start for _, start, _ in windows), max(end for _, _, end in windows)
    columns = list(dict.fromkeys([*key, event_time, "version"]))
    table = lake.catalog().load_table(lake.table(pipeline.name, "predictions"))
    scan = table.scan(row_filter=window_filter(event_time, first, last, "champion"), selected_fields=tuple(columns))
    parts = [
        pl.DataFrame(pl.from_arrow(batch)).join(known, on=key, how="semi", nulls_equal=True)
        for batch in scan.to_arrow_batch_reader()
    ]
    if not parts:
        return [0] * len(windows)
    rows = pl.concat(parts)
    of_window = (
        rows.filter(pl.col("version") == version, pl.col(event_time).is_between(start, end, closed="left"))
        for version, start, end in windows
    )
    return [part.select(key).n_unique() for part in of_window]


def join_labels(lake: Lake, pipeline: Pipeline, rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The rows with `_label`, null where no label was known by `as_of`: true and false as 1 and 0, or the class as text."""
    if rows.is_empty():
        return rows
    key = list(pipeline.entity_source.key)
    known = read_known(lake, pipeline, pipeline.label_source.name, as_of)
    labels = known.select(*key, label_value(pipeline).alias(LABEL))
    return rows.join(labels, on=key, how="left", nulls_equal=True, maintain_order="left")


def sample_evenly(rows: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """At most `count` rows, one drawn at random from each of `count` equal stretches of the rows' order.

    Rows in the order of event time are thereby stratified by time: every day of a window has its share.
    """
    if rows.height <= count:
        return rows
    edges = np.linspace(0, rows.height, count + 1)
    drawn = np.random.default_rng(seed).random(count)
    return rows[np.floor(edges[:-1] + drawn * np.diff(edges)).astype(np.int64)]


def event_time_of(pipeline: Pipeline) -> str:
    """The column by which windows of this pipeline are cut.

    Raises:
        ValueError: the entity source declares none.
    """
    event_time = pipeline.entity_source.event_time
    if event_time is None:
        raise ValueError(
            f"pipeline {pipeline.name} cannot be watched by window: its entity source {pipeline.entity_source.name!r} "
            f"declares no event_time. Name the column of the instant its rows tell of in pipelines/{pipeline.name}.py."
        )
    return event_time


def _scan(
    lake: Lake,
    pipeline: Pipeline,
    start: datetime,
    end: datetime,
    role: str,
    version: int | None = None,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    row_filter = window_filter(event_time_of(pipeline), start, end, role, version)
    try:
        rows = read_snapshot(lake, lake.table(pipeline.name, "predictions"), columns=columns, row_filter=row_filter)
    except NoSuchTableError:  # nothing was ever answered
        return pl.DataFrame()
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame
