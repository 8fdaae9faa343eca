"""Reconcile against a real Prefect, S3 and catalog: no decision is forgotten. The retraining itself: tests/test_loop.py."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Crashed

from flows.reconcile import reconcile
from flows.retrain import retrain
from flows.roll_out import roll_out
from flows.settings import Settings
from perennial.lakehouse.decisions import Decision, claim_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import make_champion
from perennial.lakehouse.trials import divert, open_trial

MONDAY = datetime(2024, 5, 6, tzinfo=UTC)


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


def test_what_cannot_be_started_keeps_no_other_decision_waiting(settings: Settings, lake: Lake) -> None:
    RunnerDeployment.from_flow(retrain, name="retrain").apply()
    for decision in ("damaged", "sound"):
        decide(lake, decision)
    assert claim_decision(lake, "damaged", "no run of Prefect's", MONDAY)
    with pytest.raises(ValueError, match="badly formed"):
        reconcile(grace_seconds=0, settings=settings)
    assert len(runs_for("sound")) == 1


def test_a_roll_out_whose_run_died_is_started_again_where_it_was(settings: Settings, lake: Lake) -> None:
    RunnerDeployment.from_flow(roll_out, name="roll_out").apply()
    make_champion(lake, "shop", 1, expected_generation=0, as_of=MONDAY, reason="a test", decision_id="first")
    trial = divert(
        lake, open_trial(lake, "shop", 2, as_of=MONDAY, reason="a test"), "canary", 0.05, as_of=MONDAY, reason="a test"
    )
    assert reconcile(grace_seconds=3600, settings=settings) == {}
    assert reconcile(grace_seconds=0, settings=settings) == {trial.rollout: "started again"}
    assert reconcile(grace_seconds=0, settings=settings) == {}  # a run is under way now
    key = FlowRunFilterIdempotencyKey(any_=[f"{trial.turn}/open"])
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
    assert run.parameters == {"pipeline": "shop", "version": 2}
