"""The loop once round, in this process, on real flights: what training, batch scoring and the endpoint see is one thing."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from deployments.demo import data
from deployments.demo.client import month_start
from flows.build_features import build_features
from flows.ingest import ingest
from flows.promote import promote
from flows.roll_out import roll_out
from flows.score import score
from flows.settings import ROOT, Settings
from flows.train import train
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import champion
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.features import input_names
from perennial.spec import Pipeline, load_pipeline
from tests.conftest import S3
from tests.readers import daft_rows

ROWS = 10_000
KEY = ["carrier", "flight", "scheduled_at"]
START, END = month_start(1), month_start(2)


@dataclass
class Round:
    """What one round of the loop left behind: the same rows by three ways, in one order."""

    lake: Lake
    pipeline: Pipeline
    version: int
    trained: pl.DataFrame
    batch: pl.DataFrame
    served: pl.DataFrame
    client: httpx.Client


@pytest.fixture
def once_round(settings: Settings, s3: S3, pipelines: Path) -> Iterator[Round]:
    """Ingest 10,000 flights, build, train, promote, roll out, score in bulk, and ask the endpoint for the same rows."""
    from ray import serve

    shutil.copy(ROOT / "pipelines" / "flights.py", pipelines)
    (s3.secrets_dir / "serve_token").write_text("sesame")
    lake, pipeline = settings.lake, load_pipeline("flights", pipelines)
    flights = data.month_of_flights(1).gather_every(2).head(ROWS)
    data.land_dimensions(lake)
    data.land_schedule(lake, 1)
    data.land(lake, "flights/2013-01.csv", flights)  # in place of the whole month
    data.land_arrivals(lake, 1)

    assert ingest("flights", as_of=START, settings=settings)["flights"] == ROWS
    build_features("flights", END, settings=settings)
    version = train("flights", END, "a test", settings=settings)
    assert promote("flights", version, END, settings=settings) == "promote"
    roll_out("flights", version, END, settings=settings)
    assert score("flights", version, START, END, END, settings=settings) == ROWS

    url = f"http://{settings.serve_host}:{settings.serve_port}/v2/models/flights"
    with httpx.Client(base_url=url, headers={"authorization": "Bearer sesame"}, timeout=60) as client:
        parts = [_ask(client, part) for part in flights.iter_slices(2_500)]
        yield Round(
            lake=lake,
            pipeline=pipeline,
            version=version,
            trained=_table(lake, "features").sort(KEY),
            batch=_table(lake, "predictions").filter(role="batch").sort(KEY),
            served=pl.concat(parts).sort(KEY),
            client=client,
        )
    serve.shutdown()  # type: ignore[no-untyped-call]


def _table(lake: Lake, name: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("flights", name))))


def _ask(client: httpx.Client, rows: pl.DataFrame) -> pl.DataFrame:
    text = rows.with_columns(pl.col("scheduled_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()
    answer = client.post("/predict", params={"features": "true"}, json={"rows": text})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    features = pl.DataFrame(body["features"], infer_schema_length=None)
    return pl.concat([rows.select(KEY), features, pl.DataFrame({"score": body["scores"]})], how="horizontal")


def test_training_batch_and_endpoint_see_the_same_features_and_give_the_same_scores(once_round: Round) -> None:
    inputs = list(input_names(once_round.pipeline))
    assert len(once_round.trained) == len(once_round.batch) == len(once_round.served) == ROWS
    for rows in (once_round.batch, once_round.served):
        same = rows.select([*KEY, *inputs]).cast(once_round.trained.select([*KEY, *inputs]).schema)  # type: ignore[arg-type]
        for name in [*KEY, *inputs]:
            assert same[name].equals(once_round.trained[name], null_equal=True), name
    difference = np.abs(once_round.served["score"].to_numpy() - once_round.batch["score"].to_numpy())
    assert difference.max() < 1e-6

    # what the loop left behind, on the same round: it costs a minute to make
    serving = champion(once_round.lake, "flights")
    assert serving is not None
    assert serving.version == once_round.version
    kinds = set(read_decisions(once_round.lake, "flights")["kind"])
    assert {"promotion", "rollout"} <= kinds
    features = once_round.lake.table("flights", "features")
    assert daft_rows(once_round.lake, features).sort(KEY).equals(once_round.trained)
    docs = once_round.client.get("/docs")
    assert "://" not in docs.text.replace("http://www.w3.org", "")
    assert once_round.client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    joined = {n: v for n, v in once_round.served.row(0, named=True).items() if n in inputs}
    assert joined["temperature_f"] is not None
    assert once_round.trained["_known_at"].max() <= END - timedelta(hours=2)  # type: ignore[operator]
