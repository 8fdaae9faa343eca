"""Build a pipeline's features as of a moment: every row as it could be predicted for, with the label as known now."""

import hashlib
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import ray
from pydantic import BaseModel

from perennial.lakehouse.commit import replace_once
from perennial.lakehouse.history import find_batch
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table, read_known, read_log, read_moments
from perennial.lakehouse.staging import stage_files, staged_files
from perennial.lakehouse.tables import current_snapshot_id, ensure_table, snapshot_summary, write_files
from perennial.rules.features import compute_features, pipeline_code_hash
from perennial.spec.load import contract_columns, load_pipeline
from perennial.spec.pipeline import Pipeline

BLOCK_ROWS = 50_000
KNOWN = pl.Datetime("us", "UTC")


class BuildRequest(BaseModel, frozen=True):
    """Which features, as of when. Rows and labels that became known later are not looked at."""

    lake: Lake
    pipeline: str
    as_of: datetime
    pipelines: Path


class BuiltFeatures(BaseModel, frozen=True):
    """A snapshot of the features table and what it was built from."""

    snapshot_id: int
    rows: int
    labelled_rows: int
    inputs: dict[str, int]
    already: bool


class NothingToBuild(LookupError):
    """The entity's raw table has no row that was known by the moment."""


def build(request: BuildRequest) -> BuiltFeatures:
    """Replace the features table by the features as of `request.as_of`, once: a rerun finds its own snapshot.

    Raises:
        NothingToBuild: there is no row yet; the message names the flow that brings some.
    """
    lake, pipeline = request.lake, load_pipeline(request.pipeline, request.pipelines)
    inputs = {
        source.name: current_snapshot_id(lake, raw_table(lake, pipeline.name, source.name)) or 0
        for source in pipeline.sources
    }
    identifier = lake.table(pipeline.name, "features")
    table = ensure_table(lake, identifier, features_schema(pipeline))
    words = (request.as_of.isoformat(), pipeline_code_hash(pipeline), *(f"{k}={v}" for k, v in sorted(inputs.items())))
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    done = find_batch(table, key)
    if done is not None:
        summary = snapshot_summary(table, done)
        rows, labelled = int(summary["perennial.rows"]), int(summary["perennial.labelled-rows"])
        return BuiltFeatures(snapshot_id=done, rows=rows, labelled_rows=labelled, inputs=inputs, already=True)

    labelled_rows = label_rows(lake, pipeline, request.as_of, inputs)
    if labelled_rows.is_empty():
        raise NothingToBuild(
            f"pipeline {pipeline.name}: no row of {pipeline.entity_source.name!r} was known by {request.as_of.isoformat()}. "
            f"Nothing was written. Run ingest for it first, or choose a later as_of."
        )
    manifests = _write(request, pipeline, labelled_rows, inputs, key)
    counts = {"rows": len(labelled_rows), "labelled-rows": labelled_rows[pipeline.label.name].count()}
    committed = replace_once(
        lake,
        identifier,
        staged_files(table, manifests),
        key,
        summary={
            **{f"perennial.{name}": str(count) for name, count in counts.items()},
            **{f"perennial.input.{source}": str(snapshot) for source, snapshot in inputs.items()},
            "perennial.as-of": request.as_of.isoformat(),
            "perennial.code": pipeline_code_hash(pipeline),
        },
    )
    return BuiltFeatures(
        snapshot_id=committed.snapshot_id,
        rows=counts["rows"],
        labelled_rows=counts["labelled-rows"],
        inputs=inputs,
        already=committed.already,
    )


def features_schema(pipeline: Pipeline) -> pa.Schema:
    """Key, event time, `_known_at`, the model's inputs, the label (null until known) and `_label_known_at`."""
    columns = contract_columns(pipeline.entity_source)
    empty = pl.DataFrame(schema={**columns, "_known_at": KNOWN})
    logs = {
        name: pl.DataFrame(schema={**contract_columns(pipeline.source(name)), "_known_at": KNOWN})
        for name in pipeline.looked_up
    }
    computed = compute_features(pipeline, empty, logs)
    return (
        computed.with_columns(
            pl.lit(None, pl.Float64).alias(pipeline.label.name), pl.lit(None, KNOWN).alias("_label_known_at")
        )
        .to_arrow()
        .schema
    )


def label_rows(lake: Lake, pipeline: Pipeline, as_of: datetime, inputs: dict[str, int]) -> pl.DataFrame:
    """The entity's rows as each was predicted for, with the label as far as it was known by `as_of`."""
    entity, label = pipeline.entity_source, pipeline.label
    rows = read_moments(lake, pipeline, as_of, inputs[entity.name] or None)
    value = label.expression.cast(pl.Float64).alias(label.name)
    source = pipeline.label_source
    known = read_known(lake, pipeline, source.name, as_of, inputs[source.name] or None)
    labels = known.select(*entity.key, value, pl.col("_known_at").alias("_label_known_at"))
    # The label may carry the name of the column it is read from: the row's own value is the one known too early.
    rows = rows.drop(label.name, strict=False)
    return rows.join(labels, on=list(entity.key), how="left", maintain_order="left")


def _write(
    request: BuildRequest, pipeline: Pipeline, rows: pl.DataFrame, inputs: dict[str, int], key: str
) -> list[str]:
    tables = {
        name: read_log(request.lake, pipeline, name, request.as_of, inputs[name] or None) for name in pipeline.looked_up
    }
    shared = ray.put(tables)  # each worker node holds the joined tables once
    if pipeline.entity_source.event_time:
        rows = rows.sort(pipeline.entity_source.event_time, maintain_order=True)
    blocks = [part.to_arrow() for part in rows.iter_slices(BLOCK_ROWS)]
    done = ray.data.from_arrow(blocks).map_batches(
        BuildBlock(request, shared, key), batch_format="pyarrow", batch_size=None, num_cpus=0.5
    )
    return [row["manifest"] for row in done.take_all()]


class BuildBlock:
    """Joins, computes and writes one block of rows; yields the manifest of the files it wrote."""

    def __init__(self, request: BuildRequest, tables: "ray.ObjectRef[dict[str, pl.DataFrame]]", key: str) -> None:
        self.request, self.tables, self.key = request, tables, key

    def __call__(self, block: pa.Table) -> pa.Table:
        """See the class."""
        lake = self.request.lake
        pipeline = load_pipeline(self.request.pipeline, self.request.pipelines)
        rows = pl.DataFrame(pl.from_arrow(block))
        computed = compute_features(pipeline, rows, ray.get(self.tables))
        labels = rows.select(pipeline.label.name, "_label_known_at")
        table = ensure_table(lake, lake.table(pipeline.name, "features"), features_schema(pipeline))
        files = write_files(table, pl.concat([computed, labels], how="horizontal").to_arrow(), self.key)
        return pa.table({"manifest": [stage_files(lake, table, files, self.key)]})
