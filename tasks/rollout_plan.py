"""What a roll-out will do: opened in the registry, or found open, and the steps that are left of it."""

from datetime import datetime, timedelta
from pathlib import Path

from prefect import get_run_logger, task
from pydantic import BaseModel

from perennial.lakehouse.decisions import find_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.trials import Trial, open_trial, read_traffic
from perennial.lakehouse.tried import read_before, step_name
from perennial.rules.features import feature_code_hash
from perennial.rules.rollout import REPLAY
from perennial.spec import Pipeline, load_pipeline

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
    live, seconds = sum(stage != REPLAY for stage, _ in plan.steps), declared.rollout.seconds
    get_run_logger().info(
        "version %d of %s against version %d: %s%s. %s", version, pipeline, serving.version, steps,
        f", {live} live steps of at most {seconds:g} s each" if live else "", plan.reason,
    )  # fmt: skip
    return plan


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
