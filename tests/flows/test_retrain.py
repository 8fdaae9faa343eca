"""Retrain and reconcile against a real Prefect, Ray, S3 and catalog: a decision is acted on once, and never forgotten."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Crashed

from flows.ingest import ingest
from flows.reconcile import reconcile
from flows.retrain import retrain
from flows.settings import Settings
from perennial.lakehouse.decisions import Decision, claim_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_versions
from tests.shop import FILE, orders, put, write_shop

MONDAY = datetime(2024, 5, 6, tzinfo=UTC)


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    text = FILE.replace("Label, Lookup", "Label, Lookup, Promotion").replace(
        "epochs=2),", "epochs=2),\n    promotion=Promotion(holdout=timedelta(hours=2)),"
    )
    return write_shop(tmp_path / "pipelines", text)


def decide(lake: Lake, decision_id: str) -> None:
    """The monitor found that the shop's model should be retrained."""
    record_decision(
        lake,
        Decision(
            decision_id=decision_id, pipeline="shop", kind="monitor", verdict="retrain", reason="worse", as_of=MONDAY
        ),
    )


def runs_for(decision_id: str) -> list[FlowRun]:
    key = FlowRunFilterIdempotencyKey(any_=[f"retrain/{decision_id}"])
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))


def test_a_decision_is_acted_on_once_and_ends_as_a_row(settings: Settings, lake: Lake) -> None:
    torch.set_num_threads(1)
    put(lake, "orders/1.csv", orders(1, 600))
    put(lake, "prices/1.csv", "product,cents,valid_from\npen,120,2024-01-01T00:00:00Z\nink,300,2024-01-01T00:00:00Z\n")
    ingest("shop", as_of=MONDAY, settings=settings)
    decide(lake, "may")

    assert retrain("shop", "may", settings) == "inconclusive"  # 121 labelled rows cannot tell
    assert retrain("shop", "may", settings) == "already claimed"

    ended = read_decisions(lake, "shop").filter(kind="retrain").row(0, named=True)
    assert read_decisions(lake, "shop")["kind"].sort().to_list() == ["claim", "monitor", "promotion", "retrain"]
    assert (ended["decision_id"], ended["version"], ended["verdict"]) == ("may", 1, "inconclusive")
    assert '"rows": 121' in ended["evidence"]
    assert [version.reason for version in read_versions(lake, "shop")] == ["worse"]


def test_a_decision_that_does_not_exist_is_not_acted_on(settings: Settings) -> None:
    with pytest.raises(LookupError, match="no decision 'never'"):
        retrain("shop", "never", settings)


def test_a_lost_event_and_a_dead_run_are_made_good(settings: Settings, lake: Lake) -> None:
    RunnerDeployment.from_flow(retrain, name="retrain").apply()
    decide(lake, "lost")
    assert reconcile(grace_seconds=3600, settings=settings) == {}  # its event may still come
    assert reconcile(grace_seconds=0, settings=settings) == {"lost": "started"}
    assert reconcile(grace_seconds=0, settings=settings) == {"lost": "started"}
    (run,) = runs_for("lost")  # asked for twice, there once
    assert run.parameters == {"pipeline": "shop", "decision_id": "lost"}

    assert claim_decision(lake, "lost", str(run.id), MONDAY)
    assert reconcile(grace_seconds=0, settings=settings) == {"lost": "running"}
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(run.id)), Crashed(), force=True)
    assert reconcile(grace_seconds=0, settings=settings) == {"lost": "started again"}
    assert [again.state_name for again in runs_for("lost")] == ["Scheduled"]

    ended = Decision(
        decision_id="lost", pipeline="shop", kind="retrain", verdict="rejected", reason="", as_of=MONDAY + timedelta(1)
    )
    record_decision(lake, ended)
    assert reconcile(grace_seconds=0, settings=settings) == {}
