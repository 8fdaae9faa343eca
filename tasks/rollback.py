"""The way back: withdraw a challenger, return to a former version, and tell everybody."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.runtime import flow_run
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, find_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.stages import Stage, StageConflict, make_champion, read_stages
from perennial.lakehouse.trials import Trial, end_trial, read_traffic, rollout_id
from perennial.rules.features import feature_code_hash
from perennial.spec import load_pipeline
from tasks.compute import Compute, run_job
from tasks.events import ModelRolledBack, emit
from tasks.rollout_plan import Plan
from tasks.serving import Step, endpoint_request
from tasks.telemetry import plain, show_markdown

if TYPE_CHECKING:
    from ray_jobs.serve.config import ServeConfig

RETURNED = "roll_back: "


class NothingBefore(LookupError):
    """There is no earlier version to return to; nothing was changed."""


class OtherRevision(ValueError):
    """The version needs other feature code than today's; nothing was changed."""


class Former(BaseModel, frozen=True):
    """The version to return to. `trial`: what is being tried and ends with it."""

    pipeline: str
    version: int
    champion: Stage
    trial: Trial | None

    @property
    def serves(self) -> bool:
        """Whether it is champion already; then only a trial can end."""
        return self.version == self.champion.version


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def record_withdrawal(lake: Lake, pipelines: Path, plan: Plan, as_of: datetime, reason: str) -> Decision:
    """Write down that the challenger failed, before anything is changed: whoever comes next finishes it."""
    trial = plan.trial
    assert trial is not None
    policy = load_pipeline(trial.pipeline, pipelines).rollout
    return record_decision(
        lake,
        Decision(
            decision_id=trial.rollout,
            pipeline=trial.pipeline,
            kind="rollout",
            version=trial.version,
            verdict="rolled_back",
            reason=reason,
            evidence=json.dumps({"former": plan.champion, "generation": trial.generation}),
            policy=json.dumps(asdict(policy)),
            run_id=str(flow_run.get_id() or ""),
            as_of=as_of,
        ),
    )


@task(timeout_seconds=900)
def withdraw(
    compute: Compute, serve: "ServeConfig", lake: Lake, pipelines: Path, plan: Plan, as_of: datetime, reason: str
) -> None:
    """Give the champion all requests again; return when every replica does so, or will by itself."""
    from ray_jobs.serve.roll import roll

    assert plan.trial is not None
    end_trial(lake, plan.trial, as_of=as_of, reason=reason)
    traffic = read_traffic(lake, plan.trial.pipeline)
    if traffic.champion is None or traffic.champion.generation != plan.trial.generation or traffic.trial is not None:
        return  # somebody else has gone on meanwhile
    pipeline = load_pipeline(plan.trial.pipeline, pipelines)
    asked = (traffic.champion.version, traffic.champion.generation, "")
    report = run_job(compute, roll, endpoint_request(lake, serve, pipeline, pipelines, *asked))
    if report.failure:
        get_run_logger().warning("replicas follow the registry by themselves: %s", report.failure)


@task(timeout_seconds=600)
def return_to_former(lake: Lake, step: Step, as_of: datetime, reason: str) -> Decision:
    """Write down that the endpoint did not come to the version, and make the former champion champion again.

    The row comes first: a run that is killed between the two is finished by the next one.
    """
    stage = step.stage
    decision = record_decision(
        lake,
        Decision(
            decision_id=step.decision_id,
            pipeline=stage.pipeline,
            kind="rollout",
            version=stage.version,
            verdict="rolled_back",
            reason=reason,
            evidence=json.dumps({"former": step.former, "generation": stage.generation}),
            run_id=str(flow_run.get_id() or ""),
            as_of=as_of,
        ),
    )
    if step.former is not None:
        make_champion(
            lake,
            stage.pipeline,
            step.former,
            expected_generation=stage.generation,
            as_of=as_of,
            reason=f"version {stage.version} was rolled back",
            decision_id=rollout_id(stage.pipeline, step.former, stage.generation + 1),
        )
    return decision


