"""Monitoring's effects: ship predictions, watch a window, record the verdict, show it."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from prefect import get_run_logger, task
from prefect.runtime import flow_run

from perennial.lakehouse.decisions import Decision, find_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.rules.drift import monitor_decision_id, policy_hash
from perennial.rules.evidence import Evidence, Slice
from perennial.rules.policy import Verdict, decide
from perennial.rules.watched import Stretch
from perennial.spec import Monitoring, load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, report_url, show_link, show_markdown, show_table
from tasks.windows import Subject, read_pipeline_past

if TYPE_CHECKING:
    from ray_jobs.drift.watch import Watched


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def commit_shipped_predictions(lake: Lake, pipeline: str) -> int:
    """Bring what the endpoint answered into `predictions`; return how many rows this run committed."""
    rows = commit_predictions(lake, pipeline)
    get_run_logger().info("%s new predictions of %s committed", f"{rows:,}", pipeline)
    return rows


@task
def find_verdict(lake: Lake, pipelines: Path, pipeline: str, version: int, window: Stretch) -> Decision | None:
    """The verdict an earlier run recorded on this version, window and policy, or None."""
    policy = load_pipeline(pipeline, pipelines).monitoring
    return find_decision(lake, "monitor", monitor_decision_id(pipeline, version, *window, policy))


@task(timeout_seconds=1800)
def watch_window(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    subject: Subject,
    window: Stretch,
    as_of: datetime,
    late: int = 0,
) -> "Watched":
    """Gather a window's evidence and save Evidently's report; watching it again overwrites it alike."""
    from ray_jobs.drift.watch import WatchRequest, watch

    rows = read_decisions(lake, pipeline)
    request = WatchRequest(
        lake=lake,
        pipelines=pipelines,
        pipeline=pipeline,
        version=subject.version,
        champion=subject.champion,
        start=window.start,
        end=window.end,
        as_of=as_of,
        late=late,
        past=read_pipeline_past(lake, pipeline, as_of),
        promised_slices=_promised_slices(rows, subject.version),
    )
    return run_job(compute, watch, request)


@task(timeout_seconds=600)
def record_verdict(
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    watched: "Watched",
    window: Stretch,
    as_of: datetime,
    late: int = 0,
) -> Decision:
    """Judge a window's evidence and commit the verdict; return the row as it stands, also when it was there before."""
    policy = load_pipeline(pipeline, pipelines).monitoring
    version = watched.evidence.version
    decision_id = monitor_decision_id(pipeline, version, *window, policy, late)
    past = read_pipeline_past(lake, pipeline, as_of).without(decision_id)
    judged = decide(watched.evidence, past, policy, as_of, *window)
    return record_decision(
        lake,
        Decision(
            decision_id=decision_id,
            pipeline=pipeline,
            kind="monitor",
            version=version,
            window_start=window.start,
            window_end=window.end,
            verdict=judged.verdict,
            reason=judged.reason,
            evidence=_evidence_json(watched, judged),
            policy=_policy_json(policy),
            run_id=str(flow_run.get_id() or ""),
            as_of=as_of,
        ),
    )


@task
def show_verdict(decision: Decision, reports_base_url: str) -> None:
    """Show a verdict in the UI: its sentence, the tests it rests on, and the way to the report."""
    evidence = Evidence.model_validate_json(decision.evidence)
    report = report_url(reports_base_url, _report_path(decision))
    window = f"{decision.window_start:%Y-%m-%d} to {decision.window_end:%Y-%m-%d}"
    show_markdown(
        f"monitor-{decision.pipeline}",
        f"## {decision.verdict.capitalize()}\n\n{plain(decision.reason)}\n\n"
        f"Version {decision.version} of {decision.pipeline}, {window}, with the labels known by "
        f"{decision.as_of:%Y-%m-%d %H:%M} UTC.\n\nDecision `{decision.decision_id}`. [Evidently's report]({report})\n",
        description=f"Verdict on {decision.pipeline}, {window}",
    )
    failed_first = sorted(evidence.tests, key=lambda test: test.passed)
    show_table(
        f"evidence-{decision.pipeline}",
        [{"test": t.name, "passed": "yes" if t.passed else "no", "what was seen": t.description} for t in failed_first],
        description=f"Evidently's tests of {decision.pipeline}, {window}",
    )
    show_link(
        f"report-{decision.pipeline}",
        report,
        text=f"Evidently report of {decision.pipeline}, {window}",
        description="Drift and quality of a sample, and the figures of all rows",
    )


def _promised_slices(decisions: pl.DataFrame, version: int) -> list[Slice]:
    """What the promotion of a version saw on each slice."""
    rows = decisions.filter(kind="promotion", version=version, verdict="promote")
    told = json.loads(rows["evidence"][-1]).get("slices") or [] if rows.height else []
    return [
        Slice(
            column=s["column"],
            value=s["value"],
            rows=s["rows"],
            measured=None,
            low=None,
            high=None,
            promised=s.get("challenger"),
        )
        for s in told
    ]


def _evidence_json(watched: "Watched", judged: Verdict) -> str:
    told = {
        "report": watched.report,
        "evidence_file": watched.evidence_file,
        "labelled_share": watched.evidence.labelled_share,
        "disagreements": watched.evidence.disagreements,
        "cause": judged.cause,
        "guard": judged.guard.name if judged.guard else None,
        "expected_gain": judged.expected_gain,
        "expected_seconds": judged.expected_seconds,
        "train_from": judged.train_from.isoformat() if judged.train_from else None,
    }
    return json.dumps(watched.evidence.model_dump(mode="json") | told)


def _policy_json(policy: Monitoring) -> str:
    return json.dumps(asdict(policy) | {"hash": policy_hash(policy)}, default=str)


def _report_path(decision: Decision) -> str:
    return str(json.loads(decision.evidence)["report"])
