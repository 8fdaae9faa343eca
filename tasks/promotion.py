"""Promotion's effects: judge a challenger on Ray, record the verdict as a decision, show it, ring."""

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
from perennial.lakehouse.stages import Stage, champion_stage, record_stage
from perennial.spec import load_pipeline
from tasks.compute import Compute, run_job
from tasks.events import ModelInconclusive, ModelPromoted, ModelRejected, emit
from tasks.telemetry import plain, show_markdown, show_table

if TYPE_CHECKING:
    from ray_jobs.serve.config import ServeConfig
    from ray_jobs.train.judge import Judged

EVENTS = {"promote": ModelPromoted, "reject": ModelRejected, "inconclusive": ModelInconclusive}


@task
def find_champion(lake: Lake, pipeline: str) -> Stage | None:
    """The row that says who serves, or None."""
    return champion_stage(lake, pipeline)


@task
def find_promotion(lake: Lake, pipeline: str, version: int, champion: Stage | None, as_of: datetime) -> Decision | None:
    """The verdict an earlier run recorded on these two versions at this moment, or None."""
    read_version(lake, pipeline, version)
    return find_decision(lake, "promotion", promotion_id(pipeline, version, champion, as_of))


@task(timeout_seconds=1800)
def judge_quality(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, version: int, champion: Stage | None, as_of: datetime
) -> "Judged":
    """The first gate: score both versions on the rows neither was trained on, and judge; nothing is written."""
    from ray_jobs.train.judge import JudgeRequest, judge

    request = JudgeRequest(
        lake=lake,
        pipelines=pipelines,
        pipeline=pipeline,
        challenger=version,
        champion=champion.version if champion else None,
        as_of=as_of,
    )
    return run_job(compute, judge, request, spreads=False)


@task(timeout_seconds=900)
def judge_infrastructure(
    compute: Compute,
    serve: "ServeConfig",
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    version: int,
    judged: "Judged",
) -> "Judged":
    """The second gate, for a version that passed the first: try it in a Serve replica that nobody else reaches."""
    from perennial.rules.infrastructure import judge_probe
    from ray_jobs.serve.probe import ProbeRequest, probe

    if judged.verdict.verdict != "promote":
        return judged
    request = ProbeRequest(lake=lake, pipelines=pipelines, pipeline=pipeline, version=version, serve=serve)
    checks = judge_probe(run_job(compute, probe, request), load_pipeline(pipeline, pipelines).promotion)
    update: dict[str, Any] = {
        "evidence": judged.verdict.evidence | {"infrastructure": [check.model_dump() for check in checks]}
    }
    failed = [f"{check.check}: {check.found}" for check in checks if not check.passed]
    if failed:
        why = f"it cannot be served: {'; '.join(failed)}. Its scores alone would have promoted it: {judged.verdict.reason}"
        update |= {"verdict": "reject", "answer": "infrastructure", "reason": why}
    return judged.model_copy(update={"verdict": judged.verdict.model_copy(update=update)})


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def record_promotion(
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    version: int,
    champion: Stage | None,
    as_of: datetime,
    judged: "Judged",
) -> Decision:
    """Commit the verdict; return the row as it stands, also when another run was faster.

    The champion's generation is in it: a roll-out that finds another one serving does not act on it.
    """
    policy = asdict(load_pipeline(pipeline, pipelines).promotion)
    rival = {
        "champion_version": champion.version if champion else None,
        "champion_generation": champion.generation if champion else 0,
    }
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
            evidence=json.dumps({"answer": judged.verdict.answer} | judged.verdict.evidence | rival),
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
def tell_promotion(decision: Decision) -> None:
    """Send the event of a committed verdict; a rerun sends the same one, which the server keeps once."""
    assert decision.version is not None
    evidence: dict[str, Any] = json.loads(decision.evidence)
    event = EVENTS[decision.verdict](
        pipeline=decision.pipeline,
        decision_id=decision.decision_id,
        reason=decision.reason,
        as_of=decision.as_of,
        version=decision.version,
        former=evidence.get("champion_version"),
        answer=evidence.get("answer", ""),
    )
    emit(event, once=True)


@task
def show_promotion(decision: Decision) -> None:
    """Show a verdict in the UI: its sentence, what every contender reached, the slices and the checks it rests on."""
    evidence: dict[str, Any] = json.loads(decision.evidence)
    name, version = decision.pipeline, decision.version
    rival = f"version {evidence['champion_version']}" if evidence.get("champion_version") else "a constant"
    get_run_logger().info("version %s of %s: %s: %s", version, name, decision.verdict, decision.reason)
    figures = "".join(
        f"- {each.replace('_', ' ')}: {evidence[each]:.4f}\n"
        for each in (
            "challenger",
            "champion",
            "constant",
            "last_label",
            "gain",
            "gain_low",
            "gain_high",
            "tolerated_loss",
        )
        if isinstance(evidence.get(each), float)
    )
    show_markdown(
        f"promotion-{name}",
        f"## {decision.verdict.capitalize()}: version {version} against {rival}\n\n{plain(decision.reason)}\n\n"
        f"On {evidence.get('rows', 0):,} labelled rows that neither was trained on, by {plain(evidence.get('metric'))}:\n\n"
        f"{figures}\nDecision `{decision.decision_id}`.\n",
        description=f"Promotion of version {version} of {name}: {decision.verdict}",
    )
    tables = {
        f"promotion-metrics-{name}": (
            [{"metric": metric, **row} for metric, row in evidence.get("metrics", {}).items()],
            "What every contender reaches on the same rows",
        ),
        f"promotion-slices-{name}": (evidence.get("slices", []), "Both versions on each declared slice"),
        f"promotion-infrastructure-{name}": (evidence.get("infrastructure", []), "The version in a replica's place"),
    }
    for key, (rows, what) in tables.items():
        if rows:
            shown = [{each: _rounded(value) for each, value in row.items()} for row in rows]
            show_table(key, shown, description=f"{what}; decision {decision.decision_id}")


def promotion_id(pipeline: str, version: int, champion: Stage | None, as_of: datetime) -> str:
    """The same two versions at the same moment are one decision; a later moment, with more labels, is another."""
    rival = f"v{champion.version}" if champion else "constant"
    return f"{pipeline}-v{version}-against-{rival}-{as_of.astimezone(UTC):%Y%m%dT%H%M%S}"


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