@task
def choose_former(lake: Lake, pipelines: Path, pipeline: str, version: int | None, as_of: datetime) -> Former:
    """The version to return to, checked: it has served, and today's feature code is the one it was trained with.

    Raises:
        NothingBefore: no version has served before, or this one never has.
        OtherRevision: replicas of today's code would refuse it.
    """
    traffic, served = read_traffic(lake, pipeline), [s for s in read_stages(lake, pipeline) if s.stage == "champion"]
    champion = traffic.champion
    if champion is None:
        raise NothingBefore(f"no version of {pipeline} has ever served. Nothing was changed. Roll one out.")
    if version is None:
        before = sorted((s for s in served if s.version != champion.version), key=lambda step: step.generation)
        returned = champion.reason.startswith(RETURNED) and champion.as_of == as_of  # by this run, before it was killed
        version = champion.version if traffic.trial or returned else before[-1].version if before else None
    if version is None or version not in {step.version for step in served}:
        raise NothingBefore(
            f"version {version if version is not None else 'before the champion'} of {pipeline} has never served; these "
            f"have: {sorted({step.version for step in served})}. Nothing was changed; version {champion.version} serves. A "
            "version that is new to the endpoint goes through roll_out."
        )
    _check_revision(lake, pipelines, pipeline, version)
    return Former(pipeline=pipeline, version=version, champion=champion, trial=traffic.trial)


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def return_to(lake: Lake, former: Former, as_of: datetime, reason: str) -> Step:
    """Make the former version champion, in one commit that also ends whatever is being tried.

    Raises:
        StageConflict: another run made a version champion meanwhile; nothing was changed by this one.
    """
    stage = former.champion
    if former.trial and former.serves:
        end_trial(lake, former.trial, as_of=as_of, reason=f"{RETURNED}{reason}")
        champion = read_traffic(lake, former.pipeline).champion
        if champion is None or champion.generation != stage.generation:
            raise StageConflict(
                f"version {former.trial.version} of {former.pipeline} was to be withdrawn, and became champion at that very "
                "moment. Nothing was changed. Run roll_back again: it then returns to the version before."
            )
    if not former.serves:
        stage = make_champion(
            lake,
            former.pipeline,
            former.version,
            expected_generation=stage.generation,
            as_of=as_of,
            reason=f"{RETURNED}{reason}",
            decision_id=rollout_id(former.pipeline, former.version, stage.generation + 1),
        )
    decision = find_decision(lake, "rollout", stage.decision_id)
    return Step(stage=stage, former=former.champion.version, decision=decision)


@task(timeout_seconds=600)
def record_return(lake: Lake, step: Step, former: Former, as_of: datetime, reason: str) -> Decision:
    """Write down which version was left, for which one, and why."""
    trial = former.trial if former.serves else None
    return record_decision(
        lake,
        Decision(
            decision_id=trial.rollout if trial else step.decision_id,
            pipeline=former.pipeline,
            kind="rollout",
            version=trial.version if trial else step.former,
            verdict="rolled_back" if trial else "returned",
            reason=f"returned to version {former.version}: {reason}",
            evidence=json.dumps({"former": former.version, "generation": step.stage.generation}),
            run_id=str(flow_run.get_id() or ""),
            as_of=as_of,
        ),
    )


@task
def tell_rolled_back(decision: Decision) -> None:
    """Ring the bell and show why in the UI; a lost event loses nothing, the row is there."""
    former = json.loads(decision.evidence)["former"]
    assert decision.version is not None
    emit(
        ModelRolledBack(
            pipeline=decision.pipeline,
            decision_id=decision.decision_id,
            reason=decision.reason,
            as_of=decision.as_of,
            version=decision.version,
            former=former,
        )
    )
    show_markdown(
        f"rolled-back-{decision.pipeline}",
        f"## Version {decision.version} was rolled back\n\n{plain(decision.reason)}\n\nVersion {former} of "
        f"{plain(decision.pipeline)} serves. Decision `{decision.decision_id}`.\n",
        description=f"Version {decision.version} of {decision.pipeline} was rolled back",
    )


def _check_revision(lake: Lake, pipelines: Path, pipeline: str, version: int) -> None:
    registered, code = read_version(lake, pipeline, version), feature_code_hash(load_pipeline(pipeline, pipelines))
    if registered.feature_code_hash != code:
        raise OtherRevision(
            f"version {version} of {pipeline} was trained with feature code {registered.feature_code_hash}, and "
            f"pipelines/{pipeline}.py is {code} here: its features would not be those it learned from. Nothing was changed. "
            f"Check out the revision of pipelines/{pipeline}.py of {registered.created_at:%Y-%m-%d %H:%M} UTC, when the "
            f"version was trained (its golden rows prove the right one), deploy it, and run roll_back again."
        )
