"""Compare what was served with a version that was never replaced, and draw it: figures and picture on S3."""

from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.rules.performance import Performance, compare_months
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.drift.picture import draw_months
from ray_jobs.drift.window import LABEL, event_time_of, join_labels, read_answers


class CompareRequest(BaseModel, frozen=True):
    """Which stretch of event time to compare, against which version, with the labels known at `as_of`."""

    lake: Lake
    pipelines: Path
    pipeline: str
    start: datetime
    end: datetime
    baseline_version: int
    as_of: datetime


class Compared(BaseModel, frozen=True):
    """The figures, and where they and the picture lie below the environment: `reports/...`."""

    performance: Performance
    picture: str
    summary: str


def compare(request: CompareRequest) -> Compared:
    """Pair every served row with the baseline's score of it: the served one where the baseline served it itself.

    Raises:
        ValueError: no row has a label and both scores; the message says what is missing.
    """
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    rows, unpaired_rows = _pair(request, pipeline)
    performance = compare_months(
        rows,
        pipeline.name,
        pipeline.metric,
        request.baseline_version,
        pipeline.entity_source.time_zone,
        unpaired_rows=unpaired_rows,
    )
    first_answers = rows.group_by("version").agg(pl.col("event_time").min()).sort("event_time").rows()
    stem = f"reports/{pipeline.name}/performance"
    files = request.lake.files()
    files.pipe_file(request.lake.uri(f"{stem}.png"), draw_months(performance, first_answers), ContentType="image/png")
    files.pipe_file(request.lake.uri(f"{stem}.json"), performance.model_dump_json(indent=1).encode())
    return Compared(performance=performance, picture=f"{stem}.png", summary=f"{stem}.json")


def _pair(request: CompareRequest, pipeline: Pipeline) -> tuple[pl.DataFrame, int]:
    key, event_time = list(pipeline.entity_source.key), event_time_of(pipeline)
    window = (request.lake, pipeline, request.start, request.end)
    answers = read_answers(*window, role="champion")
    if answers.is_empty():
        raise ValueError(
            f"no champion of {pipeline.name} answered a row between {request.start} and {request.end}: there is nothing "
            "to compare. Ask the endpoint and run log_predictions first."
        )
    # A row that two champions answered counts as the later one answered it: that is what the client was left with.
    answers = answers.sort("answered_at").unique(key, keep="last")
    batch = read_answers(*window, role="batch", version=request.baseline_version)
    scores = (
        batch.select(*key, batch_score="score")
        if batch.height
        else answers.select(*key, batch_score=pl.lit(None)).clear()
    )
    own = pl.when(pl.col("version") == request.baseline_version).then("score").otherwise("batch_score")
    joined = join_labels(
        request.lake, pipeline, answers.join(scores, on=key, how="left", nulls_equal=True), request.as_of
    )
    rows = joined.select(
        event_time=pl.col(event_time), label=LABEL, served="score", baseline=own.cast(pl.Float64), version="version"
    )
    paired = rows.drop_nulls(["label", "served", "baseline"])
    if paired.is_empty():
        raise ValueError(
            f"of {rows.height:,} served rows of {pipeline.name}, {rows.height - rows['label'].null_count():,} have a label "
            f"by {request.as_of} and {rows.height - rows['baseline'].null_count():,} a score of version "
            f"{request.baseline_version}: none has both. Run score for version {request.baseline_version} over the window."
        )
    return paired, rows.height - paired.height
