"""A target of several named classes, from rows in the lake to predictions, with weights and a correction that came late."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from flows.build_features import build_features
from flows.explain import explain
from flows.score import score
from flows.settings import Settings
from flows.train import train
from perennial.datadocs.features import features_path
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions, ship_segment
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.tables import ensure_table, read_snapshot
from perennial.rules.scoring import class_matrix
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.keeper import Serving
from ray_jobs.serve.rows import read_rows

FILE = '''
from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import At, Files, Label, Pipeline, Promotion, TabularModel, UtcMicroseconds


class Parcel(pa.DataFrameModel):
    """Grain: one parcel."""

    parcel_id: int
    sent_at: UtcMicroseconds
    weight_kg: float = pa.Field(nullable=True)
    city: str


class Outcome(pa.DataFrameModel):
    """Grain: one parcel that came to an end."""

    parcel_id: int
    ended_at: UtcMicroseconds
    outcome: str
    value_eur: float


pipeline = Pipeline(
    name="parcels",
    sources=[
        Files("parcels", "parcels/*.csv", contract=Parcel, key=["parcel_id"], event_time="sent_at", known=At("sent_at")),
        Files("outcomes", "outcomes/*.csv", contract=Outcome, key=["parcel_id"], event_time="ended_at", known=At("ended_at")),
    ],
    entity="parcels",
    label=Label("outcome", pl.col("outcome"), source="outcomes", weight=pl.col("value_eur")),
    model=TabularModel("multiclass", hidden=(32, 16), members=4, epochs=2, batch_rows=128, class_weight="balanced"),
    promotion=Promotion(holdout=timedelta(days=5), minimum_rows=100),
)
'''
START = datetime(2024, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=40)
COUNT = 1_200


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "parcels.py").write_text(FILE)
    return folder


def parcels() -> list[dict[str, Any]]:
    """Heavy ones are late, some from Oslo lost, the rest in time."""
    generator = np.random.default_rng(8)
    rows = []
    for number in range(COUNT):
        weight, city = float(generator.gamma(2, 3)), str(generator.choice(["Oslo", "Rome"]))
        outcome = "lost" if city == "Oslo" and weight < 3 else "late" if weight > 7 else "in time"
        sent = START + number * timedelta(minutes=36)
        rows.append({"parcel_id": number, "sent_at": sent, "weight_kg": weight, "city": city, "outcome": outcome})
    return rows


def remember(lake: Lake, pipelines: Path, source: str, rows: list[dict[str, Any]], batch: str) -> None:
    declared = load_pipeline("parcels", pipelines)
    identifier, schema = raw_table(lake, "parcels", source), raw_schema(declared.source(source))
    ensure_table(lake, identifier, schema)
    origin = {"_source": source, "_batch_id": batch, "_committed_at": AS_OF, "_contract_version": "1"}
    named = [{**origin, "_position": f"{batch}#{number}", **row} for number, row in enumerate(rows)]
    append_once(lake, identifier, pa.Table.from_pylist(named, schema), batch)


def land(lake: Lake, pipelines: Path) -> None:
    """Parcels and how they ended; then corrections: of what was known when it was predicted, and of an outcome."""
    rows = parcels()
    hour, day = timedelta(hours=1), timedelta(days=1)
    sent = [{**{k: v for k, v in row.items() if k != "outcome"}, "_known_at": row["sent_at"]} for row in rows]
    remember(lake, pipelines, "parcels", sent, "first")
    ended = [
        {"parcel_id": row["parcel_id"], "ended_at": row["sent_at"] + day, "outcome": row["outcome"],
         "value_eur": 10.0, "_known_at": row["sent_at"] + day}
        for row in rows
    ]  # fmt: skip
    remember(lake, pipelines, "outcomes", ended, "first")
    remember(
        lake,
        pipelines,
        "parcels",
        [{**row, "weight_kg": -1.0, "_known_at": row["_known_at"] + hour} for row in sent],
        "corrected",
    )
    remember(lake, pipelines, "outcomes", [{**ended[5], "outcome": "never", "_known_at": AS_OF + day}], "corrected")


def log_an_answer(lake: Lake, pipeline: Pipeline, version: ModelVersion) -> None:
    """Answer a request as a replica does, and bring its log into the table that batch scores are in."""
    answers = Answers(lake, pipeline)
    scorer = load_scorer(lake, "parcels", version.artifact_id, version.manifest_sha256, pipeline.model)
    serving = Serving(stage=cast(Any, None), version=version, scorer=scorer, tables={})
    row = {"parcel_id": 1, "sent_at": "2024-05-01T00:00:00Z", "weight_kg": 12.0, "city": "Rome"}
    asked = answers.read([read_rows(json.dumps({"rows": [row]}).encode(), 10, answers.schema)])
    computed = answers.compute(asked, serving, AS_OF)
    ship_segment(lake, "parcels", "one", answers.to_log(computed, scorer.score(computed), serving, "one", AS_OF, 1.0))
    ship_segment(lake, "parcels", "two", answers.to_log(computed, None, serving, "two", AS_OF, 1.0, "canary", "broken"))
    assert commit_predictions(lake, "parcels") == 2


@pytest.mark.timeout(400)
def test_named_classes_go_the_whole_way(settings: Settings, lake: Lake, pipelines: Path) -> None:
    land(lake, pipelines)
    build_features("parcels", as_of=AS_OF, settings=settings)
    features = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("parcels", "features")))).sort("parcel_id")
    assert features["outcome"].to_list() == [row["outcome"] for row in parcels()], "an outcome corrected after as_of"
    assert features["weight_kg"].to_list() == [row["weight_kg"] for row in parcels()], "corrected after the prediction"
    assert features["_label_weight"].unique().to_list() == [10.0]
    assert b"parcels.weight_kg" in lake.files().cat_file(lake.uri(features_path("parcels")))
    told = explain("parcels", {"parcel_id": 3}, as_of=AS_OF, settings=settings)
    assert told["weight_kg"] == features.row(by_predicate=pl.col("parcel_id") == 3, named=True)["weight_kg"]

    version = read_version(lake, "parcels", train("parcels", as_of=AS_OF, settings=settings))
    metrics = version.read_metrics()
    assert metrics["accuracy"]["value"] > 0.8
    assert metrics["log_loss"]["value"] < metrics["log_loss"]["constant"]

    start, end = START + timedelta(days=20), START + timedelta(days=24)
    rows = score("parcels", 1, start, end, as_of=AS_OF, settings=settings)
    predictions = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("parcels", "predictions"))))
    assert predictions.height == rows > 0
    assert set(predictions["predicted"]) <= {"in time", "late", "lost"}
    assert class_matrix(predictions["probabilities"]).sum(axis=1) == pytest.approx(1.0)
    log_an_answer(lake, load_pipeline("parcels", pipelines), version)
    logged = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("parcels", "predictions"))))
    assert logged.filter(role="champion")["predicted"].to_list() == ["late"]

    truth = predictions.join(features.select("parcel_id", "outcome"), on="parcel_id")
    assert (truth["outcome"] == truth["predicted"]).to_numpy().mean() > 0.8
