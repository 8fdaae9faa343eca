"""Promotion's effects: judge a challenger on Ray, record the verdict as a decision, show it."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from perennial.lakehouse.decisions import Decision, find_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.stages import champion_stage, record_stage
from perennial.spec import load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, show_markdown, show_table

if TYPE_CHECKING:
    from ray_jobs.train.judge import Judged


@task
def find_champion(lake: Lake, pipeline: str) -> int | None:
    """The number of the version that serves, or None."""
    serving = champion_stage(lake, pipeline)
    return serving.version if serving else None


@task
def find_promotion(lake: Lake, pipeline: str, version: int, champion: int | None, as_of: datetime) -> Decision | None:
    """The verdict an earlier run recorded on these two versions at this moment, or None."""
    read_version(lake, pipeline, version)
    return find_decision(lake, "promotion", promotion_id(pipeline, version, champion, as_of))


@task(timeout_seconds=1800)
def judge_challenger(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, version: int, champion: int | None, as_of: datetime
) -> "Judged":
    """Score both versions on the rows neither was trained on, and judge; nothing is written."""
    from ray_jobs.train.judge import JudgeRequest, judge

    request = JudgeRequest(
        lake=lake, pipelines=pipelines, pipeline=pipeline, challenger=version, champion=champion, as_of=as_of
    )
    return run_job(compute, judge, request, spreads=False)


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def record_promotion(
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    version: int,
    champion: int | None,
    as_of: datetime,
    judged: "Judged",
) -> Decision:
    """Commit the verdict; return the row as it stands, also when another run was faster."""
    policy = asdict(load_pipeline(pipeline, pipelines).promotion)
    return record_decision(
        lake,
        Decision(
            decision_id=promotion_id(pipeline, version, champion, as_of),
            pipeline=pipeline,
            kind="promotion",
            version=version,
            window_start=judged.window_start,
            window_end=judged.window_end,
            verdict=judged.verdict.verdict,
            reason=judged.verdict.reason,
            evidence=json.dumps(judged.verdict.evidence | {"champion_version": champion}),
            policy=json.dumps(policy, default=str),
            run_id=str(flow_run.get_id() or ""),
            as_of=as_of,
        ),
    )


@task(timeout_seconds=600)
def record_rejection(lake: Lake, decision: Decision) -> None:
    """Record that a version was rejected, once. Where the verdict is another one its stage stays as it is."""
    assert decision.version is not None
    record_stage(
        lake,
        decision.pipeline,
        decision.version,
        "rejected",
        as_of=decision.as_of,
        reason=decision.reason,
        decision_id=decision.decision_id,
    )


@task
def show_promotion(decision: Decision) -> None:
    """Show a verdict in the UI: its sentence, and the slices it rests on."""
    evidence: dict[str, Any] = json.loads(decision.evidence)
    rival = f"version {evidence['champion_version']}" if evidence.get("champion_version") else "a constant"
    get_run_logger().info(
        "version %s of %s: %s: %s", decision.version, decision.pipeline, decision.verdict, decision.reason
    )
    figures = "".join(
        f"- {name.replace('_', ' ')}: {evidence[name]:.4f}\n"
        for name in ("challenger", "champion", "constant", "gain", "gain_low", "gain_high", "tolerated_loss")
        if isinstance(evidence.get(name), float)
    )
    show_markdown(
        f"promotion-{decision.pipeline}",
        f"## {decision.verdict.capitalize()}: version {decision.version} against {rival}\n\n{plain(decision.reason)}\n\n"
        f"On {evidence.get('rows', 0):,} labelled rows that neither was trained on, by {plain(evidence.get('metric'))}:\n\n"
        f"{figures}\nDecision `{decision.decision_id}`.\n",
        description=f"Promotion of version {decision.version} of {decision.pipeline}: {decision.verdict}",
    )
    if evidence.get("slices"):
        show_table(
            f"promotion-slices-{decision.pipeline}",
            [{name: _rounded(value) for name, value in row.items()} for row in evidence["slices"]],
            description="Both versions on each declared slice",
        )


def promotion_id(pipeline: str, version: int, champion: int | None, as_of: datetime) -> str:
    """The same two versions at the same moment are one decision; a later moment, with more labels, is another."""
    rival = f"v{champion}" if champion else "constant"
    return f"{pipeline}-v{version}-against-{rival}-{as_of.astimezone(UTC):%Y%m%dT%H%M%S}"


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
