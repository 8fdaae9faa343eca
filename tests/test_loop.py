"""The loop once round, in this process, on real flights: what training, batch scoring and the endpoint see is one thing."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Crashed

from deployments.demo import data
from deployments.demo.client import month_start
from flows.build_features import build_features
from flows.ingest import ingest
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.roll_out import roll_out
from flows.score import score
from flows.settings import ROOT, Settings
from flows.train import train
from perennial.datadocs.card import card_path
from perennial.lakehouse.decisions import Decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import champion
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.evidence import Evidence
from perennial.rules.features import input_names
from perennial.spec import Pipeline, load_pipeline
from tests.conftest import S3, empty_lake, settings_for
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
    settings: Settings


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """Of the environment, for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def once_round(
    s3: S3,
    ray_head: str,
    prefect_server: None,
    patch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Round]:
    """Ingest 10,000 flights, build, train, promote, roll out, score in bulk, and ask the endpoint for the same rows."""
    from ray import serve

    folder = tmp_path_factory.mktemp("loop")
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    shutil.copy(ROOT / "pipelines" / "flights.py", pipelines)
    (s3.secrets_dir / "serve_token").write_text("sesame")
    settings = settings_for(patch, empty_lake(s3, folder), pipelines, ray_head, s3)
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
            settings=settings,
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
    keys = rows.select(name for name in KEY if name not in features.columns)
    return pl.concat([keys, features, pl.DataFrame({"score": body["scores"]})], how="horizontal")


def test_training_batch_and_endpoint_see_the_same_features_and_give_the_same_scores(once_round: Round) -> None:
    columns = list(dict.fromkeys([*KEY, *input_names(once_round.pipeline)]))
    assert len(once_round.trained) == len(once_round.batch) == len(once_round.served) == ROWS
    for rows in (once_round.batch, once_round.served):
        same = rows.select(columns).cast(once_round.trained.select(columns).schema)
        for name in columns:
            assert same[name].equals(once_round.trained[name], null_equal=True), name
    difference = np.abs(once_round.served["score"].to_numpy() - once_round.batch["score"].to_numpy())
    assert difference.max() < 1e-6


def test_the_joined_columns_reached_the_endpoint(once_round: Round) -> None:
    joined = once_round.served.select("temperature_f", "plane_seats", "dest_latitude")
    assert (joined.null_count().row(0)) < (ROWS // 2,) * 3


def test_no_prediction_uses_a_moment_later_than_two_hours_before_departure(once_round: Round) -> None:
    known = once_round.trained.select(pl.col("scheduled_at") - pl.col("_known_at")).to_series()
    assert known.unique().to_list() == [timedelta(hours=2)]


def test_the_registry_says_what_serves_and_why(once_round: Round) -> None:
    serving = champion(once_round.lake, "flights")
    assert serving is not None
    assert serving.version == once_round.version
    decisions = read_decisions(once_round.lake, "flights").filter(version=once_round.version)
    assert dict(decisions.select("kind", "verdict").iter_rows()) == {"promotion": "promote", "rollout": "rolled_out"}
    card = once_round.lake.files().cat_file(once_round.lake.uri(card_path("flights", once_round.version))).decode()
    assert re.search(r"stage</bdi></dt><dd><bdi>champion", card)


@pytest.mark.parametrize("name", ["raw_arrivals", "features"])  # each of more than 64 kB: tests/readers.py
def test_another_engine_reads_our_tables_row_for_row(once_round: Round, name: str) -> None:
    theirs = daft_rows(once_round.lake, once_round.lake.table("flights", name))
    assert theirs.sort(KEY).equals(_table(once_round.lake, name).sort(KEY))


def test_the_api_page_needs_no_network(once_round: Round) -> None:
    docs = once_round.client.get("/docs")
    assert docs.status_code == 200
    assert "https://" not in docs.text
    assert once_round.client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    assert once_round.client.get("/openapi.json").json()["openapi"].startswith("3.0")


def test_monitor_finds_that_the_endpoint_used_the_features_that_the_tables_give(once_round: Round) -> None:
    monitor("flights", start=START, end=END, as_of=END, settings=once_round.settings)
    row = read_decisions(once_round.lake, "flights").filter(kind="monitor", window_start=START).row(0, named=True)
    evidence = Evidence.model_validate({"version": row["version"], "rows": 0} | json.loads(row["evidence"]))
    assert evidence.skew == dict.fromkeys(input_names(once_round.pipeline), 1.0)
    assert evidence.skew_rows > 1_000
    assert evidence.importance


def test_a_decision_retrains_once_while_another_version_serves_on_two_cores(once_round: Round) -> None:
    row = {k: v for k, v in data.month_of_flights(1).row(0, named=True).items() if k != "scheduled_at"}
    body = {"rows": [{**row, "scheduled_at": "2013-01-20T12:00:00Z"}]}
    statuses: list[int] = []
    ended = Event()

    def ask() -> None:
        while not ended.wait(0.2):
            statuses.append(once_round.client.post("/predict", json=body).status_code)

    record_decision(
        once_round.lake,
        Decision(
            decision_id="drift", pipeline="flights", kind="monitor", verdict="retrain", reason="drift",
            as_of=END - timedelta(days=1),
        ),
    )  # fmt: skip
    asked = {"pipeline": "flights", "decision_id": "drift"}
    with get_client(sync_client=True) as prefect:
        run = prefect.create_flow_run(retrain, parameters=asked)
    asking = Thread(target=ask)
    asking.start()
    try:
        verdict = run_flow(retrain, flow_run=run, parameters=asked)
    finally:
        ended.set()
        asking.join()
    assert len(statuses) > 10
    assert set(statuses) == {200}

    assert retrain("flights", "drift", once_round.settings) == "already claimed"
    before = read_decisions(once_round.lake, "flights")
    with get_client(sync_client=True) as prefect:
        prefect.set_flow_run_state(run.id, Crashed(message="killed after its last step"), force=True)
    assert run_flow(retrain, flow_run=run, parameters=asked) == verdict  # started again, it finds every step done
    assert read_decisions(once_round.lake, "flights").equals(before)
    rows = before.filter(decision_id="drift")
    assert sorted(rows["kind"]) == ["claim", "monitor", "notice", "retrain"]
    end = rows.filter(kind="retrain").row(0, named=True)
    assert (end["version"], end["verdict"]) == (once_round.version + 1, verdict)
    assert '"challenger"' in end["evidence"]
