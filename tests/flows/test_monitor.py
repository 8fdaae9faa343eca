"""The flow against a real Prefect server and a real lake: rows first, then the bell."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from prefect.client.orchestration import get_client

from flows.monitor import monitor
from flows.reconcile import reconcile
from flows.settings import Settings
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.decisions import SCHEMA, Decision, claim_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table
from tests.ray_jobs.drift.world import JULY, JUNE, MAY, answered_window, load_rides, register, write_pipeline

EVENT = "perennial.performance.degraded"


@pytest.fixture
def settings(lake: Lake, tmp_path: Path, ray_head: str, prefect_server: None) -> Settings:
    return Settings(
        environment=lake.environment,
        home=tmp_path,
        pipelines_dir=write_pipeline(tmp_path / "pipelines"),
        s3_endpoint=lake.s3_endpoint,
        bucket=lake.bucket,
        secrets_dir=lake.secrets_dir,
        catalog_uri=lake.catalog_uri,
        ray_address=ray_head,
        ray_token_secret=None,
    )


def watch_may(settings: Settings) -> str:
    return monitor("rides", start=MAY, end=JUNE, as_of=JUNE, settings=settings)


def watch_june(settings: Settings) -> str:
    return monitor("rides", start=JUNE, end=JULY, as_of=JULY, settings=settings)


def served_badly(settings: Settings) -> None:
    pipeline = load_rides(settings.pipelines_dir)
    answered_window(settings.lake, pipeline, register(settings.lake, pipeline).version, noise=1.0)


def verdicts(lake: Lake) -> pl.DataFrame:
    return read_decisions(lake, "rides").filter(kind="monitor")


def bells(
    decision_id: str, at_least: int = 0, name: str = EVENT, since: datetime | None = None
) -> list[dict[str, Any]]:
    """The events of a decision, once so many have arrived: the server stores them a moment after it has them.

    Args:
        since: other tests' lakes have decisions of the same name on this server.
    """
    wanted: dict[str, Any] = {"occurred": {"since": since.isoformat()}} if since else {}
    wanted |= {"event": {"name": [name]}, "resource": {"labels": {"perennial.decision": decision_id}}}
    with get_client(sync_client=True) as client:
        for _ in range(2_000):
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
            if len(found) >= at_least:
                return list(found)
    raise AssertionError(f"{len(found)} events of {decision_id} where {at_least} were expected")


def test_the_bell_rings_after_the_verdict_is_a_row_and_until_it_is_claimed(settings: Settings) -> None:
    served_badly(settings)
    assert watch_may(settings) == "retrain"
    row = verdicts(settings.lake).row(0, named=True)
    (bell,) = bells(row["decision_id"], at_least=1)
    assert datetime.fromisoformat(bell["occurred"]) > row["recorded_at"]
    assert bell["payload"]["decision_id"] == row["decision_id"]
    assert bell["payload"]["pipeline"] == "rides"
    assert bell["payload"]["reason"] == row["reason"]

    assert watch_may(settings) == "retrain"  # nobody came: ring again, decide nothing anew
    assert len(bells(row["decision_id"], at_least=2)) == 2
    assert verdicts(settings.lake).height == 1

    claim_decision(settings.lake, row["decision_id"], "a retrain run", JUNE)
    assert watch_may(settings) == "retrain"
    assert len(bells(row["decision_id"], at_least=2)) == 2
    assert verdicts(settings.lake).height == 1


def test_a_story_that_cannot_be_drawn_fails_the_run_after_the_bell_has_rung(settings: Settings) -> None:
    served_badly(settings)
    damaged = {"decision_id": "damaged", "pipeline": "rides", "kind": "rollout"}  # the story cannot tell when it was
    identifier = settings.lake.system("decisions")
    ensure_table(settings.lake, identifier, SCHEMA)
    append_once(settings.lake, identifier, pa.Table.from_pylist([damaged], SCHEMA), "damaged")
    with pytest.raises(TypeError):
        watch_may(settings)
    row = verdicts(settings.lake).row(0, named=True)
    assert len(bells(row["decision_id"], at_least=1, since=row["recorded_at"])) == 1


def test_a_window_as_promised_is_one_quiet_row_and_a_report(settings: Settings) -> None:
    pipeline = load_rides(settings.pipelines_dir)
    answered_window(settings.lake, pipeline, register(settings.lake, pipeline).version, start=JUNE)
    assert watch_june(settings) == "hold"
    assert watch_june(settings) == "hold"
    row = verdicts(settings.lake).row(0, named=True)
    assert verdicts(settings.lake).height == 1
    assert bells(row["decision_id"]) == []
    with get_client(sync_client=True) as client:
        shown = client.request("POST", "/artifacts/latest/filter", json={"sort": "KEY_ASC"}).json()
    text = {artifact["key"]: str(artifact["data"]) for artifact in shown}
    assert "Hold" in text["monitor-rides"]
    assert "/rides/monitor/20240601-20240701-v1-" in text["report-rides"]
    assert "/rides/story.html" in text["story-rides"]
    story = settings.lake.files().cat_file(settings.lake.uri("reports/rides/story.html")).decode()
    assert f'id="b-{row["decision_id"]}"' in story


def test_a_broken_feed_is_one_page_that_calls_a_person_and_starts_nothing(settings: Settings) -> None:
    pipeline = load_rides(settings.pipelines_dir)
    version = register(settings.lake, pipeline).version
    answered_window(settings.lake, pipeline, version, noise=1.0, lost="distance_km", start=JUNE)
    assert watch_june(settings) == "page"
    assert watch_june(settings) == "page"
    row = verdicts(settings.lake).row(0, named=True)
    (page,) = bells(row["decision_id"], at_least=1, name="perennial.data.broken")
    assert page["resource"]["perennial.page"] == "yes"
    assert list(page["payload"]["broken"]) == ["distance_km"]
    assert bells(row["decision_id"]) == []


def test_labels_that_come_late_reopen_a_window_and_say_how_far_off_the_first_look_was(settings: Settings) -> None:
    pipeline = load_rides(settings.pipelines_dir)
    answered_window(settings.lake, pipeline, register(settings.lake, pipeline).version, noise=1.0)
    early = MAY + timedelta(days=2)
    assert monitor("rides", start=MAY, end=JUNE, as_of=early, settings=settings) == "hold"  # hardly a label yet
    for _ in range(2):
        watch_june(settings)
    rows = verdicts(settings.lake).filter(window_start=MAY)
    assert rows["verdict"].to_list() == ["hold", "retrain"]
    assert rows["decision_id"].to_list()[1] == rows["decision_id"].to_list()[0] + "-late"
    assert [json.loads(row)["labelled_rows"] > 1_000 for row in rows["evidence"]] == [False, True]


def test_a_page_that_was_never_sent_is_sent_by_reconcile(settings: Settings) -> None:
    decision = Decision(
        decision_id="silent", pipeline="rides", kind="monitor", verdict="page", reason="no rows", as_of=JUNE,
        evidence='{"rows": 0, "cause": "silence"}', version=1, window_start=MAY, window_end=JUNE,
    )  # fmt: skip
    record_decision(settings.lake, decision)
    assert reconcile(grace_seconds=3600, settings=settings) == {}
    assert reconcile(grace_seconds=0, settings=settings) == {"silent": "perennial.data.broken"}
    assert reconcile(grace_seconds=0, settings=settings) == {}
    assert len(bells("silent", at_least=1, name="perennial.data.broken")) == 1


def test_nothing_is_decided_while_nothing_serves(settings: Settings) -> None:
    assert watch_may(settings) == "hold"
    assert verdicts(settings.lake).is_empty()
