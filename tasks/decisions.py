"""The decisions table in a run: claim what one acts on, record how it ended, find what nobody acted on."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import polars as pl
from httpx import TransportError
from prefect import State, Task, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Scheduled
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, claim_decision, find_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage
from perennial.rules.guards import ABANDONED
from tasks.notices import tell_verdict

RETRAIN = "retrain/retrain"
TRIES = 3
AGAIN_AFTER = [5.0, 30.0]  # seconds


def server_was_busy(task: Task, run: TaskRun, state: State) -> bool:
    """Whether to try again: a server on SQLite answers 503 while many runs start at once, some are just restarted."""
    try:
        state.result()
    except (PrefectHTTPStatusError, TransportError):
        return True
    except Exception:
        return False  # trying again would not help; the caller raises it
    return False


class Due(BaseModel, frozen=True):
    """A decision to retrain whose retraining has not ended. `claimant`: the flow run that began it, `claimed_at` when."""

    decision_id: str
    pipeline: str
    claimant: str | None
    claimed_at: datetime | None


@task
def claim_retrain(lake: Lake, decision_id: str) -> Decision | None:
    """The decision, claimed for this flow run; None when another run has it, or it was given up."""
    decision = find_decision(lake, "monitor", decision_id)
    if decision is None:
        raise LookupError(
            f"there is no decision {decision_id!r}. Nothing was started. `retrain` acts on a row of the decisions table, "
            "which `monitor` writes; give the id of one whose verdict is retrain."
        )
    ended = find_decision(lake, "retrain", decision_id)
    if ended is not None and ended.verdict == "failed":  # told as failed: nobody expects a model of it any more
        get_run_logger().warning("decision %s is over: %s", decision_id, ended.reason)
        return None
    if not claim_decision(lake, decision_id, str(flow_run.id), decision.as_of):
        get_run_logger().info("decision %s is claimed by another run", decision_id)
        return None
    if decision.verdict != "retrain":
        raise ValueError(
            f"decision {decision_id!r} says {decision.verdict}, not retrain: {decision.reason} Nothing was started."
        )
    return decision


def read_train_from(decision: Decision) -> datetime | None:
    """The oldest event time that the policy lets the retrain learn from; None: everything."""
    told = json.loads(decision.evidence).get("train_from")
    return datetime.fromisoformat(told) if told else None


@task
def record_retrain(lake: Lake, decision: Decision, version: int, verdict: str) -> Decision:
    """Record how a retraining ended: promoted, rejected, inconclusive or rolled back."""
    ended = {"promote": "promoted", "reject": "rejected"}.get(verdict, verdict)
    judged = read_decisions(lake, decision.pipeline).filter(kind="promotion", version=version)
    return record_decision(
        lake,
        Decision(
            decision_id=decision.decision_id,
            pipeline=decision.pipeline,
            kind="retrain",
            version=version,
            window_start=decision.window_start,
            window_end=decision.window_end,
            verdict=ended,
            reason=f"version {version} {ended}, retrained because: {decision.reason}",
            evidence=judged.row(-1, named=True)["evidence"],
            run_id=str(flow_run.id or ""),
            as_of=decision.as_of,
        ),
    )


@task
def find_due(lake: Lake, grace: timedelta) -> list[Due]:
    """Decisions to retrain that are older than `grace` and have not ended."""
    rows = read_decisions(lake)
    ended = set(rows.filter(kind="retrain")["decision_id"])
    claimed = rows.filter(kind="claim").select("decision_id", "run_id", "recorded_at")
    claims = {name: (run, at) for name, run, at in claimed.iter_rows()}
    before = datetime.now(UTC) - grace
    found = []
    for row in rows.filter(kind="monitor", verdict="retrain").iter_rows(named=True):
        if row["decision_id"] not in ended and row["recorded_at"] < before:
            claimant, at = claims.get(row["decision_id"], (None, None))
            found.append(
                Due(decision_id=row["decision_id"], pipeline=row["pipeline"], claimant=claimant, claimed_at=at)
            )
    return found


@task(retries=len(AGAIN_AFTER), retry_delay_seconds=AGAIN_AFTER, retry_condition_fn=server_was_busy)
def start_retrain(lake: Lake, due: Due) -> str:
    """Start what an event should have started, or start again a run that died half way; return what was done.

    What nothing can start (again) is given up: recorded as failed, and told to a person.
    """
    if due.claimant is None:
        hopeless = _run_once(due)
        done = "started"
    else:
        done, hopeless = _run_again(due.claimant, due.claimed_at)
    if hopeless:
        _give_up(lake, due, hopeless)
        return "given up"
    if done.startswith("started"):
        get_run_logger().warning("decision %s had no run at work: %s", due.decision_id, done)
    return done


@task
def find_untold(lake: Lake, grace: timedelta) -> list[Decision]:
    """What somebody should hear of, older than `grace`, whose event nobody recorded: verdicts, and how retrains ended.

    A verdict that says retrain is not among them: its event only wakes, and `find_due` has it.
    """
    rows = read_decisions(lake)
    told = set(rows.filter(kind="notice")["decision_id"])
    before = datetime.now(UTC) - grace
    quiet = (pl.col("kind") == "monitor") & (pl.col("verdict") != "retrain")
    late = rows.filter((quiet | (pl.col("kind") == "retrain")) & (pl.col("recorded_at") < before))
    return [
        Decision.model_validate({name: row[name] for name in Decision.model_fields})
        for row in late.iter_rows(named=True)
        if row["decision_id"] not in told
    ]


def _run_once(due: Due) -> str | None:
    """A run under a key of the decision's own; where that one has ended without a claim, one under the next key.

    Returns why there is none, and None where there is.
    """
    key, last = f"retrain/{due.decision_id}", ""
    for _ in range(TRIES):
        run = run_deployment(
            RETRAIN,
            parameters={"pipeline": due.pipeline, "decision_id": due.decision_id},
            idempotency_key=key,
            timeout=0,
        )
        assert isinstance(run, FlowRun)
        if run.state is None or not run.state.is_final():
            return None
        if run.state.type == StateType.CANCELLED:
            return f"run {run.name} was cancelled before it claimed the decision ({_say(run)})"
        key, last = f"{key}/after-{run.id}", f"{run.name} ({_say(run)})"
    return f"{TRIES} runs ended before they claimed the decision, the last of them {last}"


def _run_again(claimant: str, claimed_at: datetime | None) -> tuple[str, str | None]:
    """Let the run that claimed the decision go on where it ended; return what was done, or why nothing can be.

    Only that run may: a new one would be told that the decision is claimed.
    """
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(claimant))
        except ObjectNotFound:
            hours = ABANDONED.total_seconds() / 3600
            if claimed_at is not None and datetime.now(UTC) - claimed_at > ABANDONED:
                return "", f"run {claimant}, which this server does not know, has not ended it within {hours:g} hours"
            return "claimed elsewhere", None
        if run.state is None or not run.state.is_final():
            return "running", None
        if run.state.type == StateType.CANCELLED:
            return "", f"run {run.name} was cancelled ({_say(run)})"
        if run.run_count >= TRIES:
            return "", f"run {run.name} ended {run.run_count} times without an end of the retrain ({_say(run)})"
        if run.deployment_id is None:
            return "", f"run {run.name} ended ({_say(run)}), and no worker starts a run without a deployment again"
        client.set_flow_run_state(run.id, Scheduled(message="reconcile: start again where it ended"), force=True)
    return "started again", None


def _say(run: FlowRun) -> str:
    assert run.state is not None
    return f"{run.state.name}: {run.state.message}" if run.state.message else str(run.state.name)


def _give_up(lake: Lake, due: Due, why: str) -> None:
    """Record the retrain as failed and tell it; whoever recorded another end meanwhile is right."""
    decision = find_decision(lake, "monitor", due.decision_id)
    assert decision is not None
    serving = champion_stage(lake, due.pipeline)
    standing = f"version {serving.version} serves on" if serving else "no version serves, as before"
    given_up = decision.model_copy(
        update={
            "kind": "retrain",
            "version": None,
            "verdict": "failed",
            "reason": f"Given up: {why}; {standing}. Look at the run's log. The next window that asks for a retrain gets "
            "a new decision.",
            "evidence": json.dumps({"serving": serving.version if serving else None}),
            "run_id": due.claimant or "",
        }
    )
    ended = record_decision(lake, given_up)
    get_run_logger().error("decision %s: %s", due.decision_id, ended.reason)
    tell_verdict(lake, ended)
