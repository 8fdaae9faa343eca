"""One endpoint on a real Ray, behind its real proxy, asked over HTTP as clients ask."""

import asyncio
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from benchmarks.load import http_request, open_loop
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.stages import champion_stage, make_champion
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.features import compute_features, input_names, known_at, pipeline_code_hash
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.serve.config import EndpointConfig, ServeConfig
from ray_jobs.serve.roll import RollReport, RollRequest, roll
from tests.conftest import ROOT, S3, empty_lake, free_port
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

FOLDER = Path(__file__).parent / "pipelines"
ROW = {"trip": 1, "station": "north", "start_at": "2024-05-01T18:00:00Z", "distance_km": 2.5, "member": True}


@dataclass
class World:
    """A pipeline that is served, and what it takes to ask it."""

    lake: Lake
    pipeline: Pipeline
    raw: dict[str, pl.DataFrame]
    config: EndpointConfig
    client: httpx.Client
    versions: dict[str, int]
    answered: int = 0

    def roll(self, name: str) -> RollReport:
        """Make a version champion in the registry and bring the endpoint to it."""
        version, stage = self.versions[name], champion_stage(self.lake, "trips")
        generation = stage.generation if stage else 0
        stage = make_champion(
            self.lake,
            "trips",
            version,
            expected_generation=generation,
            as_of=NOON,
            reason="a test",
            decision_id=f"{version}-{generation}",
        )
        return self.refresh(stage.version, stage.generation)

    def refresh(self, version: int, generation: int) -> RollReport:
        return roll(RollRequest(endpoint=self.config, version=version, generation=generation))

    def ask(self, *rows: dict[str, Any], path: str = "", **more: Any) -> dict[str, Any]:
        answer = self.client.post(f"/predict{path}", json={"rows": rows, **more})
        assert answer.status_code == 200, answer.text
        self.answered += len(rows)
        return dict(answer.json())


