"""The figures of a version's model card, from the rows that it was kept from: worked out once, kept as JSON beside the page."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from perennial.datadocs.card import Figures, figures_path
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.tables import dotted
from perennial.rules import curves
from perennial.rules.metrics import Measure
from perennial.rules.scoring import Scorer
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.train.judge import truth
from ray_jobs.train.rows import LABEL_KNOWN_AT, event_time_of, labelled, read_rows, row_hash

IMPORTANCE_ROWS = 1_000
MOST_INPUTS = 60


class CardRequest(BaseModel, frozen=True):
    """The version to describe."""

    lake: Lake
    pipeline: str
    pipelines: Path
    version: int


def describe_version(request: CardRequest) -> Figures:
    """The figures, worked out anew and written to S3 as JSON; the same version gives the same figures."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    lake, version = request.lake, read_version(request.lake, request.pipeline, request.version)
    scorer = load_scorer(lake, version.pipeline, version.artifact_id, version.manifest_sha256, pipeline.model)
    known = labelled(pipeline, version.as_of, start=version.holdout_start)
    rows = read_rows(lake, pipeline, version.features_snapshot_id, known)
    figures = _figures(lake, pipeline, version, scorer, rows)
    lake.files().pipe_file(lake.uri(figures_path(pipeline.name, version.version)), figures.model_dump_json().encode())
    return figures


def _figures(lake: Lake, pipeline: Pipeline, version: ModelVersion, scorer: Scorer, rows: pl.DataFrame) -> Figures:
    y, scores = truth(scorer, rows[pipeline.label.name]), scorer.score(rows)
    metric = Measure(pipeline.metric, scorer.description.threshold, pipeline.promotion.quantile)
    slices = {name: rows[name].to_list() for name in pipeline.promotion.slices if name in rows.columns}
    of_values, drawn = scorer.description.task == "regression", bool(rows.height and np.isfinite(scores).all())
    classes: list[str] = list(getattr(scorer.description, "classes", ()))
    found = Figures(
        pipeline=pipeline.name,
        version=version.version,
        task=scorer.description.task,
        metric=metric.name,
        table=dotted(lake.table(pipeline.name, "features")),
        snapshot_id=version.features_snapshot_id,
        rows=rows.height,
        row_hash=row_hash(rows),
        periods=_periods(lake, pipeline, version, scorer),
    )
    if not drawn:
        return found
    drawings: dict[str, Any] = {
        "roc": [] if of_values else curves.roc_curves(y, scores, classes),
        "pr": [] if of_values else curves.pr_curves(y, scores, classes),
        "calibration": curves.predicted_bins(y, scores) if of_values else curves.calibration_bins(y, scores),
        "residuals": curves.residual_bins(y, scores) if of_values else [],
        "slices": curves.slice_values(metric, y, scores, slices, pipeline.promotion.minimum_slice_rows),
        "importance": measure_importance(metric, scorer, rows, pipeline.label.name),
        "importance_rows": min(IMPORTANCE_ROWS, rows.height),
    }
    return found.model_copy(update=drawings)


def measure_importance(metric: Measure, scorer: Scorer, rows: pl.DataFrame, label: str) -> list[curves.Importance]:
    """What each input is worth to a model, by a thousand of the labelled rows that it was kept from."""
    few = rows[np.unique(np.linspace(0, rows.height - 1, min(IMPORTANCE_ROWS, rows.height)).round().astype(np.int64))]
    inputs = list(scorer.inputs)[:MOST_INPUTS]
    return curves.permutation_importance(metric, few, truth(scorer, few[label]), scorer.score, inputs)


def _periods(lake: Lake, pipeline: Pipeline, version: ModelVersion, scorer: Scorer) -> list[curves.Period]:
    event_time = event_time_of(pipeline)
    columns = [event_time, pipeline.label.name, LABEL_KNOWN_AT]
    rows = read_rows(lake, pipeline, version.features_snapshot_id, labelled(pipeline, version.as_of), columns)
    bounds = {"training": version.train_start, "holdout": version.holdout_start}
    return curves.periods(rows[event_time], truth(scorer, rows[pipeline.label.name]), bounds)
