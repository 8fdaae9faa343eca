"""The champion's logged requests scored by a challenger on Ray, before it meets a live one. Nothing is written.

predictions (features, score) ─► blocks ─► challenger's scores ─► pairs, with the labels known by then
"""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.tried import labels_of, read_before
from perennial.rules.scoring import SCORE
from perennial.spec import load_pipeline

BLOCK_ROWS = 10_000
REPLAY_CPUS = 0.5  # the champion serves meanwhile on two cores


class ReplayRequest(BaseModel, frozen=True):
    """Which version is to score what the champion answered before `moment`; labels are those known by `as_of`."""

    lake: Lake
    pipelines: Path
    pipeline: str
    version: int
    champion: int
    rows: int
    moment: datetime
    as_of: datetime


class Replayed(BaseModel, frozen=True):
    """Pairs in the order they were answered. `challenger`: None where it has no finite score."""

    champion: list[float] = []
    challenger: list[float | None] = []
    labels: list[float | None] = []


def replay(request: ReplayRequest) -> Replayed:
    """Score the newest logged rows of the champion with the challenger."""
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    version = read_version(request.lake, request.pipeline, request.version)
    artifact = (request.pipeline, version.artifact_id, version.manifest_sha256)
    inputs = load_scorer(request.lake, *artifact, pipeline.model).inputs
    columns = [*dict.fromkeys([*pipeline.entity_source.key, *inputs])]
    logged = read_before(request.lake, pipeline, request.champion, request.moment, columns)
    if logged.is_empty():
        return Replayed()
    rows = logged.filter(pl.col("score").is_not_null()).head(request.rows).reverse()
    if rows.is_empty() or not set(inputs) <= set(rows.columns):
        return Replayed()
    blocks = [part.to_arrow() for part in rows.select(list(inputs)).with_row_index("_row").iter_slices(BLOCK_ROWS)]
    scored = ray.data.from_arrow(blocks).map_batches(
        ReplayBlock(request.lake, request.pipelines, *artifact),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=REPLAY_CPUS,
    )
    parts = list(scored.iter_batches(batch_format="pyarrow", batch_size=None))
    scores = pl.DataFrame(pl.from_arrow(pa.concat_tables(parts))).sort("_row")["score"]
    return Replayed(
        champion=rows["score"].to_list(),
        challenger=scores.to_list(),
        labels=labels_of(request.lake, pipeline, rows, request.as_of).to_list(),
    )


class ReplayBlock:
    """Logged inputs in, scores out; null where the version has no finite one."""

    def __init__(self, lake: Lake, pipelines: Path, pipeline: str, artifact_id: str, manifest_sha256: str) -> None:
        self.lake, self.pipelines, self.artifact = lake, pipelines, (pipeline, artifact_id, manifest_sha256)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = pl.DataFrame(pl.from_arrow(block))
        try:
            model = load_pipeline(self.artifact[0], self.pipelines).model
            scorer = load_scorer(self.lake, *self.artifact, model)
            scores = scorer.columns(scorer.score(rows))[SCORE].to_numpy()
        except ValueError:  # an input that a logged request did not have: it fails on all of them
            scores = np.full(rows.height, np.nan)
        finite = [float(score) if np.isfinite(score) else None for score in scores]
        return pa.table({"_row": block["_row"], "score": pa.array(finite, pa.float64())})