@pytest.fixture(scope="module")
def world(s3: S3, ray_head: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from ray import serve

    home = tmp_path_factory.mktemp("endpoint")
    (s3.secrets_dir / "serve_token").write_text("sesame")
    lake = empty_lake(s3, home)
    pipeline = load_pipeline("trips", FOLDER)
    raw = fill_raw(lake, pipeline)
    versions = {
        "one": register_model(lake, pipeline, 1),
        "two": register_model(lake, pipeline, 2),
        "broken": register_model(lake, pipeline, 3, golden_off=0.01),
        "older": register_model(lake, pipeline, 4, code_hash="0123456789abcdef"),
    }
    options = ServeConfig(
        port=free_port(), log_folder=home / "log", ship_seconds=0.5, draining_seconds=1, rollout_seconds=300
    )
    config = EndpointConfig(
        lake=lake, pipeline="trips", pipelines=FOLDER, code_hash=pipeline_code_hash(pipeline), serve=options, replicas=2
    )
    headers = {"authorization": "Bearer sesame"}
    with httpx.Client(base_url=f"{options.url}{config.route}", headers=headers, timeout=30) as client:
        world = World(lake, pipeline, raw, config, client, versions)
        report = world.roll("one")
        assert report.failure is None
        yield world
    serve.shutdown()  # type: ignore[no-untyped-call]


def test_an_answer_carries_scores_version_request_and_tables(world: World) -> None:
    answer = world.ask(ROW, {**ROW, "trip": 2, "distance_km": 9.0}, request_id="mine")
    assert answer["request_id"] == "mine"
    assert answer["version"] in world.versions.values()
    assert len(answer["scores"]) == 2
    assert answer["scores"][0] != answer["scores"][1]
    assert set(answer["tables"]) == {"weather", "stations"}


def test_the_callers_header_names_the_request(world: World) -> None:
    answer = world.client.post("/predict", json={"rows": [ROW]}, headers={"x-request-id": "from-a-header"})
    world.answered += 1
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "from-a-header"


def test_its_features_are_those_of_training_row_by_row(world: World) -> None:
    trips = world.raw["trips"].drop("_known_at")
    known = known_at(world.pipeline.entity_source, trips, as_of=NOON)
    expected = compute_features(world.pipeline, known, {name: world.raw[name] for name in ("weather", "stations")})
    rows = json.loads(trips.with_columns(pl.col("start_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).write_json())
    got = pl.DataFrame(world.ask(*rows, path="?features=true")["features"])
    names = list(input_names(world.pipeline))
    assert got.select(names).rows() == expected.select(names).rows()


def test_joined_columns_that_are_sent_are_used(world: World) -> None:
    sent = {**ROW, "weather_rain_mm": 42.0}
    features = world.ask(sent, path="?features=true")["features"][0]
    assert features["rain_mm"] == 42.0
    assert features["docks"] == 12  # the other join still comes from the replica's own table


def test_without_the_token_nothing_is_told_but_readiness_and_the_page(world: World) -> None:
    for headers in ({"authorization": "Bearer guess"}, {"authorization": ""}, {"authorization": "Basic sesame"}):
        assert world.client.get("", headers=headers).status_code == 401
        assert world.client.post("/predict", json={"rows": [ROW]}, headers=headers).status_code == 401
    bare = httpx.Client(base_url=world.client.base_url)
    assert bare.get("/ready").json() == {"ready": True}
    assert bare.get("/docs").status_code == 200


def test_the_page_has_an_example_that_works(world: World) -> None:
    page = world.client.get("/openapi.json").json()
    schema = page["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert len(world.ask(*schema["example"]["rows"])["scores"]) == 1


def test_the_model_page_tells_its_inputs_and_how_fresh_its_tables_are(world: World) -> None:
    page = world.client.get("").json()
    assert page["rows"]["columns"]["note"]["required"] is False
    assert page["rows"]["joined"]["weather"] == {"weather_rain_mm": {"type": "number", "nullable": True}}
    assert page["tables"]["stations"]["rows"] == 3
    assert page["tables"]["weather"]["age_seconds"] >= 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"{", {}, 400, "not JSON"),
        (json.dumps({"rows": [ROW, {**ROW, "distance_km": "far"}]}).encode(), {}, 422, "row 1: column 'distance_km'"),
        (json.dumps({"rows": [{**ROW, "distance_km": float("nan")}]}).encode(), {}, 422, "row 0: column 'distance_km'"),
        (json.dumps({"rows": []}).encode(), {}, 422, "at least one row"),
        (json.dumps({"rows": [ROW] * 2_001}).encode(), {}, 413, "2,001 rows"),
        (b" " * (33 << 20), {}, 413, "bytes"),
        (json.dumps({"rows": [ROW]}).encode(), {"content-type": "text/csv"}, 415, "text/csv"),
        (json.dumps({"rows": [ROW]}).encode(), {"content-encoding": "gzip"}, 415, "compressed"),
        (json.dumps({"rows": [ROW]}).encode(), {"x-request-id": "x" * 200}, 422, "request_id"),
    ],
)
def test_a_bad_request_is_refused_and_never_an_error_of_ours(
    world: World, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = world.client.post("/predict", content=body, headers={"content-type": "application/json", **headers})
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_people_ask_at_models_and_the_server_tells_of_itself(world: World) -> None:
    base = world.config.serve.url
    answer = httpx.post(f"{base}/models/trips/predict", json={"rows": [ROW]}, headers=world.client.headers)
    world.answered += 1
    assert answer.status_code == 200, answer.text
    assert httpx.get(f"{base}/models/trips/docs").status_code == 200
    assert httpx.get(f"{base}/v2").json()["extensions"] == ["binary_tensor_data"]
    assert httpx.get(f"{base}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{base}/v2/health/ready").json() == {"ready": True}
    missing = httpx.post(f"{base}/models/nobody/predict", json={"rows": [ROW]}, headers=world.client.headers)
    assert (missing.status_code, "no model of this name" in missing.json()["error"]) == (404, True)


@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_an_unmodified_client_of_the_protocol_works(world: World, client: str) -> None:
    found = _ask_by(client, world.config.serve.url)
    plain = world.ask(ROW, {**ROW, "trip": 2, "station": "south", "distance_km": 9.0, "member": False})
    world.answered += 2 * len(found["scores"])
    assert [found[name] for name in ("live", "ready", "model_ready")] == [True, True, True]
    assert all(scores == plain["scores"] for scores in found["scores"].values()), found
    assert found["id"] == f"by-{client}"
    if client == "triton":
        assert found["version"] == str(plain["version"])
        assert found["server"]["name"] == "perennial"
        assert found["index"] == [{"name": "trips", "state": "READY"}]
        assert (found["version_ready"], found["other_version_ready"], found["other_model_ready"]) == (
            True,
            False,
            False,
        )
        assert "input 'trip' has the datatype 'FP64'; it must be INT64" in found["refused"]
    else:
        assert "send the header 'Authorization" in found["refused"]


def _ask_by(client: str, url: str) -> dict[str, Any]:
    python = ROOT / ".venv-peers-clients" / "bin" / "python"
    assert python.exists(), "the clients have an environment of their own: run `make peers-clients`"
    script = Path(__file__).parent / "clients" / f"by_{client}.py"
    done = subprocess.run([python, script, url, "sesame"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_swap_under_load_drops_no_request(world: World) -> None:
    world.roll("one")
    answers: Counter[tuple[int, int]] = Counter()
    stop = threading.Event()

    def clients() -> None:
        with httpx.Client(base_url=world.client.base_url, headers=world.client.headers, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/predict", json={"rows": [ROW]})
                answers[answer.status_code, answer.json().get("version")] += 1

    threads = [threading.Thread(target=clients) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        reports = [world.roll(name) for name in ("two", "one", "two")]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    world.answered += sum(answers.values())
    assert [(report.failure, report.redeployed) for report in reports] == [(None, False)] * 3
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {world.versions["one"], world.versions["two"]}


def test_a_flood_is_refused_with_a_time_to_come_back_and_the_next_request_is_answered(world: World) -> None:
    headers = [("content-type", "application/json"), ("authorization", world.client.headers["authorization"])]
    body = json.dumps({"rows": [ROW]}).encode()
    request = http_request("127.0.0.1", f"{world.config.route}/predict", body, headers)
    flood = asyncio.run(
        open_loop("127.0.0.1", world.config.serve.port, [request], rate=8_000, seconds=0.4, maximum_connections=950)
    )
    world.answered += flood.statuses[200]
    assert flood.statuses[503] == flood.retry_after > 0
    assert flood.statuses[200] + flood.statuses[503] == flood.sent
    world.ask(ROW)


def test_a_version_that_misses_its_golden_rows_is_refused_and_the_old_one_serves(world: World) -> None:
    before = world.ask(ROW)
    report = world.roll("broken")
    assert report.failure
    assert "golden row" in report.failure
    assert world.ask(ROW)["scores"] == before["scores"]
    assert "golden row" in world.client.get("").json()["refresh_problem"]
    assert world.roll("one").failure is None


def test_a_version_of_other_feature_code_is_refused_and_the_revision_named(world: World) -> None:
    report = world.roll("older")
    assert report.failure
    assert "0123456789abcdef" in report.failure
    assert "Check out the revision of pipelines/trips.py" in report.failure
    assert world.roll("two").failure is None


def test_a_newer_snapshot_of_a_joined_table_is_taken_up(world: World) -> None:
    at = NOON + timedelta(hours=2, minutes=30)
    newer = (
        world.raw["weather"]
        .head(1)
        .with_columns(pl.lit(at).cast(pl.Datetime("us", "UTC")).alias("observed_at"), pl.lit(99.0).alias("rain_mm"))
    )
    newer = newer.with_columns(pl.lit("south").alias("station"), (pl.col("observed_at")).alias("_known_at"))
    append_once(world.lake, world.lake.table("trips", "raw_weather"), newer.to_arrow(), "newer")
    stage = champion_stage(world.lake, "trips")
    assert stage
    world.refresh(stage.version, stage.generation)
    row = {**ROW, "station": "south", "start_at": "2024-05-01T15:45:00Z"}
    assert world.ask(row, path="?features=true")["features"][0]["rain_mm"] == 99.0


def test_every_answered_row_is_in_predictions_exactly_once(world: World) -> None:
    from ray import serve

    world.ask(ROW, request_id="the-last")
    serve.get_app_handle("trips").broadcast("ship").results(timeout_s=60)
    commit_predictions(world.lake, "trips")
    rows = pl.from_arrow(read_snapshot(world.lake, world.lake.table("trips", "predictions")))
    assert isinstance(rows, pl.DataFrame)
    assert rows.height == world.answered
    assert rows.select("request_id", "row_index").is_duplicated().sum() == 0
    last = rows.row(by_predicate=pl.col("request_id") == "the-last", named=True)
    assert (last["trip"], last["rain_mm"], last["role"]) == (1, 2.0, "champion")
    assert last["_known_at"] == NOON + timedelta(hours=5)
    assert last["version"] == world.versions["two"]
