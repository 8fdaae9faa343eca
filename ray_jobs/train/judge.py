"""Score a challenger and the champion on the labelled rows that neither was trained on, and judge."""

from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version, snapshot_as_of
from perennial.lakehouse.scorers import load_scorer
from perennial.rules.promotion import PromotionVerdict, judge_promotion
from perennial.rules.scoring import Scorer
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.train.rows import event_time_of, labelled, read_rows


class JudgeRequest(BaseModel, frozen=True):
    """Which two versions to compare, with the labels known by `as_of`. `champion` None: with a constant."""

    lake: Lake
    pipeline: str
    pipelines: Path
    challenger: int
    champion: int | None
    as_of: datetime


class Judged(BaseModel, frozen=True):
    """The verdict, and the window of event time it rests on."""

    verdict: PromotionVerdict
    window_start: datetime
    window_end: datetime | None


def judge(request: JudgeRequest) -> Judged:
    """Judge a challenger. Nothing is written: the same snapshot and moment give the same verdict."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    lake = request.lake
    challenger = read_version(lake, pipeline.name, request.challenger)
    champion = read_version(lake, pipeline.name, request.champion) if request.champion else None
    start = max(version.holdout_start for version in (challenger, champion) if version)
    snapshot_id = snapshot_as_of(lake, lake.table(pipeline.name, "features"), request.as_of)
    assert snapshot_id is not None, "a version was trained from this table"
    rows = read_rows(lake, pipeline, snapshot_id, labelled(pipeline, request.as_of, start=start))
    ours = _scorer(lake, pipeline, challenger)
    theirs = _scorer(lake, pipeline, champion) if champion else None
    gone = [name for name in theirs.inputs if name not in rows.columns] if theirs else []
    verdict = judge_promotion(
        pipeline.metric,
        rows[pipeline.label.name].to_numpy(),
        ours.score(rows),
        theirs.score(rows) if theirs and not gone else None,
        pipeline.promotion,
        constant=_label_mean(challenger),
        slices={column: rows[column].to_list() for column in pipeline.promotion.slices},
    )
    if gone:
        note = f"the champion's inputs {gone} are no longer among the features, so it could not be compared; "
        verdict = verdict.model_copy(update={"reason": note + verdict.reason})
    event_time = rows[event_time_of(pipeline)] if rows.height else pl.Series(dtype=pl.Datetime("us", "UTC"))
    newest = event_time.max()
    return Judged(verdict=verdict, window_start=start, window_end=newest if isinstance(newest, datetime) else None)


def _scorer(lake: Lake, pipeline: Pipeline, version: ModelVersion) -> Scorer:
    return load_scorer(lake, pipeline.name, version.artifact_id, version.manifest_sha256, pipeline.model)


def _label_mean(version: ModelVersion) -> float:
    return float(version.read_metrics()["training_label_mean"])
