"""Trials that nobody drives any more: their run died, and their share of the requests is looked at by nobody."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment

from perennial.lakehouse.decisions import find_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.trials import Trial, read_traffic
from perennial.spec import list_pipelines
from tasks.decisions import AGAIN_AFTER, server_was_busy

ROLL_OUT = "roll-out/roll_out"
UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


@task
def find_abandoned(lake: Lake, pipelines: Path, grace: timedelta) -> list[Trial]:
    """Open trials that took no step for longer than `grace` and that no run of `roll_out` drives."""
    trials = [trial for name in list_pipelines(pipelines) if (trial := read_traffic(lake, name).trial)]
    return [trial for trial in trials if datetime.now(UTC) - trial.since > grace and not _is_driven(trial)]


@task(retries=len(AGAIN_AFTER), retry_delay_seconds=AGAIN_AFTER, retry_condition_fn=server_was_busy)
def start_rollout(lake: Lake, trial: Trial) -> str:
    """Start the roll-out again where it ended; return what was done."""
    ended = find_decision(lake, "rollout", trial.rollout)
    run_deployment(
        ROLL_OUT,
        parameters={"pipeline": trial.pipeline, "version": trial.version},
        idempotency_key=f"{trial.turn}/{ended.verdict if ended else 'open'}",  # once a step: what dies again needs people
        timeout=0,
    )
    get_run_logger().warning("roll-out %s had no run at %s: started again", trial.rollout, trial.turn)
    return "started again"


def _is_driven(trial: Trial) -> bool:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=UNDER_WAY))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["roll-out"])), flow_run_filter=FlowRunFilter(state=state)
        )
    asked = (trial.pipeline, trial.version)
    return any((run.parameters.get("pipeline"), run.parameters.get("version")) == asked for run in runs)
