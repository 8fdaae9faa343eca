"""The whole flows against a real Prefect, a real Ray and a real lakehouse, with clients that go on asking."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import polars as pl
import pytest
from prefect.logging import disable_run_logger

from flows.log_predictions import log_predictions
from flows.roll_back import roll_back
from flows.roll_out import roll_out
from flows.settings import Settings
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage
from perennial.lakehouse.tables import read_snapshot
from perennial.lakehouse.trials import RolloutRefused, divert, end_trial, open_trial, read_traffic
from perennial.spec import load_pipeline
from tasks.rollback import NothingBefore, OtherRevision, record_withdrawal
from tasks.rollout_plan import plan_rollout
from tasks.serving import NotApproved, RolledBack, crown
from tests.conftest import S3, empty_lake, free_port
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

FOLDER = Path(__file__).parents[1] / "ray_jobs" / "serve" / "pipelines"
ROW = {"trip": 1, "station": "north", "start_at": "2024-05-01T18:00:00Z", "distance_km": 2.5, "member": True}
HEADERS = {"authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def settings(
    s3: S3, ray_head: str, prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    from ray import serve

    home = tmp_path_factory.mktemp("roll-out")
    lake = empty_lake(s3, home)
    (s3.secrets_dir / "serve_token").write_text("sesame")
    fill_raw(lake, load_pipeline("trips", FOLDER))
    yield Settings(
        environment=lake.environment,
        home=home,
        pipelines_dir=FOLDER,
        secrets_dir=s3.secrets_dir,
        s3_endpoint=s3.endpoint,
        bucket=lake.bucket,
        catalog_uri=lake.catalog_uri,
        ray_address=ray_head,
        ray_token_secret=None,
        serve_port=free_port(),
        ship_seconds=0.5,
    )
    serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def lake(settings: Settings) -> Lake:
    return settings.lake


def rollouts(lake: Lake) -> list[tuple[int, str]]:
    rows = read_decisions(lake, "trips").filter(kind="rollout")
    return rows.select("version", "verdict").rows()


def steps_of(lake: Lake, version: int) -> dict[str, str]:
    rows = read_decisions(lake, "trips").filter(kind="rollout_step", version=version)
    return {row["decision_id"].rpartition("/")[2]: row["verdict"] for row in rows.iter_rows(named=True)}


@dataclass
class Clients:
    """What clients met: how often which status and version."""

    answers: Counter[tuple[int, int | None]] = field(default_factory=Counter)


@contextmanager
def asking(settings: Settings, stations: tuple[str, ...] = ("north", "south", "east")) -> Iterator[Clients]:
    """Two clients ask all the time."""
    clients, stop, lock = Clients(), threading.Event(), threading.Lock()

    def ask(first: int) -> None:
        with httpx.Client(base_url=f"{settings.serve.url}/v2/models/trips", headers=HEADERS, timeout=30) as client:
            for number in range(first, 1_000_000, 2):
                if stop.wait(0.06):
                    return
                row = {
                    **ROW,
                    "trip": number,
                    "station": stations[number % len(stations)],
                    "distance_km": 1 + number % 7,
                }
                answer = client.post("/predict", json={"rows": [row]})
                with lock:
                    clients.answers[answer.status_code, answer.json().get("version")] += 1

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_promoted_version_serves_a_broken_one_is_rolled_back_and_reruns_change_nothing(
    settings: Settings, lake: Lake
) -> None:
    pipeline = load_pipeline("trips", FOLDER)
    first = register_model(lake, pipeline, 1)
    broken = register_model(lake, pipeline, 2, golden_off=0.01)

    assert roll_out("trips", first, as_of=NOON, settings=settings) == 1
    assert roll_out("trips", first, as_of=NOON, settings=settings) == 1
    assert rollouts(lake) == [(first, "rolled_out")]

    with pytest.raises(RolledBack, match=r"version 1 serves on.*golden row"):
        roll_out("trips", broken, as_of=NOON, settings=settings)
    assert rollouts(lake) == [(first, "rolled_out"), (broken, "rolled_back")]
    stage = champion_stage(lake, "trips")
    assert stage
    assert (stage.version, stage.generation) == (first, 3)

    asked = httpx.post(
        f"{settings.serve.url}/v2/models/trips/predict", json={"rows": [ROW]}, headers=HEADERS, timeout=30
    )
    assert asked.json()["version"] == first
    from ray import serve

    serve.get_app_handle("trips").broadcast("ship").results(timeout_s=60)
    assert log_predictions("trips", settings=settings) + log_predictions("trips", settings=settings) == 1


def test_a_version_without_a_promotion_is_refused_and_nothing_changes(settings: Settings, lake: Lake) -> None:
    before = champion_stage(lake, "trips")
    with pytest.raises(NotApproved, match="no promotion was ever decided"):
        roll_out("trips", 77, as_of=NOON, settings=settings)
    assert champion_stage(lake, "trips") == before


def test_an_equal_version_goes_through_every_step_while_clients_ask(settings: Settings, lake: Lake) -> None:
    pipeline = load_pipeline("trips", FOLDER)
    equal = register_model(lake, pipeline, 1, artifact="equal")
    with asking(settings) as clients:
        roll_out("trips", equal, as_of=NOON, settings=settings)
    assert {status for status, _ in clients.answers} == {200}
    steps = steps_of(lake, equal)
    assert steps == dict.fromkeys(["replay", "shadow", "canary 30%", "canary 60%"], "go_on")
    row = read_decisions(lake, "trips").filter(kind="rollout", version=equal).row(0, named=True)
    assert row["reason"].endswith("Tried: replay, shadow, canary 30%, canary 60%")

    log_predictions("trips", settings=settings)
    roles = pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("trips", "predictions"))))
    assert {"champion", "shadow", "canary"} == set(roles["role"])
    answered = roles.filter(pl.col("role") != "shadow")
    assert answered.select("request_id", "row_index").is_duplicated().sum() == 0
    assert set(roles.filter(role="shadow")["version"]) == set(roles.filter(role="canary")["version"]) == {equal}


def test_a_version_that_fails_on_some_rows_is_rolled_back_and_no_client_notices(settings: Settings, lake: Lake) -> None:
    pipeline = load_pipeline("trips", FOLDER)
    serving = champion_stage(lake, "trips")
    assert serving
    failing = register_model(lake, pipeline, 1, artifact="failing", fails_on="east")
    with (
        asking(settings) as clients,
        pytest.raises(RolledBack, match=rf"version {serving.version} serves on.*errors.*challenger failed on"),
    ):
        roll_out("trips", failing, as_of=NOON, settings=settings)
    assert set(clients.answers) == {(200, serving.version)}  # it ended in replay, or unheard in shadow
    assert champion_stage(lake, "trips") == serving
    assert read_traffic(lake, "trips").trial is None
    assert rollouts(lake)[-1] == (failing, "rolled_back")


def test_a_canary_keeps_its_clients_and_the_champion_answers_what_it_cannot(settings: Settings, lake: Lake) -> None:
    """Also: a second version is refused meanwhile, and a roll-out ended by roll_back is ended for good."""
    serving = champion_stage(lake, "trips")
    assert serving
    failing = int(read_decisions(lake, "trips").filter(kind="rollout", verdict="rolled_back")["version"][-1])
    trial = divert(
        lake,
        open_trial(lake, "trips", failing, as_of=NOON, reason="a test"),
        "canary",
        0.5,
        as_of=NOON,
        reason="a test",
    )
    with pytest.raises(RolloutRefused, match=rf"version {failing} of trips is being rolled out \(canary"):
        roll_out("trips", 1, as_of=NOON, settings=settings)
    url = f"{settings.serve.url}/v2/models/trips"
    deadline = time.monotonic() + 30
    while httpx.get(url, headers=HEADERS).json()["trial"] is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)  # the other replica looks, too

    def version_for(key: str, station: str) -> int:
        body = {"rows": [{**ROW, "station": station}]}
        answer = httpx.post(f"{url}/predict", json=body, headers={**HEADERS, "x-sticky-key": key}, timeout=30)
        return int(answer.json()["version"])

    keys = [f"client-{number}" for number in range(16)]
    assert {version_for(key, "east") for key in keys} == {serving.version}
    met = [{version_for(key, "north") for _ in range(4)} for key in keys]
    assert {len(versions) for versions in met} == {1}
    assert set().union(*met) == {serving.version, failing}

    assert roll_back("trips", as_of=NOON, settings=settings) == serving.version
    assert read_traffic(lake, "trips").trial is None
    with pytest.raises(RolloutRefused, match="has ended"):
        divert(lake, trial, "canary", 1.0, as_of=NOON, reason="a zombie")


def test_roll_back_returns_in_one_step_while_clients_ask(settings: Settings, lake: Lake) -> None:
    serving = champion_stage(lake, "trips")
    assert serving
    with asking(settings) as clients:
        assert roll_back("trips", as_of=NOON, settings=settings) == 1
        assert roll_back("trips", as_of=NOON, settings=settings) == 1  # the same run again: not one further
        time.sleep(0.5)
    assert {status for status, _ in clients.answers} == {200}
    standing = champion_stage(lake, "trips")
    assert standing
    assert standing.version == 1
    assert rollouts(lake)[-1] == (serving.version, "returned")
    with pytest.raises(NothingBefore, match="has never served"):
        roll_back("trips", version=2_000, as_of=NOON, settings=settings)


def test_a_version_of_other_feature_code_is_named_with_its_revision(settings: Settings, lake: Lake) -> None:
    from perennial.lakehouse.stages import make_champion

    pipeline = load_pipeline("trips", FOLDER)
    older = register_model(lake, pipeline, 9, code_hash="0123456789abcdef")
    standing = champion_stage(lake, "trips")
    assert standing
    for number, version in enumerate((older, standing.version)):  # it served once, with the code of then
        make_champion(
            lake, "trips", version, expected_generation=standing.generation + number, as_of=NOON, reason="a test",
            decision_id=f"older-{number}",
        )  # fmt: skip
    with pytest.raises(OtherRevision, match=r"feature code 0123456789abcdef.*Nothing was changed"):
        roll_back("trips", version=older, as_of=NOON, settings=settings)


def test_a_roll_out_that_was_killed_goes_on_where_it_was(settings: Settings, lake: Lake) -> None:
    pipeline = load_pipeline("trips", FOLDER)
    equal = register_model(lake, pipeline, 1, artifact="again")
    roll_out("trips", 1, as_of=NOON, settings=settings)
    with asking(settings) as clients:
        # what a killed run leaves: the trial open in the registry, at its first canary step
        trial = open_trial(lake, "trips", equal, as_of=NOON, reason="a test")
        divert(lake, trial, "canary", 0.3, as_of=NOON, reason="a test")
        generation = roll_out("trips", equal, as_of=NOON, settings=settings)
    assert {status for status, _ in clients.answers} == {200}
    assert generation == trial.generation + 1
    assert set(steps_of(lake, equal)) == {"replay", "canary 30%", "canary 60%"}
    end_trial(lake, trial, as_of=NOON, reason="a zombie comes back late")
    standing = champion_stage(lake, "trips")
    assert standing
    assert standing.version == equal


def test_a_run_killed_at_any_other_step_is_finished_by_the_next(settings: Settings, lake: Lake) -> None:
    """Each case is what the registry and the decisions hold when a run is killed there."""
    standing = champion_stage(lake, "trips")
    assert standing
    # opened, and nothing tried; then with the replay done and in shadow
    trial = open_trial(lake, "trips", 1, as_of=NOON, reason="a test")
    place = (lake, FOLDER, "trips", 1, NOON, "a test")
    with disable_run_logger():
        assert plan_rollout.fn(*place).trial == trial
        trial = divert(lake, trial, "shadow", 0.0, as_of=NOON, reason="a test")
        plan = plan_rollout.fn(*place)
    assert [step for step in plan.steps if step[0] != "replay"] == [("shadow", 0.0), ("canary", 0.3), ("canary", 0.6)]

    # the challenger failed, and the row says so; the trial is still open
    record_withdrawal.fn(lake, FOLDER, plan, NOON, "it failed, and its run was killed")
    with pytest.raises(RolledBack, match="it failed, and its run was killed"):
        roll_out("trips", 1, as_of=NOON, settings=settings)
    assert read_traffic(lake, "trips").trial is None
    assert champion_stage(lake, "trips") == standing

    # it passed and is champion in the registry; replicas were not told, and no row says so
    trial = open_trial(lake, "trips", 1, as_of=NOON, reason="a test")
    assert trial.rollout.endswith("-try2")
    crown.fn(lake, "trips", 1, NOON, "a test", trial)
    assert roll_out("trips", 1, as_of=NOON, settings=settings) == standing.generation + 1
    assert rollouts(lake)[-1] == (1, "rolled_out")
