"""A small world to serve from: tables as ingest leaves them, and models that were never trained but are registered."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import torch

from perennial.lakehouse.artifacts import (
    GOLDEN,
    METRICS,
    MODEL,
    REFERENCE,
    WEIGHTS,
    dump_json,
    dump_parquet,
    write_artifact,
)
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.decisions import Decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import log_schema, raw_table
from perennial.lakehouse.registry import ModelVersion, register_version
from perennial.lakehouse.scorers import dump_tensors
from perennial.lakehouse.tables import ensure_table, read_columns
from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.features import compute_features, feature_code_hash, input_names, known_at
from perennial.rules.network import TabularNet
from perennial.rules.scoring import Scorer, golden_rows
from perennial.rules.tabular import FIRST_VALUE_SLOT, fit_preprocessing
from perennial.spec import Pipeline

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def fill_raw(lake: Lake, pipeline: Pipeline, rows: int = 400) -> dict[str, pl.DataFrame]:
    """Trips, weather and stations as `ingest` would have landed them."""
    hour = timedelta(hours=1)
    stations = ["north", "south", "east"]
    tables = {
        "trips": pl.DataFrame(
            {
                "trip": range(rows),
                "station": [stations[i % 3] for i in range(rows)],
                "start_at": [NOON + i * timedelta(minutes=7) for i in range(rows)],
                "distance_km": [0.5 + (i * 37 % 100) / 10 for i in range(rows)],
                "member": [i % 2 == 0 for i in range(rows)],
                "minutes": [float(i % 40) for i in range(rows)],
                "note": [None if i % 4 else f"note {i}" for i in range(rows)],
            }
        ),
        "weather": pl.DataFrame(
            [
                {"station": s, "observed_at": NOON + (h - 6) * hour, "rain_mm": float((h * 7 + n) % 5)}
                for h in range(72)
                for n, s in enumerate(stations)
            ]
        ),
        "stations": pl.DataFrame({"station": stations, "docks": [12, 20, 7]}),
    }
    landed = {}
    for name, table in tables.items():
        instant = pl.Datetime("us", "UTC")
        table = table.with_columns(
            pl.col(pl.Datetime).cast(instant), pl.lit(NOON - 30 * 24 * hour, instant).alias("_known_at")
        )
        landed[name] = table
        ensure_table(lake, lake.table(pipeline.name, f"raw_{name}"), table.to_arrow().schema)
        append_once(lake, lake.table(pipeline.name, f"raw_{name}"), table.to_arrow(), f"world/{name}")
    return landed


def register_model(
    lake: Lake,
    pipeline: Pipeline,
    seed: int,
    *,
    code_hash: str | None = None,
    golden_off: float = 0.0,
    artifact: str | None = None,
    fails_on: str | None = None,
    hidden: tuple[int, ...] = (16,),
    members: int = 1,
) -> int:
    """Register a promoted version, its weights drawn from `seed`; its golden rows are wrong by `golden_off`.

    Args:
        artifact: tells versions of the same seed apart; `fails_on`: a station that it has no score for.
    """
    raw = {s.name: _read(lake, pipeline, s.name) for s in pipeline.sources}
    entity = pipeline.entity_source
    known = known_at(entity, raw[entity.name].drop("_known_at"), as_of=NOON)
    features = compute_features(pipeline, known, {j.source: raw[j.source] for j in pipeline.joins})
    preprocessing = fit_preprocessing(features, input_names(pipeline))
    architecture = Architecture(hidden=hidden, dropout=0.0, members=members)
    torch.manual_seed(seed)
    task = pipeline.model.task
    classes = ("long", "middling", "short") if task == "multiclass" else ()
    network = TabularNet(preprocessing, architecture, outputs=len(classes) or 1)
    weights = {n: t.clone() for n, t in network.state_dict().items()}
    description = ModelDescription(task=task, architecture=architecture, preprocessing=preprocessing, classes=classes)
    if fails_on:
        slot = preprocessing.categories[0].vocabulary.index(fails_on) + FIRST_VALUE_SLOT
        weights["embeddings.0.weight"][slot] = float("nan")
        features = features.filter(pl.col("station") != fails_on)  # what training happened not to see
    golden = golden_rows(features, Scorer(description, weights))
    if golden_off:
        golden = golden.with_columns(pl.col("score") + golden_off)
    files = {
        WEIGHTS: dump_tensors(weights),
        MODEL: description.model_dump_json().encode(),
        METRICS: dump_json({}),
        GOLDEN: dump_parquet(golden),
        REFERENCE: dump_parquet(golden),
    }
    artifact_id = artifact or f"seed-{seed}"
    manifest = write_artifact(lake, pipeline.name, artifact_id, files)
    version = register_version(
        lake,
        ModelVersion(
            pipeline=pipeline.name,
            training_key=artifact_id,
            artifact_id=artifact_id,
            manifest_sha256=manifest,
            features_snapshot_id=1,
            training_rows=features.height,
            validation_rows=0,
            holdout_rows=0,
            row_hash="",
            contract_hash="",
            feature_code_hash=code_hash or feature_code_hash(pipeline),
            seed=seed,
            params="{}",
            metrics=json.dumps({}),
            lock_hash="",
            reason="a test",
            as_of=NOON,
            train_start=NOON,
            holdout_start=NOON,
            holdout_end=NOON,
            created_at=NOON,
        ),
    )
    promote(lake, pipeline.name, version.version)
    return version.version


def promote(lake: Lake, pipeline: str, version: int) -> None:
    """Record that the version may serve."""
    decision = Decision(
        decision_id=f"{pipeline}-v{version}",
        pipeline=pipeline,
        kind="promotion",
        version=version,
        verdict="promote",
        reason="a test",
        as_of=NOON,
    )
    record_decision(lake, decision)


def _read(lake: Lake, pipeline: Pipeline, name: str) -> pl.DataFrame:
    schema = log_schema(pipeline.source(name), "_known_at")
    rows = pl.from_arrow(read_columns(lake, raw_table(lake, pipeline.name, name), schema))
    assert isinstance(rows, pl.DataFrame)
    return rows
