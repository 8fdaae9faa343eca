"""Serving's effects: a version becomes champion, the endpoint follows, and a row says how it went."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, find_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import Stage, champion_stage, make_champion, read_stages
from perennial.lakehouse.trials import Trial, rollout_id, win_trial
from perennial.spec import Pipeline, load_pipeline
from tasks.compute import Compute, run_job

if TYPE_CHECKING:
    from ray_jobs.serve.config import ServeConfig
    from ray_jobs.serve.roll import RollReport, RollRequest


class NotApproved(ValueError):
    """A version without a promotion to its name; nothing was changed."""


class RolledBack(RuntimeError):
    """A version was tried and failed, or the endpoint did not come to it; the former champion serves."""

    def __init__(self, pipeline: str, version: int, former: int | None, reason: str) -> None:
        standing = f"version {former} serves on" if former else "no version serves, there was none before"
        super().__init__(f"version {version} of {pipeline} was rolled back; {standing}. {reason}")


class Step(BaseModel, frozen=True):
    """A roll-out under way: the champion's row, and who served before.

    Args:
        decision: how an earlier run of the same roll-out ended; None while it is open.
    """

    stage: Stage
    former: int | None
    decision: Decision | None

    @property
    def decision_id(self) -> str:
        """The roll-out's id among the decisions: the same for every run of it."""
        return self.stage.decision_id


@task
def check_approval(lake: Lake, pipeline: str, version: int) -> str:
    """Return the reason why the version may serve: a promotion, or that it has served before.

    Raises:
        NotApproved: it has neither, or another champion serves than the one it was promoted over.
    """
    rows = read_decisions(lake, pipeline).filter(kind="promotion", version=version)
    promoted = rows.filter(rows["verdict"] == "promote")
    overtaken = _overtaken(lake, pipeline, version, promoted["evidence"][-1]) if promoted.height else None
    if promoted.height and overtaken is None:
        return str(promoted["reason"][-1])
    if any(step.version == version and step.stage in ("champion", "archived") for step in read_stages(lake, pipeline)):
        return "it has served before"
    if overtaken:
        raise NotApproved(overtaken)
    verdicts = rows["verdict"].to_list()
    raise NotApproved(
        f"version {version} of {pipeline} may not serve: "
        + (f"its promotion was judged {verdicts[-1]!r}" if verdicts else "no promotion was ever decided for it")
        + ". Nothing was changed. Run promote for it, or roll out a version that was promoted."
    )


def _overtaken(lake: Lake, pipeline: str, version: int, evidence: str) -> str | None:
    """Why a promotion does not hold any more: of two that were decided at once only one can be carried out."""
    judged: dict[str, Any] = json.loads(evidence)
    serving = champion_stage(lake, pipeline)
    expected, now = judged.get("champion_generation"), serving.generation if serving else 0
    if expected is None or expected == now or (serving and serving.version == version):
        return None
    over = f"version {judged['champion_version']}" if judged.get("champion_version") else "no version"
    assert serving is not None
    return (
        f"version {version} of {pipeline} was promoted while {over} served (generation {expected}), and version "
        f"{serving.version} (generation {now}) does by now: they were never compared. Nothing was changed. Run promote again."
    )


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def crown(lake: Lake, pipeline: str, version: int, as_of: datetime, reason: str, trial: Trial | None) -> Step:
    """Make the version champion in the registry, or find that an earlier run of this roll-out has.

    Args:
        trial: by which it was tried; it ends with this. None: there was nothing to try it against.

    Raises:
        StageConflict: another run was faster, or has withdrawn the version; nothing was changed by this one.
    """
    stage = champion_stage(lake, pipeline)
    if stage is None or stage.version != version:
        if trial:
            stage = win_trial(lake, trial, as_of=as_of, reason=reason)
        else:
            first = rollout_id(pipeline, version, 1)
            stage = make_champion(
                lake, pipeline, version, expected_generation=0, as_of=as_of, reason=reason, decision_id=first
            )
    earlier = [s for s in read_stages(lake, pipeline) if s.stage == "champion" and s.generation < stage.generation]
    former = max(earlier, key=lambda step: step.generation).version if earlier else None
    return Step(stage=stage, former=former, decision=find_decision(lake, "rollout", stage.decision_id))


@task(timeout_seconds=900)
def roll_endpoint(compute: Compute, serve: "ServeConfig", lake: Lake, pipelines: Path, step: Step) -> "RollReport":
    """Bring every replica of the endpoint to the champion; return when each answers with it, or why it does not.

    What the endpoint served before a failure, it serves still.
    """
    from ray_jobs.serve.roll import RollReport, roll

    if step.decision is not None and step.decision.verdict == "rolled_back":
        return RollReport(failure=step.decision.reason)  # an earlier run was killed on its way back
    pipeline, stage = load_pipeline(step.stage.pipeline, pipelines), step.stage
    request = endpoint_request(lake, serve, pipeline, pipelines, stage.version, stage.generation)
    report = run_job(compute, roll, request)
    log = get_run_logger()
    if report.failure:
        log.warning("%s does not serve version %d: %s", pipeline.name, request.version, report.failure)
    else:
        log.info("%s serves version %d after %.1f s", pipeline.name, request.version, report.seconds)
    return report


@task(timeout_seconds=600)
def record_rollout(lake: Lake, step: Step, as_of: datetime, report: "RollReport", tried: str) -> None:
    """Write down that the version serves. `tried`: the steps it went through, or why it went through none."""
    stage, replicas = step.stage, len(report.states)
    decision = Decision(
        decision_id=step.decision_id,
        pipeline=stage.pipeline,
        kind="rollout",
        version=stage.version,
        verdict="rolled_out",
        reason=f"version {stage.version} answers on {replicas} {'replica' if replicas == 1 else 'replicas'}, "
        f"{'the first to serve' if step.former is None else f'after version {step.former}'}. Tried: {tried}",
        evidence=json.dumps(
            {"former": step.former, "generation": stage.generation, "seconds": report.seconds, "tried": tried}
        ),
        run_id=str(flow_run.get_id() or ""),
        as_of=as_of,
    )
    record_decision(lake, decision)


def endpoint_request(
    lake: Lake,
    serve: "ServeConfig",
    pipeline: Pipeline,
    pipelines: Path,
    version: int,
    generation: int,
    turn: str | None = None,
) -> "RollRequest":
    """What the endpoint is to become, with today's code and settings."""
    from perennial.rules.features import pipeline_code_hash
    from ray_jobs.serve.config import EndpointConfig
    from ray_jobs.serve.roll import RollRequest

    endpoint = EndpointConfig(
        lake=lake,
        pipeline=pipeline.name,
        pipelines=pipelines,
        code_hash=pipeline_code_hash(pipeline),
        serve=serve,
        replicas=pipeline.serving.replicas,
        maximum_replicas=pipeline.serving.maximum_replicas or pipeline.serving.replicas,
        target_ongoing_requests=pipeline.serving.target_ongoing_requests,
    )
    return RollRequest(endpoint=endpoint, version=version, generation=generation, turn=turn)
