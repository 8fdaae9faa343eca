"""A roll-out's effects: open it, replay, divert a share of the requests, look at what came of it."""

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
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.trials import RolloutRefused, Trial, divert, open_trial, read_traffic
from perennial.lakehouse.tried import losses, read_before, read_steps, step_name
from perennial.rules.features import feature_code_hash
from perennial.rules.rollout import REPLAY, Arm, Figure, Seen, judge_rollout
from perennial.spec import Pipeline, load_pipeline
from tasks.compute import Compute, run_job
from tasks.serving import endpoint_request
from tasks.telemetry import show_table

if TYPE_CHECKING:
    from ray_jobs.serve.config import ServeConfig
    from ray_jobs.serve.replay import Replayed

LOOK_SECONDS = 1.0
IDLE_SECONDS = 10.0  # answers take some seconds to the log: a shorter silence says nothing


class Plan(BaseModel, frozen=True):
    """What a roll-out will do.

    Args:
        trial: None where no version serves that it could be tried against.
        champion: the version that serves meanwhile.
        steps: live steps and the replay, as (stage, share); `reason`: why there are none.
        answered, failed: the champion's requests before, for the test of errors.
        rolled_back: why an earlier run of this roll-out ended it, before it was killed on its way back.
    """

    trial: Trial | None = None
    champion: int | None = None
    steps: list[tuple[str, float]] = []
    reason: str = ""
    answered: int = 0
    failed: int = 0
    rolled_back: str | None = None


class StepResult(BaseModel, frozen=True):
    """How a step ended. `verdict`: `go_on` or `roll_back`; `requests`: of the challenger in it."""

    step: str
    verdict: str
    reason: str
    requests: int
    seconds: float
    figures: list[dict[str, str | float | bool]] = []


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def plan_rollout(lake: Lake, pipelines: Path, pipeline: str, version: int, as_of: datetime, reason: str) -> Plan:
    """Open the roll-out in the registry, or find the open one, and say what is to be tried.

    Raises:
        RolloutRefused: another version is being rolled out; nothing was changed.
    """
    serving = read_traffic(lake, pipeline).champion
    if serving is None:
        return Plan(reason="no version serves that it could be compared with")
    if serving.version == version:
        return Plan(reason="it serves already")
    declared = load_pipeline(pipeline, pipelines)
    trial = open_trial(lake, pipeline, version, as_of=as_of, reason=reason)
    ended = find_decision(lake, "rollout", trial.rollout)
    if ended is not None and ended.verdict == "rolled_back":
        return Plan(trial=trial, champion=serving.version, rolled_back=ended.reason)
    plan = _plan_steps(lake, declared, trial, serving.version)
    steps = ", ".join(step_name(*step) for step in plan.steps) or "nothing to try"
    get_run_logger().info(
        "version %d of %s against version %d: %s. %s", version, pipeline, serving.version, steps, plan.reason
    )
    return plan


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
    policy, following = pipeline.rollout, datetime.now(UTC)
    while True:
        over = (datetime.now(UTC) - following).total_seconds() >= policy.seconds
        commit_predictions(lake, trial.pipeline)
        now = datetime.now(UTC)
        seen = read_steps(lake, pipeline, trial, plan.champion, now, labels_as_of=now if over else None)
        requests = len(seen[-1].challenger.failed) if seen else 0
        figures = judge_rollout(seen, plan.answered, plan.failed, policy)
        if over or requests >= policy.requests or figures[0].rings:
            return _conclude(name, figures, requests, (now - following).total_seconds(), policy.without_traffic)
        standing = read_traffic(lake, trial.pipeline).trial
        if standing is None or standing.rollout != trial.rollout:
            raise RolloutRefused(
                f"the roll-out {trial.rollout} was ended by another run while {name} was watched. The registry says what "
                "serves; nothing was changed by this run."
            )
        time.sleep(LOOK_SECONDS)


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


def _plan_steps(lake: Lake, pipeline: Pipeline, trial: Trial, champion: int) -> Plan:
    policy, code = pipeline.rollout, feature_code_hash(pipeline)
    plan = Plan(trial=trial, champion=champion)
    for version in (champion, trial.version):
        of_version = read_version(lake, pipeline.name, version).feature_code_hash
        if of_version != code:
            why = f"version {version} was trained with feature code {of_version} and today's is {code}"
            return plan.model_copy(update={"reason": f"{why}: no replica can hold both, so nothing was tried"})
    commit_predictions(lake, pipeline.name)
    before = read_before(lake, pipeline, champion, trial.opened)
    if before.is_empty():
        return plan.model_copy(update={"reason": f"nobody has asked version {champion} yet, so nothing was tried"})
    asked = before.filter(before["row_index"] == 0)
    plan = plan.model_copy(update={"answered": asked.height, "failed": int(asked["error"].is_not_null().sum())})
    live = [*([("shadow", 0.0)] if policy.shadow else []), *(("canary", share) for share in policy.canary)]
    idle = trial.opened - before["answered_at"][0]
    if trial.stage != "challenger":  # a run was killed: it had come as far as this
        live = [step for step in live if _place(*step) >= _place(trial.stage, trial.share)]
    elif idle > timedelta(seconds=max(policy.seconds, IDLE_SECONDS)):
        plan = plan.model_copy(
            update={"reason": f"no request for {idle.total_seconds():.0f} s, so no live step was tried"}
        )
        live = []
    steps = [*([(REPLAY, 0.0)] if policy.replay_rows else []), *live]
    return plan.model_copy(update={"steps": steps})


def _place(stage: str, share: float) -> tuple[bool, float]:
    return stage == "canary", share


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
