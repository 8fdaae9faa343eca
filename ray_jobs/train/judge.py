"""Score a challenger and the champion on the labelled rows that neither was trained on, and judge."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel

from perennial.lakehouse.artifacts import ArtifactRefused
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version, snapshot_as_of
from perennial.lakehouse.scorers import load_scorer
from perennial.rules.contest import PromotionVerdict
from perennial.rules.joins import MOMENT
from perennial.rules.metrics import Measure
from perennial.rules.promotion import judge_promotion
from perennial.rules.scoring import GoldenRowsDiffer, NoBuilder, Scorer
from perennial.rules.weighted import one_hot
from perennial.spec import Pipeline, TorchModel, load_pipeline
from ray_jobs.train.rows import LABEL_KNOWN_AT, event_time_of, labelled, read_rows

Floats = NDArray[np.float64]


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
    theirs = _champion(lake, pipeline, champion) if champion else None
    event_time = rows[event_time_of(pipeline)] if rows.height else pl.Series(dtype=pl.Datetime("us", "UTC"))
    newest = event_time.max()
    return Judged(
        verdict=_verdict(request, pipeline, snapshot_id, rows, ours, theirs, challenger),
        window_start=start,
        window_end=newest if isinstance(newest, datetime) else None,
    )


def _verdict(
    request: JudgeRequest,
    pipeline: Pipeline,
    snapshot_id: int,
    rows: pl.DataFrame,
    ours: Scorer,
    theirs: Scorer | str | None,
    challenger: ModelVersion,
) -> PromotionVerdict:
    missing = [name for name in ours.inputs if name not in rows.columns]
    if missing:
        why = (
            f"its inputs {missing} are not among the features of today, {sorted(rows.columns)}: it could not serve. Train a "
            "version with today's features, or build them with the revision it was trained with"
        )
        return PromotionVerdict(verdict="reject", answer="inputs_missing", reason=why, evidence={"rows": rows.height})
    incomparable = _incomparable(ours, theirs, rows) if theirs else None
    compared = theirs if isinstance(theirs, Scorer) and not incomparable else None
    told = challenger.read_metrics()
    return judge_promotion(
        Measure(pipeline.metric, ours.description.threshold, pipeline.promotion.quantile),
        truth(ours, rows[pipeline.label.name]),
        ours.score(rows),
        compared.score(rows) if compared else None,
        pipeline.promotion,
        constant=told["training_label_mean"],
        last_label=_last_labels(request, pipeline, snapshot_id, rows, ours, told["training_label_mean"]),
        slices={column: rows[column].to_list() for column in pipeline.promotion.slices if column in rows.columns},
        incomparable=incomparable,
        champion_threshold=compared.description.threshold if compared else None,
    )


def truth(scorer: Scorer, labels: pl.Series) -> Floats:
    """(n,): labels as metrics take them: positions of the challenger's classes, -1 for one it was never trained on."""
    return scorer.description.labels(labels)


def _incomparable(ours: Scorer, theirs: Scorer | str, rows: pl.DataFrame) -> str | None:
    """Why the champion cannot be scored on these rows; None where it can. Inputs that were added are no reason."""
    if isinstance(theirs, str):
        return theirs
    gone = [name for name in theirs.inputs if name not in rows.columns]
    if gone:
        return f"the champion's inputs {gone} are no longer among the features"
    if theirs.description.task != ours.description.task:
        return f"the champion is a {theirs.description.task} model and the challenger a {ours.description.task} one"
    if theirs.description.classes != ours.description.classes:
        return f"the champion tells the classes {theirs.description.classes}, the challenger {ours.description.classes}"
    return None


def _last_labels(
    request: JudgeRequest, pipeline: Pipeline, snapshot_id: int, rows: pl.DataFrame, ours: Scorer, constant: Any
) -> Floats | None:
    """For each row, as scores, the label that had become known last when its prediction was due; before any: `constant`."""
    if not pipeline.promotion.beats_last_label or MOMENT not in rows.columns or not rows.height:
        return None
    label = pipeline.label.name
    columns = [event_time_of(pipeline), label, LABEL_KNOWN_AT]
    known = read_rows(request.lake, pipeline, snapshot_id, labelled(pipeline, request.as_of), columns)
    known = known.sort(LABEL_KNOWN_AT, columns[0], maintain_order=True)
    known = known.select(pl.col(LABEL_KNOWN_AT).alias(MOMENT), pl.col(label).alias("last"))
    asked = rows.select(MOMENT).with_row_index().sort(MOMENT)
    # Earlier, not as early: a label that is on the entity's own row is known at the very moment of its prediction.
    found = asked.join_asof(known, on=MOMENT, strategy="backward", allow_exact_matches=False).sort("index")["last"]
    blind = np.broadcast_to(np.asarray(constant, dtype=np.float64), (rows.height, *np.shape(constant)))
    there = found.is_not_null().to_numpy()
    last = truth(ours, found)
    told = one_hot(last, blind.shape[1]) if blind.ndim > 1 else last
    return np.where(there if blind.ndim == 1 else there[:, None], told, blind)


def _champion(lake: Lake, pipeline: Pipeline, version: ModelVersion) -> Scorer | str:
    """The champion, or why the pipeline's file as it is now does not build its network."""
    try:
        return _scorer(lake, pipeline, version)
    except NoBuilder as error:
        return f"the champion's network is not that of today: {error}"
    except (ArtifactRefused, GoldenRowsDiffer) as error:
        if isinstance(pipeline.model, TorchModel):  # the builder has its name still, and builds another network
            return f"the champion's weights do not fit the network of today: {error}"
        raise


def _scorer(lake: Lake, pipeline: Pipeline, version: ModelVersion) -> Scorer:
    return load_scorer(lake, pipeline.name, version.artifact_id, version.manifest_sha256, pipeline.model)
