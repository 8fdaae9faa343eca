"""Batch scoring: a window's rows through joins, features and a version's model, into `predictions`, once.

raw (known by as_of) ─► blocks ─► features and scores, one callable on Ray ─► data files ─► one commit
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import ray
from pydantic import BaseModel, Field
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import prediction_schema
from perennial.lakehouse.raw import raw_table, read_log, read_moments
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.tables import current_snapshot_id, ensure_table, write_files
from perennial.rules.features import compute_features
from perennial.rules.scoring import SCORE_COLUMNS
from perennial.spec import Pipeline, load_pipeline

ROWS, INPUTS = "perennial.rows", "perennial.inputs"
SCORING_CPUS = 0.5  # a canary serves meanwhile on two cores


class ScoreRequest(BaseModel, frozen=True):
    """Which version is to score which window, with the rows and tables known at `as_of`."""

    lake: Lake
    pipelines: Path
    pipeline: str
    version: int
    start: datetime
    end: datetime
    as_of: datetime
    block_rows: int = Field(50_000, ge=1)


class Scored(BaseModel, frozen=True):
    """How many rows of the window carry the version's batch scores; `already`: an earlier run had written them."""

    rows: int
    already: bool


def score(request: ScoreRequest) -> Scored:
    """Score a window once: what is scored again without new knowledge is not written again.

    The same question to the same snapshots is answered from the table's history; new snapshots that bring this window
    nothing new are scored, found to be the same rows, and left out.
    """
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    identifier = request.lake.table(request.pipeline, "predictions")
    inputs = _inputs_hash(request, pipeline)
    if request.lake.catalog().table_exists(identifier):
        done = _scored_before(request.lake.catalog().load_table(identifier), inputs)
        if done is not None:
            return Scored(rows=done, already=True)
    blocks = _blocks(request, pipeline)
    if not blocks:
        return Scored(rows=0, already=True)
    version = read_version(request.lake, request.pipeline, request.version)
    scored = ray.data.from_arrow(blocks).map_batches(
        ScoreBlock(request, version, ray.put(_known_tables(request, pipeline))),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=SCORING_CPUS,
    )
    files: list[DataFile] = []
    digests: dict[int, str] = {}
    block: pa.Table
    for number, block in enumerate(scored.iter_batches(batch_format="pyarrow", batch_size=None)):
        table = ensure_table(request.lake, identifier, block.schema)
        files += write_files(table, block, inputs, part=number)
        digests[block["row_index"][0].as_py()] = _content_hash(block)
    content = [request.version, str(request.start), str(request.end), sorted(digests.items())]
    rows = sum(file.record_count for file in files)
    summary = {ROWS: str(rows), INPUTS: inputs}
    key = f"score/{request.pipeline}/{_sha256(content)}"
    committed = append_once(request.lake, identifier, files, key, summary=summary, lasting=True)
    return Scored(rows=rows, already=committed.already)


class ScoreBlock:
    """Entity rows in, rows of `predictions` out: features as training makes them, scores as the endpoint gives them."""

    def __init__(
        self, request: ScoreRequest, version: ModelVersion, tables: "ray.ObjectRef[dict[str, pl.DataFrame]]"
    ) -> None:
        self.request, self.version, self.tables = request, version, tables

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = pl.from_arrow(block)
        assert isinstance(rows, pl.DataFrame)
        request = self.request
        pipeline = load_pipeline(request.pipeline, request.pipelines)
        source = pipeline.entity_source
        artifact = (request.pipeline, self.version.artifact_id, self.version.manifest_sha256)
        scorer = load_scorer(request.lake, *artifact, pipeline.model)
        features = compute_features(pipeline, rows, ray.get(self.tables))
        identity = dict.fromkeys([*source.key, *([source.event_time] if source.event_time else [])])
        schema = prediction_schema(
            {name: features[name].to_arrow().type for name in identity},
            scorer.inputs,
            many_classes=bool(scorer.description.classes),
        )
        answered = features.with_columns(
            request_id=pl.lit(f"score-v{request.version}"),
            row_index=rows["row_index"],
            **scorer.columns(scorer.score(features)),
            version=pl.lit(request.version),
            role=pl.lit("batch"),
            answered_at=pl.lit(request.as_of),
            latency_ms=pl.lit(None),
            error=pl.lit(None, pl.String),
            weight=pl.lit(1.0),
        )
        return answered.select(schema.names).to_arrow().cast(schema)


def _blocks(request: ScoreRequest, pipeline: Pipeline) -> list[pa.Table]:
    """The window's entity rows known by `as_of`, in the order of event time and key, cut to blocks."""
    source = pipeline.entity_source
    known = read_moments(request.lake, pipeline, request.as_of)
    if source.event_time:
        known = known.filter(pl.col(source.event_time).is_between(request.start, request.end, closed="left"))
    rows = known.sort(source.event_time or source.key[0], *source.key)
    numbered = rows.with_columns(row_index=pl.int_range(pl.len(), dtype=pl.Int32))
    return [part.to_arrow() for part in numbered.iter_slices(request.block_rows)]


def _known_tables(request: ScoreRequest, pipeline: Pipeline) -> dict[str, pl.DataFrame]:
    return {name: read_log(request.lake, pipeline, name, request.as_of) for name in pipeline.looked_up}


def _inputs_hash(request: ScoreRequest, pipeline: Pipeline) -> str:
    names = sorted({pipeline.entity_source.name, *pipeline.looked_up})
    snapshots = {
        name: current_snapshot_id(request.lake, raw_table(request.lake, pipeline.name, name)) for name in names
    }
    asked = request.model_dump(mode="json", include={"pipeline", "version", "start", "end", "as_of"})
    return _sha256([asked, snapshots])


def _scored_before(table: Table, inputs: str) -> int | None:
    for snapshot in table.metadata.snapshots:
        summary = snapshot.summary.additional_properties if snapshot.summary else {}
        if summary.get(INPUTS) == inputs:
            return int(summary[ROWS])
    return None


def _content_hash(block: pa.Table) -> str:
    told = {"answered_at", *SCORE_COLUMNS}
    rows = pl.from_arrow(block.select([name for name in block.column_names if name not in told]))
    assert isinstance(rows, pl.DataFrame)
    return hashlib.sha256(rows.write_csv(include_header=True).encode()).hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
