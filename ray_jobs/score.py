"""Batch scoring: rows of a table, a snapshot or a window through joins, features and a version's model, into a table, once.

rows (known by as_of) ─► blocks ─► features and scores, one callable on Ray ─► data files ─► one commit
"""

import hashlib
import json
import re
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
from perennial.lakehouse.tables import Identifier, current_snapshot_id, ensure_table, read_columns, write_files
from perennial.rules.features import compute_features, feature_code_hash, known_at
from perennial.rules.scoring import SCORE_COLUMNS, Scorer
from perennial.spec import Pipeline, load_pipeline
from perennial.spec.load import contract_columns

ROWS, INPUTS = "perennial.rows", "perennial.inputs"
ENTITY = ""  # among the snapshots: of the rows that are scored
INPUT_SNAPSHOT = "_input_snapshot_id"
_INTO = re.compile(r"predictions|scores(_[a-z0-9_]{1,50})?")
DIGEST = b"perennial.digest"  # in a scored block's metadata: of what its scores were computed from
SCORING_CPUS = 0.5  # a canary serves meanwhile on two cores


class ScoreRequest(BaseModel, frozen=True):
    """Which version is to score which rows, with what was known at `as_of`.

    Args:
        start, end: only rows whose event time lies in [start, end); None: no such bound.
        table: of the pipeline's namespace, with the entity's columns; None: the entity's raw table.
        snapshot_id: of that table; None: its current one.
        into: the pipeline's table for the scores: `predictions`, or `scores` and `scores_...`.
    """

    lake: Lake
    pipelines: Path
    pipeline: str
    version: int
    start: datetime | None = None
    end: datetime | None = None
    as_of: datetime
    table: str | None = None
    snapshot_id: int | None = None
    into: str = "predictions"
    block_rows: int = Field(50_000, ge=1)

    @property
    def source(self) -> Identifier | None:
        """Where rows come from that are not the entity's own."""
        return self.lake.table(self.pipeline, self.table) if self.table else None


class ScoreRefused(ValueError):
    """What was asked for cannot be scored; nothing was written."""


class Scored(BaseModel, frozen=True):
    """How many rows carry the version's batch scores; `already`: an earlier run had written them."""

    rows: int
    already: bool


def score(request: ScoreRequest) -> Scored:
    """Score rows once: what is scored again without new knowledge is not written again.

    The same question to the same snapshots is answered from the table's history; new snapshots that bring these rows
    nothing new are scored, found to be the same rows, and left out.

    Raises:
        ScoreRefused: the version needs other feature code, or the tables are not what they should be.
    """
    pipeline = load_pipeline(request.pipeline, request.pipelines)
    version = read_version(request.lake, request.pipeline, request.version)
    _check(request, pipeline, version)
    identifier = request.lake.table(request.pipeline, request.into)
    snapshots = _snapshots(request, pipeline)
    inputs = _inputs_hash(request, snapshots)
    if request.lake.catalog().table_exists(identifier):
        done = _scored_before(request.lake.catalog().load_table(identifier), inputs)
        if done is not None:
            return Scored(rows=done, already=True)
    blocks = _blocks(request, pipeline, snapshots[ENTITY])
    if not blocks:
        return Scored(rows=0, already=True)
    scored = ray.data.from_arrow(blocks).map_batches(
        ScoreBlock(request, version, ray.put(_known_tables(request, pipeline, snapshots)), snapshots[ENTITY]),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=SCORING_CPUS,
    )
    files: list[DataFile] = []
    digests: dict[int, str] = {}
    table: Table | None = None
    block: pa.Table
    for number, block in enumerate(scored.iter_batches(batch_format="pyarrow", batch_size=None)):
        table = table or ensure_table(request.lake, identifier, block.schema.remove_metadata())
        files += write_files(table, block, inputs, part=number)
        digests[block["row_index"][0].as_py()] = block.schema.metadata[DIGEST].decode()
    content = [request.version, str(request.start), str(request.end), sorted(digests.items())]
    content += [[request.table, request.into]] if request.table or request.into != "predictions" else []
    rows = sum(file.record_count for file in files)
    summary = {ROWS: str(rows), INPUTS: inputs}
    key = f"score/{request.pipeline}/{_sha256(content)}"
    committed = append_once(request.lake, identifier, files, key, summary=summary, lasting=True)
    return Scored(rows=rows, already=committed.already)


