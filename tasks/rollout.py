"""A roll-out's steps: replay, divert a share of the requests, look at what came of it."""

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from prefect import get_run_logger, task
from prefect.runtime import flow_run
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, find_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.trials import RolloutRefused, Trial, divert, read_traffic
from perennial.lakehouse.tried import losses, read_steps, step_name
from perennial.rules.rollout import REPLAY, Arm, Figure, Seen, judge_rollout
from perennial.spec import Pipeline, Rollout, load_pipeline
from tasks.compute import Compute, run_job
from tasks.rollout_plan import Plan
from tasks.serving import endpoint_request
from tasks.telemetry import show_table

if TYPE_CHECKING:
    from ray_jobs.serve.config import ServeConfig
    from ray_jobs.serve.replay import Replayed

LOOK_SECONDS = 1.0
PROGRESS_SECONDS = 10.0


class StepResult(BaseModel, frozen=True):
    """How a step ended. `verdict`: `go_on` or `roll_back`; `requests`: of the challenger in it."""

    step: str
    verdict: str
    reason: str
    requests: int
    seconds: float
    figures: list[dict[str, str | float | bool]] = []


def _replay(compute: Compute, lake: Lake, pipelines: Path, plan: Plan, trial: Trial, as_of: datetime) -> StepResult:
    """Let the challenger score what the champion answered, on Ray; no live request is touched."""
    from ray_jobs.serve.replay import ReplayRequest, replay

    assert plan.champion is not None
    pipeline, started = load_pipeline(trial.pipeline, pipelines), time.monotonic()
    request = ReplayRequest(
        lake=lake,
        pipelines=pipelines,
        pipeline=trial.pipeline,
        version=trial.version,
        champion=plan.champion,
        rows=pipeline.rollout.replay_rows,
        moment=trial.opened,
        as_of=as_of,
    )
    seen = _seen_in_replay(pipeline, run_job(compute, replay, request))
    others = max(0, plan.answered - len(seen.champion.failed))  # the replayed ones are among those before
    figures = judge_rollout([seen], others, plan.failed, pipeline.rollout)
    return _conclude(REPLAY, figures, len(seen.challenger.failed), time.monotonic() - started)


@task
def try_step(
    compute: Compute,
    serve: "ServeConfig",
    lake: Lake,
    pipelines: Path,
    plan: Plan,
    stage: str,
    share: float,
    as_of: datetime,
) -> StepResult:
    """Try a version in one step and record how it ended; a step that was recorded before is not tried again.

    Raises:
        RolloutRefused: the roll-out was ended by somebody else meanwhile.
    """
    trial, name = plan.trial, step_name(stage, share)
    assert trial is not None
    done = find_decision(lake, "rollout_step", f"{trial.rollout}/{name}")
    if done is not None:
        return StepResult.model_validate_json(done.evidence)
    if stage == REPLAY:
        return _record(lake, trial, _replay(compute, lake, pipelines, plan, trial, as_of), as_of)
    trial = divert(lake, trial, stage, share, as_of=as_of, reason=f"step {name}")  # type: ignore[arg-type]
    return _record(lake, trial, _try_live(compute, serve, lake, pipelines, plan, trial), as_of)


def _try_live(
    compute: Compute, serve: "ServeConfig", lake: Lake, pipelines: Path, plan: Plan, trial: Trial
) -> StepResult:
    """Take every replica to the step, then look at the log until the step is over or an alarm rings."""
    from ray_jobs.serve.roll import roll

    assert plan.champion is not None
    name, pipeline = step_name(trial.stage, trial.share), load_pipeline(trial.pipeline, pipelines)
    asked = endpoint_request(lake, serve, pipeline, pipelines, trial.version, trial.generation, trial.turn)
    report = run_job(compute, roll, asked)
    if report.failure:
        return StepResult(step=name, verdict="roll_back", reason=report.failure, requests=0, seconds=report.seconds)
    get_run_logger().info("%s: all replicas follow after %.1f s", name, report.seconds)
    policy, following, told = pipeline.rollout, datetime.now(UTC), datetime.now(UTC)
    while True:
        looking = time.monotonic()
        over = (datetime.now(UTC) - following).total_seconds() >= policy.seconds
        commit_predictions(lake, trial.pipeline)
        now = datetime.now(UTC)
        seen = read_steps(lake, pipeline, trial, plan.champion, now)
        requests = len(seen[-1].challenger.failed) if seen else 0
        over = over or requests >= policy.requests
        if over:  # labels cost a read of their source: once a step, when all that it can have are there
            seen = read_steps(lake, pipeline, trial, plan.champion, now, labels_as_of=now)
        figures = judge_rollout(seen, plan.answered, plan.failed, policy)
        if over or figures[0].rings:
            return _conclude(name, figures, requests, (now - following).total_seconds(), policy.without_traffic)
        standing = read_traffic(lake, trial.pipeline).trial
        if standing is None or standing.rollout != trial.rollout:
            raise RolloutRefused(
                f"the roll-out {trial.rollout} was ended by another run while {name} was watched. The registry says what "
                "serves; nothing was changed by this run."
            )
        if now - told >= timedelta(seconds=PROGRESS_SECONDS):
            told = now
            get_run_logger().info("%s", _progress(name, figures, requests, (now - following).total_seconds(), policy))
        time.sleep(max(LOOK_SECONDS, time.monotonic() - looking))  # at most half of the time is spent on looking


