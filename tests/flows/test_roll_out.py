"""The whole flow against a real Prefect, a real Ray and a real lakehouse."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest

from flows.log_predictions import log_predictions
from flows.roll_out import roll_out
from flows.settings import Settings
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage
from perennial.spec import load_pipeline
from tasks.serving import NotApproved, RolledBack
from tests.conftest import S3, free_port
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

FOLDER = Path(__file__).parents[1] / "ray_jobs" / "serve" / "pipelines"
ROW = {"trip": 1, "station": "north", "start_at": "2024-05-01T18:00:00Z", "distance_km": 2.5, "member": True}


@pytest.fixture
def settings(s3: S3, lake: Lake, ray_head: str, prefect_server: None, tmp_path: Path) -> Iterator[Settings]:
    from ray import serve

    (s3.secrets_dir / "serve_token").write_text("sesame")
    fill_raw(lake, load_pipeline("trips", FOLDER))
    yield Settings(
        environment=lake.environment,
        home=tmp_path,
        pipelines_dir=FOLDER,
        secrets_dir=s3.secrets_dir,
        s3_endpoint=s3.endpoint,
        bucket=lake.bucket,
        catalog_uri=lake.catalog_uri,
        ray_address=ray_head,
        ray_token_secret=None,
        serve_port=free_port(),
        ship_seconds=0.2,
    )
    serve.shutdown()  # type: ignore[no-untyped-call]


def rollouts(lake: Lake) -> list[tuple[int, str]]:
    rows = read_decisions(lake, "trips").filter(kind="rollout")
    return rows.select("version", "verdict").rows()


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
        f"{settings.serve.url}/v2/models/trips/predict",
        json={"rows": [ROW]},
        headers={"authorization": "Bearer sesame"},
        timeout=30,
    )
    assert asked.json()["version"] == first
    from ray import serve

    serve.get_app_handle("trips").broadcast("ship").results(timeout_s=60)
    assert log_predictions("trips", settings=settings) + log_predictions("trips", settings=settings) == 1


def test_a_version_without_a_promotion_is_refused_and_nothing_changes(settings: Settings, lake: Lake) -> None:
    with pytest.raises(NotApproved, match="no promotion was ever decided"):
        roll_out("trips", 7, as_of=NOON, settings=settings)
    assert champion_stage(lake, "trips") is None
    assert read_decisions(lake, "trips").filter(pl.col("kind") == "rollout").is_empty()
