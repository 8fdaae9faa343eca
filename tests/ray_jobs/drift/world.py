"""A small city's rides to watch: a pipeline's file, a registered version, and windows answered well or badly."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
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
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import prediction_schema
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.registry import ModelVersion, register_version
from perennial.lakehouse.scorers import dump_tensors
from perennial.lakehouse.stages import champion_stage, make_champion
from perennial.lakehouse.tables import ensure_table
from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.features import compute_features, feature_code_hash, input_names
from perennial.rules.metrics import evaluate
from perennial.rules.network import TabularNet
from perennial.rules.scoring import Scorer, golden_rows
from perennial.rules.tabular import fit_preprocessing
from perennial.spec import Pipeline, load_pipeline

MAY, JUNE, JULY = (datetime(2024, month, 1, tzinfo=UTC) for month in (5, 6, 7))
NOISE = 0.35  # between score and label: how good the model is
FILE = """
import pandera.polars as pa
import polars as pl

from perennial.spec import At, Before, Files, Label, Lookup, Monitoring, Pipeline, TabularModel, UtcMicroseconds


class Ride(pa.DataFrameModel):
    ride: int
    started_at: UtcMicroseconds
    distance_km: float = pa.Field(nullable=True)
    zone: str


class Zone(pa.DataFrameModel):
    zone: str
    stops: int


class Outcome(pa.DataFrameModel):
    ride: int
    ended_at: UtcMicroseconds
    delay: float


def features(rides: pl.LazyFrame) -> pl.LazyFrame:
    return rides.select("distance_km", "zone", hour=pl.col("started_at").dt.hour(), stops="zones_stops")


pipeline = Pipeline(
    name="rides",
    sources=[
        Files("rides", "rides/*.csv", contract=Ride, key=["ride"], event_time="started_at", known=Before("started_at", hours=1)),
        Files("zones", "zones/*.csv", contract=Zone, key=["zone"]),
        Files("outcomes", "outcomes/*.csv", contract=Outcome, key=["ride"], known=At("ended_at")),
    ],
    entity="rides",
    joins=[Lookup("zones", on="zone")],
    features=features,
    label=Label("late", LABEL, source="outcomes"),
    model=TabularModel("TASK", hidden=(8,)),
    monitoring=Monitoring(minimum_rows=300, sample_rows=600),
)
"""
LABELS = {"binary": 'pl.col("delay") > 0.5', "regression": 'pl.col("delay")'}


def write_pipeline(folder: Path, task: str = "binary") -> Path:
    """The folder with the file of the pipeline `rides`."""
    folder.mkdir(exist_ok=True)
    (folder / "rides.py").write_text(
        FILE.replace("LABEL)", LABELS[task] + ")").replace("LABEL,", LABELS[task] + ",").replace("TASK", task)
    )
    return folder


def rides(start: datetime, rows: int, shift: float = 0.0, first: int = 0, seed: int = 1) -> pl.DataFrame:
    """Rides of thirty days; a shift makes them longer, in standard deviations."""
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "ride": np.arange(first, first + rows),
            "started_at": [start + timedelta(days=30) * (i / rows) for i in range(rows)],
            "distance_km": random.normal(shift, 1, rows),
            "zone": random.choice(["old", "new", "port"], rows),
        }
    ).with_columns(pl.col("started_at").cast(pl.Datetime("us", "UTC")))


def land(lake: Lake, pipeline: Pipeline, source: str, rows: pl.DataFrame, known_at: pl.Expr) -> None:
    """Rows in `raw`, as ingest would have brought them."""
    schema = raw_schema(pipeline.source(source))
    table = rows.with_columns(_known_at=known_at.cast(pl.Datetime("us", "UTC"))).to_arrow()
    ensure_table(lake, raw_table(lake, pipeline.name, source), schema)
    append_once(
        lake,
        raw_table(lake, pipeline.name, source),
        table,
        f"{source}/{rows['ride'][0] if 'ride' in rows.columns else 0}",
    )


def land_rides(lake: Lake, pipeline: Pipeline, rows: pl.DataFrame) -> None:
    """Rides known an hour before they start, and the zones they lie in."""
    zones = pl.DataFrame({"zone": ["old", "new", "port"], "stops": [9, 4, 2]})
    land(lake, pipeline, "zones", zones, pl.lit(MAY - timedelta(days=99)))
    land(lake, pipeline, "rides", rows, pl.col("started_at") - timedelta(hours=1))


def land_outcomes(lake: Lake, pipeline: Pipeline, rows: pl.DataFrame, scores: np.ndarray, noise: float) -> None:
    """What came of rides: the score and noise; the more noise, the worse the model that gave the scores."""
    delay = scores + np.random.default_rng(9).normal(0, noise, rows.height)
    outcomes = rows.select("ride", ended_at=pl.col("started_at") + timedelta(hours=2), delay=pl.Series(delay))
    land(lake, pipeline, "outcomes", outcomes, pl.col("ended_at"))


def inputs_of(pipeline: Pipeline, rows: pl.DataFrame) -> pl.DataFrame:
    """The model's inputs, by the one function that makes them."""
    zones = pl.DataFrame({"zone": ["old", "new", "port"], "stops": [9, 4, 2]})
    known = zones.with_columns(_known_at=pl.lit(MAY - timedelta(days=99)).cast(pl.Datetime("us", "UTC")))
    moments = rows.with_columns(_known_at=pl.col("started_at") - timedelta(hours=1))
    return compute_features(pipeline, moments, {"zones": known})