def _progress(name: str, figures: list[Figure], requests: int, seconds: float, policy: Rollout) -> str:
    nearest = max(figures, key=lambda figure: figure.evidence / figure.limit)
    return (
        f"{name}: {requests:,} of {policy.requests:,} requests, {seconds:.0f} of {policy.seconds:.0f} s; nearest to its alarm: "
        f"{nearest.alarm}, {nearest.evidence:.3g} of {nearest.limit:.3g}"
    )


@task
def show_rollout(pipeline: str, version: int, plan: Plan, results: list[StepResult]) -> None:
    """Show how far a roll-out is, what was compared, and how near each comparison is to its alarm."""
    rows = [
        {
            "step": result.step,
            "verdict": result.verdict.replace("_", " "),
            "compared": figure["alarm"],
            "alarm": f"{figure['evidence']:.3g} of {figure['limit']:.3g}",
            "what was seen": figure["sentence"],
        }
        for result in results
        for figure in result.figures
    ]
    if rows:
        against = f"version {version} of {pipeline} against version {plan.champion}"
        show_table(f"rollout-{pipeline}", rows, description=f"Roll-out of {against}: {results[-1].reason}")


def _seen_in_replay(pipeline: Pipeline, replayed: "Replayed") -> Seen:
    champion = np.array(replayed.champion, dtype=np.float64)
    challenger = np.array(replayed.challenger, dtype=np.float64)  # None becomes NaN
    places, untimed = np.arange(len(champion), dtype=np.float64), np.full(len(champion), np.nan)
    pair = pl.Series(replayed.challenger, dtype=pl.Float64), pl.Series(replayed.champion, dtype=pl.Float64)
    return Seen(
        REPLAY,
        Arm(places, np.isnan(champion), untimed, champion),
        Arm(places, np.isnan(challenger), untimed, challenger),
        paired=True,
        losses=losses(pipeline, *pair, pl.Series(replayed.labels, dtype=pl.Float64)),
    )


def _conclude(
    step: str, figures: list[Figure], requests: int, seconds: float, without_traffic: str = "go_on"
) -> StepResult:
    ringing = [figure for figure in figures if figure.rings]
    verdict = "roll_back" if ringing or (requests == 0 and without_traffic == "roll_back") else "go_on"
    if ringing:
        reason = f"in {step}, {ringing[0].alarm}: {ringing[0].sentence}"
    elif requests == 0:
        reason = f"in {step} no request came in {seconds:.0f} s; the policy says {without_traffic}"
    else:
        reason = f"{step}: no alarm on {requests:,} requests in {seconds:.0f} s"
    shown = [asdict(figure) | {"rings": figure.rings} for figure in figures]
    return StepResult(
        step=step, verdict=verdict, reason=reason, requests=requests, seconds=round(seconds, 1), figures=shown
    )


def _record(lake: Lake, trial: Trial, result: StepResult, as_of: datetime) -> StepResult:
    decision = Decision(
        decision_id=f"{trial.rollout}/{result.step}",
        pipeline=trial.pipeline,
        kind="rollout_step",
        version=trial.version,
        verdict=result.verdict,
        reason=result.reason,
        evidence=result.model_dump_json(),
        run_id=str(flow_run.get_id() or ""),
        as_of=as_of,
    )
    get_run_logger().info("%s", result.reason)
    return StepResult.model_validate_json(record_decision(lake, decision).evidence)
