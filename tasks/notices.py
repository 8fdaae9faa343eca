"""Telling of decisions: the event of each verdict, of a retrain's begin, and of its end."""

import json

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from perennial.lakehouse.decisions import Decision, find_decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage
from perennial.rules.evidence import Evidence
from tasks.events import (
    DataBroken,
    DriftDetected,
    Event,
    PerformanceDegraded,
    RetrainFailed,
    RetrainStarted,
    RetrainSucceeded,
    RetrainSuppressed,
    emit,
)


@task
def tell_verdict(lake: Lake, decision: Decision) -> str | None:
    """Send the event of a committed verdict, or of a retrain's end; return its name, None where there is nothing to tell.

    That a retrain is due is told until a run has claimed it, however often that takes; everything else once: a row says
    that it was. A run that dies before that row tells again, or leaves it to `reconcile`.
    """
    event = event_of(decision)
    if event is None:
        return None
    rings = decision.kind == "monitor" and decision.verdict == "retrain"
    if find_decision(lake, "claim" if rings else "notice", decision.decision_id) is not None:
        get_run_logger().info("decision %s is known already: no event", decision.decision_id)
        return None
    emit(event)
    if not rings:
        record_decision(
            lake,
            Decision(
                decision_id=decision.decision_id,
                pipeline=decision.pipeline,
                kind="notice",
                verdict=event.name,
                reason=f"{event.name} was sent",
                as_of=decision.as_of,
                version=decision.version,
                run_id=str(flow_run.get_id() or ""),
            ),
        )
    return event.name


def event_of(decision: Decision) -> Event | None:
    """What a verdict, or a retrain's end, has to tell; None for one that is quiet."""
    told = json.loads(decision.evidence)
    if decision.kind == "retrain":
        if decision.verdict == "failed":
            return RetrainFailed(**_about(decision), run_id=decision.run_id, serving=told.get("serving"))
        assert decision.version is not None, "whatever else it ended in, a version was trained"
        return RetrainSucceeded(**_about(decision), version=decision.version, ended=decision.verdict)
    evidence = Evidence.model_validate({"version": decision.version or 0, "rows": 0} | told)
    about = {
        "pipeline": decision.pipeline,
        "decision_id": decision.decision_id,
        "reason": decision.reason,
        "as_of": decision.as_of,
        "version": decision.version,
        "window_start": decision.window_start,
        "window_end": decision.window_end,
    }
    guard, seen = told.get("guard"), evidence.performance
    if decision.verdict == "retrain":
        if told.get("cause") != "performance" or seen is None:
            return DriftDetected(**about, drifted_inputs=evidence.drifted_inputs)
        figures = {"metric": seen.metric, "promised": seen.promised, "measured": seen.measured}
        return PerformanceDegraded(**about, **figures, expected_gain=told.get("expected_gain"))
    if guard is not None and guard != "paged":
        return RetrainSuppressed(**about, guard=guard)
    if decision.verdict == "page":
        lost = {
            name: f"+{evidence.missing[name]:.0%} missing"
            for name in evidence.broken_inputs
            if name in evidence.missing
        }
        return DataBroken(**about, broken=lost | evidence.broken)
    return None


@task
def tell_started(decision: Decision) -> None:
    """Say that a run has claimed the decision."""
    emit(RetrainStarted(**_about(decision), run_id=str(flow_run.get_id() or "")))


@task
def tell_failed(lake: Lake, decision: Decision, error: str) -> None:
    """Say that a retrain's run failed, and who serves on: nothing that a failed retrain did lets another version serve.

    Not its end: `reconcile` starts the run again, and tells when it gives up.
    """
    serving = champion_stage(lake, decision.pipeline)
    version = serving.version if serving else None
    standing = f"version {version} serves on" if version else "no version serves, as before"
    get_run_logger().error("retrain of %s failed; %s. %s", decision.pipeline, standing, error)
    reason = f"The retrain failed ({error[:500]}); {standing}. Running it again goes on where it ended."
    run_id = str(flow_run.get_id() or "")
    emit(RetrainFailed(**_about(decision) | {"reason": reason}, run_id=run_id, serving=version))


def _about(decision: Decision) -> dict[str, object]:
    return {
        "pipeline": decision.pipeline,
        "decision_id": decision.decision_id,
        "reason": decision.reason,
        "as_of": decision.as_of,
    }
