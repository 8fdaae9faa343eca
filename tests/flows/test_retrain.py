"""Reconcile against a real Prefect, S3 and catalog: no decision is forgotten. The retraining itself: tests/test_loop.py."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Crashed, Failed, Running

from flows.reconcile import reconcile
from flows.retrain import retrain
from flows.roll_out import roll_out
from flows.settings import Settings
from perennial.lakehouse.commit import append_once
from perennial.lakehouse.decisions import SCHEMA, Decision, claim_decision, find_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import make_champion
from perennial.lakehouse.trials import divert, open_trial
from perennial.rules.guards import ABANDONED
from ray_jobs.features.build import NothingToBuild
from tests.flows.test_monitor import bells

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


def run_of(decision_id: str, key: str, *states: State[Any]) -> UUID:
    """A run of the deployment that went through these states."""
    run = run_deployment(
        "retrain/retrain", parameters={"pipeline": "shop", "decision_id": decision_id},
        idempotency_key=key, timeout=0,
    )  # fmt: skip
    assert isinstance(run, FlowRun)
    with get_client(sync_client=True) as client:
        for state in states:
            client.set_flow_run_state(run.id, state, force=True)
    return run.id


def claim_long_ago(lake: Lake, decision_id: str, claimant: str) -> None:
    row = {"decision_id": decision_id, "pipeline": "shop", "kind": "claim", "verdict": "claimed", "run_id": claimant}
    row |= {"as_of": MONDAY, "recorded_at": datetime.now(UTC) - ABANDONED}  # type: ignore[dict-item]
    append_once(lake, lake.system("decisions"), pa.Table.from_pylist([row], SCHEMA), f"claim/{decision_id}")


def given_up(settings: Settings, decision_id: str, why: str) -> None:
    """Reconcile gives the decision up: a row says why, a person is called, and that is the end of it."""
    assert reconcile(grace_seconds=0, settings=settings) == {decision_id: "given up"}
    ended = find_decision(settings.lake, "retrain", decision_id)
    assert ended is not None
    assert ended.verdict == "failed"
    assert why in ended.reason
    (told,) = bells(decision_id, at_least=1, name="perennial.retrain.failed")
    assert told["resource"]["perennial.page"] == "yes"
    assert told["payload"]["reason"] == ended.reason
    assert reconcile(grace_seconds=0, settings=settings) == {}


def test_a_decision_that_does_not_exist_is_not_acted_on(settings: Settings) -> None:
    with pytest.raises(LookupError, match="no decision 'never'"):
        retrain("shop", "never", settings)


def test_a_retrain_that_fails_half_way_says_who_serves_on_and_its_run_may_go_on(settings: Settings, lake: Lake) -> None:
    make_champion(lake, "shop", 1, expected_generation=0, as_of=MONDAY, reason="a test", decision_id="first")
    decide(lake, "too-early")
    asked = {"pipeline": "shop", "decision_id": "too-early"}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(retrain, parameters=asked)
    for _ in range(2):  # the second time it holds the claim already
        with pytest.raises(NothingToBuild):
            run_flow(retrain, flow_run=run, parameters=asked)
    assert retrain("shop", "too-early", settings) == "already claimed"
    told = bells("too-early", at_least=2, name="perennial.retrain.failed")
    assert {bell["payload"]["serving"] for bell in told} == {1}
    assert "NothingToBuild" in told[0]["payload"]["reason"]
    assert len(bells("too-early", at_least=2, name="perennial.retrain.started")) == 2
    assert find_decision(lake, "retrain", "too-early") is None  # no end yet: reconcile starts the run again


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
        decision_id="lost", pipeline="shop", kind="retrain", verdict="rejected", reason="", as_of=MONDAY, version=7
    )
    record_decision(lake, ended)  # and its run died before it told
    assert reconcile(grace_seconds=0, settings=settings) == {"lost": "perennial.retrain.succeeded"}
    assert reconcile(grace_seconds=0, settings=settings) == {}
    (told,) = bells("lost", at_least=1, name="perennial.retrain.succeeded")
    assert (told["payload"]["version"], told["payload"]["ended"]) == (7, "rejected")


def test_a_decision_whose_runs_all_end_before_they_claim_it_is_given_up_and_told(
    settings: Settings, lake: Lake
) -> None:
    RunnerDeployment.from_flow(retrain, name="retrain").apply()
    decide(lake, "unclaimed")
    key = "retrain/unclaimed"
    for _ in range(3):
        run = run_of("unclaimed", key, Failed(message="no such module"))
        key += f"/after-{run}"
    given_up(settings, "unclaimed", "3 runs ended before they claimed the decision")
    assert retrain("shop", "unclaimed", settings) == "already claimed"  # a bell that comes late starts nothing
    assert find_decision(lake, "claim", "unclaimed") is None


def test_a_cancelled_retrain_is_over(settings: Settings, lake: Lake) -> None:
    RunnerDeployment.from_flow(retrain, name="retrain").apply()
    decide(lake, "unwanted")
    run = run_of("unwanted", "an event", Running(), Cancelled(message="by me"))
    assert claim_decision(lake, "unwanted", str(run), MONDAY)
    given_up(settings, "unwanted", "was cancelled (Cancelled: by me)")


def test_a_run_that_died_three_times_is_given_up_and_told(settings: Settings, lake: Lake) -> None:
    RunnerDeployment.from_flow(retrain, name="retrain").apply()
    decide(lake, "hopeless")
    run = run_of("hopeless", "another event", *[Running(), Crashed(message="killed")] * 3)
    assert claim_decision(lake, "hopeless", str(run), MONDAY)
    given_up(settings, "hopeless", "ended 3 times without an end of the retrain (Crashed: killed)")


def test_a_run_that_no_worker_can_start_again_is_given_up_and_told(settings: Settings, lake: Lake) -> None:
    decide(lake, "by-hand")
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(retrain, parameters={"pipeline": "shop", "decision_id": "by-hand"})
        client.set_flow_run_state(run.id, Crashed(message="its terminal was closed"), force=True)
    assert claim_decision(lake, "by-hand", str(run.id), MONDAY)
    given_up(settings, "by-hand", "no worker starts a run without a deployment again")


def test_a_claim_of_a_run_that_nobody_knows_is_waited_for_a_day(settings: Settings, lake: Lake) -> None:
    decide(lake, "elsewhere")
    assert claim_decision(lake, "elsewhere", str(uuid4()), MONDAY)
    decide(lake, "forgotten")
    claim_long_ago(lake, "forgotten", str(uuid4()))
    done = reconcile(grace_seconds=0, settings=settings)
    assert done == {"elsewhere": "claimed elsewhere", "forgotten": "given up"}
    ended = find_decision(lake, "retrain", "forgotten")
    assert ended is not None
    assert "has not ended it within 24 hours" in ended.reason


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
