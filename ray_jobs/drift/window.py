"""What was answered in a window of event time, with the labels known by a moment, and even samples of it."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan, NotNull

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.tables import read_snapshot
from perennial.spec import Pipeline

LABEL = "_label"


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


def last_version(lake: Lake, pipeline: Pipeline, start: datetime, end: datetime) -> int | None:
    """The champion that answered the window's latest row; None where no row was answered."""
    event_time = event_time_of(pipeline)
    rows = _scan(lake, pipeline, start, end, "champion", columns=[event_time, "version"])
    return None if rows.is_empty() else int(rows.sort(event_time, "version")["version"][-1])


def join_labels(lake: Lake, pipeline: Pipeline, rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The rows with `_label`: a float64, null where no label was known by `as_of`. True and false are 1 and 0."""
    if rows.is_empty():
        return rows
    key = list(pipeline.entity_source.key)
    known = read_known(lake, pipeline, pipeline.label_source.name, as_of)
    labels = known.select(*key, pipeline.label.expression.cast(pl.Float64).alias(LABEL))
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
    event_time = event_time_of(pipeline)
    row_filter: BooleanExpression = And(
        EqualTo(term="role", value=role),
        NotNull(term="score"),  # a version that failed gave no answer
        GreaterThanOrEqual(term=event_time, value=start.isoformat()),
        LessThan(term=event_time, value=end.isoformat()),
    )
    if version is not None:
        row_filter = And(row_filter, EqualTo(term="version", value=version))
    try:
        rows = read_snapshot(lake, lake.table(pipeline.name, "predictions"), columns=columns, row_filter=row_filter)
    except NoSuchTableError:  # nothing was ever answered
        return pl.DataFrame()
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame
