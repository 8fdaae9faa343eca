"""The decisions table in a run: claim what one acts on, record how it ended, find what nobody acted on."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import polars as pl
from httpx import TransportError
from prefect import State, Task, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Scheduled
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, claim_decision, find_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake

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
    """A decision to retrain whose retraining has not ended. `claimant`: the flow run that began it."""

    decision_id: str
    pipeline: str
    claimant: str | None


@task
def claim_retrain(lake: Lake, decision_id: str) -> Decision | None:
    """The decision, claimed for this flow run; None when another run has it."""
    decision = find_decision(lake, "monitor", decision_id)
    if decision is None:
        raise LookupError(
            f"there is no decision {decision_id!r}. Nothing was started. `retrain` acts on a row of the decisions table, "
            "which `monitor` writes; give the id of one whose verdict is retrain."
        )
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
    claims = dict(rows.filter(kind="claim").select("decision_id", "run_id").iter_rows())
    before = datetime.now(UTC) - grace
    return [
        Due(decision_id=row["decision_id"], pipeline=row["pipeline"], claimant=claims.get(row["decision_id"]))
        for row in rows.filter(kind="monitor", verdict="retrain").iter_rows(named=True)
        if row["decision_id"] not in ended and row["recorded_at"] < before
    ]


@task(retries=len(AGAIN_AFTER), retry_delay_seconds=AGAIN_AFTER, retry_condition_fn=server_was_busy)
def start_retrain(lake: Lake, due: Due) -> str:
    """Start what an event should have started, or start again a run that died half way; return what was done."""
    logger = get_run_logger()
    if due.claimant is None:
        _run_once(due)
        logger.warning("decision %s had no run: started", due.decision_id)
        return "started"
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(due.claimant))
        except ObjectNotFound:
            logger.error(
                "decision %s is claimed by run %s, which this server does not know", due.decision_id, due.claimant
            )
            return "claimed elsewhere"
        if run.state is None or not run.state.is_final():
            return "running"
        if run.run_count >= TRIES:
            logger.error(
                "decision %s: run %s ended %s after %d tries", due.decision_id, run.name, run.state.name, run.run_count
            )
            _record_failure(lake, due, run.name, run.run_count, run.state.message or str(run.state.name))
            return "given up"
        client.set_flow_run_state(run.id, Scheduled(message="reconcile: start again where it ended"), force=True)
    logger.warning("decision %s: run %s ended %s; started again", due.decision_id, run.name, run.state.name)
    return "started again"


@task
def find_untold(lake: Lake, grace: timedelta) -> list[Decision]:
    """Verdicts other than retrain that somebody should hear of, older than `grace`, whose event nobody recorded."""
    rows = read_decisions(lake)
    told = set(rows.filter(kind="notice")["decision_id"])
    before = datetime.now(UTC) - grace
    quiet = rows.filter((pl.col("kind") == "monitor") & (pl.col("verdict") != "retrain"))
    late = quiet.filter(pl.col("recorded_at") < before)
    return [
        Decision.model_validate({name: row[name] for name in Decision.model_fields})
        for row in late.iter_rows(named=True)
        if row["decision_id"] not in told
    ]


def _run_once(due: Due) -> None:
    """A run under a key of the decision's own; where that one has ended without a claim, one under the next key."""
    key = f"retrain/{due.decision_id}"
    for _ in range(TRIES):
        run = run_deployment(
            RETRAIN,
            parameters={"pipeline": due.pipeline, "decision_id": due.decision_id},
            idempotency_key=key,
            timeout=0,
        )
        assert isinstance(run, FlowRun)
        if run.state is None or not run.state.is_final():
            return
        key = f"{key}/after-{run.id}"


def _record_failure(lake: Lake, due: Due, run: str, tries: int, message: str) -> None:
    decision = find_decision(lake, "monitor", due.decision_id)
    assert decision is not None
    record_decision(
        lake,
        decision.model_copy(
            update={
                "kind": "retrain",
                "version": None,
                "verdict": "failed",
                "reason": f"run {run} ended {tries} times without an end ({message}); the champion serves on. Look at the "
                "run's log; the next window that asks for a retrain gets a new decision.",
                "evidence": "{}",
                "run_id": due.claimant or "",
            }
        ),
    )