class ScoreBlock:
    """Entity rows in, scored rows out: features as training makes them, scores as the endpoint gives them."""

    def __init__(
        self,
        request: ScoreRequest,
        version: ModelVersion,
        tables: "ray.ObjectRef[dict[str, pl.DataFrame]]",
        snapshot_id: int | None,
    ) -> None:
        self.request, self.version, self.tables, self.snapshot_id = request, version, tables, snapshot_id

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = pl.from_arrow(block)
        assert isinstance(rows, pl.DataFrame)
        request = self.request
        pipeline, scorer = _load(request.lake, request.pipelines, self.version)
        source = pipeline.entity_source
        features = compute_features(pipeline, rows, ray.get(self.tables))
        identity = dict.fromkeys([*source.key, *([source.event_time] if source.event_time else [])])
        schema = prediction_schema(
            {name: features[name].to_arrow().type for name in identity},
            scorer.inputs,
            many_classes=bool(scorer.description.classes),
        ).append(pa.field(INPUT_SNAPSHOT, pa.int64()))
        answered = features.with_columns(
            pl.lit(self.snapshot_id, pl.Int64).alias(INPUT_SNAPSHOT),
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
        scored = answered.select(schema.names).to_arrow().cast(schema)
        return scored.replace_schema_metadata({DIGEST: _content_hash(scored)})  # here, where blocks are at once


_loaded: dict[tuple[str, ...], tuple[Pipeline, Scorer]] = {}


def _load(lake: Lake, pipelines: Path, version: ModelVersion) -> tuple[Pipeline, Scorer]:
    """Once per worker: a worker scores many blocks, and loading with the golden rows costs as much as some of them."""
    artifact = (version.pipeline, version.artifact_id, version.manifest_sha256)
    key = (lake.environment, str(pipelines), version.feature_code_hash, *artifact)
    if key not in _loaded:
        _loaded.clear()  # of one version at a time
        pipeline = load_pipeline(version.pipeline, pipelines)
        _loaded[key] = pipeline, load_scorer(lake, *artifact, pipeline.model)
    return _loaded[key]


def _check(request: ScoreRequest, pipeline: Pipeline, version: ModelVersion) -> None:
    code = feature_code_hash(pipeline)
    if version.feature_code_hash != code:
        raise ScoreRefused(
            f"version {version.version} of {pipeline.name} was trained with feature code {version.feature_code_hash}, and "
            f"pipelines/{pipeline.name}.py is {code} here: its scores would be of other features. Nothing was written. Check "
            "out the revision that it was trained with, or score with a version of today's."
        )
    if not _INTO.fullmatch(request.into):
        raise ScoreRefused(
            f"into={request.into!r} must be 'predictions', 'scores' or 'scores_' and a name; nothing was written."
        )
    if request.source is None:
        return
    if not request.lake.catalog().table_exists(request.source):
        raise ScoreRefused(f"there is no table {'.'.join(request.source)}; nothing was written.")
    there = request.lake.catalog().load_table(request.source).schema().column_names
    missing = sorted(set(_wanted(pipeline)) - set(there))
    if missing:
        raise ScoreRefused(
            f"{'.'.join(request.source)} has no columns {missing}, which the features of {pipeline.name} read; it has "
            f"{sorted(there)}. Nothing was written."
        )


def _wanted(pipeline: Pipeline) -> dict[str, pl.DataType]:
    """Of a row that is scored and was never ingested: the entity's columns but for the label's."""
    columns = dict(contract_columns(pipeline.entity_source))
    hidden = set() if pipeline.label.source else set(pipeline.label.expression.meta.root_names())
    return {name: dtype for name, dtype in columns.items() if name not in hidden}


def _blocks(request: ScoreRequest, pipeline: Pipeline, snapshot_id: int | None) -> list[pa.Table]:
    """The rows known by `as_of`, in the order of event time and key, cut to blocks."""
    source = pipeline.entity_source
    if request.source is None:
        known = read_moments(request.lake, pipeline, request.as_of, snapshot_id)
    else:
        wanted = pl.DataFrame(schema=_wanted(pipeline)).to_arrow().schema
        rows = pl.from_arrow(read_columns(request.lake, request.source, wanted, snapshot_id))
        assert isinstance(rows, pl.DataFrame)
        known = known_at(source, rows.cast(_wanted(pipeline)), request.as_of)  # type: ignore[arg-type]
    if source.event_time and request.start:
        known = known.filter(pl.col(source.event_time) >= request.start)
    if source.event_time and request.end:
        known = known.filter(pl.col(source.event_time) < request.end)
    rows = known.sort(source.event_time or source.key[0], *source.key)
    numbered = rows.with_columns(row_index=pl.int_range(pl.len(), dtype=pl.Int32))
    return [part.to_arrow() for part in numbered.iter_slices(request.block_rows)]


def _known_tables(
    request: ScoreRequest, pipeline: Pipeline, snapshots: dict[str, int | None]
) -> dict[str, pl.DataFrame]:
    return {name: read_log(request.lake, pipeline, name, request.as_of, snapshots[name]) for name in pipeline.looked_up}


def _snapshots(request: ScoreRequest, pipeline: Pipeline) -> dict[str, int | None]:
    """The snapshot of every table that is read: all of them are pinned before the first row is."""
    entity = request.source or raw_table(request.lake, pipeline.name, pipeline.entity_source.name)
    pinned = {
        name: current_snapshot_id(request.lake, raw_table(request.lake, pipeline.name, name))
        for name in pipeline.looked_up
    }
    return {**pinned, ENTITY: request.snapshot_id or current_snapshot_id(request.lake, entity)}


def _inputs_hash(request: ScoreRequest, snapshots: dict[str, int | None]) -> str:
    fields = {"pipeline", "version", "start", "end", "as_of", "table", "into"}
    return _sha256([request.model_dump(mode="json", include=fields), snapshots])


def _scored_before(table: Table, inputs: str) -> int | None:
    for snapshot in table.metadata.snapshots:
        summary = snapshot.summary.additional_properties if snapshot.summary else {}
        if summary.get(INPUTS) == inputs:
            return int(summary[ROWS])
    return None


def _content_hash(block: pa.Table) -> str:
    told = {"answered_at", INPUT_SNAPSHOT, "error", "weight", *SCORE_COLUMNS}
    rows = pl.from_arrow(block.select([name for name in block.column_names if name not in told]))
    assert isinstance(rows, pl.DataFrame)
    return hashlib.sha256(rows.write_csv(include_header=True).encode()).hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