def register(lake: Lake, pipeline: Pipeline, seed: int = 1) -> ModelVersion:
    """A version with drawn weights that serves from now on, its reference, and the promise that `NOISE` makes."""
    rows = inputs_of(pipeline, rides(MAY - timedelta(days=60), 3_000, seed=seed))
    preprocessing = fit_preprocessing(rows, input_names(pipeline))
    architecture = Architecture(hidden=(8,), dropout=0.0)
    torch.manual_seed(seed)
    weights = {name: value.clone() for name, value in TabularNet(preprocessing, architecture).state_dict().items()}
    description = ModelDescription(task=pipeline.model.task, architecture=architecture, preprocessing=preprocessing)
    scorer = Scorer(description, weights)
    files = {
        WEIGHTS: dump_tensors(weights),
        MODEL: description.model_dump_json().encode(),
        METRICS: dump_json({}),
        GOLDEN: dump_parquet(golden_rows(rows, scorer)),
        REFERENCE: dump_parquet(rows.with_columns(score=drawn_scores(rows.height))),
    }
    name = f"seed-{seed}"
    facts = {
        "training_key": name,
        "artifact_id": name,
        "row_hash": "",
        "contract_hash": "",
        "feature_code_hash": feature_code_hash(pipeline),
        "lock_hash": "",
    }
    counts = {
        "training_rows": rows.height,
        "validation_rows": 0,
        "holdout_rows": 0,
        "features_snapshot_id": 1,
        "seed": seed,
    }
    times = dict.fromkeys(["as_of", "train_start", "holdout_start", "holdout_end", "created_at"], MAY)
    version = ModelVersion(
        pipeline=pipeline.name,
        manifest_sha256=write_artifact(lake, pipeline.name, name, files),
        params="{}",
        metrics=json.dumps({pipeline.metric: {"value": promise(pipeline)}}),
        reason="a test",
        **facts,
        **counts,
        **times,
    )
    return serve(lake, register_version(lake, version))


def serve(lake: Lake, version: ModelVersion, as_of: datetime = MAY) -> ModelVersion:
    """Make the version the champion."""
    standing = champion_stage(lake, version.pipeline)
    generation = standing.generation if standing else 0
    make_champion(
        lake,
        version.pipeline,
        version.version,
        expected_generation=generation,
        as_of=as_of,
        reason="a test",
        decision_id=f"d{generation}",
    )
    return version


def drawn_scores(rows: int) -> np.ndarray:
    """Scores as if a model had given them: anything between 0 and 1."""
    return np.random.default_rng(8).random(rows)


def promise(pipeline: Pipeline) -> float:
    """The metric of scores whose labels lie `NOISE` away."""
    scores = drawn_scores(20_000)
    delay = scores + np.random.default_rng(9).normal(0, NOISE, len(scores))
    truth = (delay > 0.5).astype(float) if pipeline.model.task == "binary" else delay
    return evaluate(pipeline.metric, truth, scores)


def answer(
    lake: Lake,
    pipeline: Pipeline,
    rows: pl.DataFrame,
    version: int,
    scores: np.ndarray,
    lost: str | None = None,
    role: str = "champion",
    request: str = "r",
) -> None:
    """Log the rows as answered by a version; `lost` names an input that came without values."""
    given = inputs_of(pipeline, rows)
    if lost:
        given = given.with_columns(pl.lit(None, given.schema[lost]).alias(lost))
    kinds = input_names(pipeline)
    schema = prediction_schema({name: given[name].to_arrow().type for name in ("ride", "started_at")}, kinds)
    answered = given.with_columns(
        request_id=pl.lit(request),
        row_index=pl.int_range(pl.len(), dtype=pl.Int32),
        score=pl.Series(scores, dtype=pl.Float64, strict=False),
        version=pl.lit(version),
        role=pl.lit(role),
        answered_at=pl.col("started_at"),
        latency_ms=pl.lit(1.0),
        error=pl.lit(None, pl.String),
        weight=pl.lit(1.0),
    )
    identifier = lake.table(pipeline.name, "predictions")
    ensure_table(lake, identifier, schema)
    append_once(
        lake,
        identifier,
        answered.select(schema.names).to_arrow().cast(schema),
        f"{role}/{version}/{request}/{rows['ride'][0]}",
    )


def answered_window(
    lake: Lake,
    pipeline: Pipeline,
    version: int,
    noise: float = NOISE,
    start: datetime = MAY,
    rows: int = 1_500,
    shift: float = 0.0,
    lost: str | None = None,
) -> None:
    """A month answered by a version, whose labels arrive two hours after each ride."""
    ridden = rides(start, rows, shift, first=int(start.timestamp()), seed=start.month)
    scores = drawn_scores(rows)
    answer(lake, pipeline, ridden, version, scores, lost)
    land_outcomes(lake, pipeline, ridden, scores, noise)


def load_rides(folder: Path) -> Pipeline:
    """The pipeline as the folder's file declares it."""
    return load_pipeline("rides", folder)
