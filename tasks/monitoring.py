"""Monitoring's effects: ship predictions, watch a window, record the verdict, show it."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from prefect import get_run_logger, task
from prefect.runtime import flow_run
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, find_decision, read_decisions, record_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from perennial.rules.drift import monitor_decision_id, policy_hash
from perennial.rules.evidence import Evidence, Slice
from perennial.rules.past import Past, read_past
from perennial.rules.policy import Verdict, decide
from perennial.spec import Monitoring, load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, report_url, show_link, show_markdown, show_table

if TYPE_CHECKING:
    from ray_jobs.drift.watch import Watched


@task(timeout_seconds=600)  # no retries: the committer has its own, and only it knows what landed
def commit_shipped_predictions(lake: Lake, pipeline: str) -> int:
    """Bring what the endpoint answered into `predictions`; return how many rows this run committed."""
    rows = commit_predictions(lake, pipeline)
    get_run_logger().info("%s new predictions of %s committed", f"{rows:,}", pipeline)
    return rows


class Subject(BaseModel, frozen=True):
    """Who is watched: the champion that answered last in the window, and who serves by now."""

    version: int
    champion: int | None


@task
def pick_version(
    lake: Lake, pipelines: Path, pipeline: str, start: datetime, end: datetime, as_of: datetime
) -> Subject | None:
    """Whom the window is about: a rerun after a promotion still finds the version that answered it.

    None: no version ever served, so there is nothing to watch.
    """
    from perennial.lakehouse.stages import champion_stage
    from ray_jobs.drift.window import last_version

    serving = champion_stage(lake, pipeline, as_of)
    champion = serving.version if serving else None
    version = last_version(lake, load_pipeline(pipeline, pipelines), start, end) or champion
    if version is None:
        get_run_logger().info("no version of %s has ever served: nothing to watch", pipeline)
        return None
    return Subject(version=version, champion=champion)


@task
def find_verdict(
    lake: Lake, pipelines: Path, pipeline: str, version: int, start: datetime, end: datetime
) -> Decision | None:
    """The verdict an earlier run recorded on this version, window and policy, or None."""
    policy = load_pipeline(pipeline, pipelines).monitoring
    return find_decision(lake, "monitor", monitor_decision_id(pipeline, version, start, end, policy))


@task(timeout_seconds=1800)
def watch_window(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    subject: Subject,
    start: datetime,
    end: datetime,
    as_of: datetime,
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
        start=start,
        end=end,
        as_of=as_of,
        past=read_past(rows.iter_rows(named=True)).until(as_of),
        promised_slices=_promised_slices(rows, subject.version),
    )
    return run_job(compute, watch, request)


@task(timeout_seconds=600)
def record_verdict(
    lake: Lake, pipelines: Path, pipeline: str, watched: "Watched", start: datetime, end: datetime, as_of: datetime
) -> Decision:
    """Judge a window's evidence and commit the verdict; return the row as it stands, also when it was there before."""
    policy = load_pipeline(pipeline, pipelines).monitoring
    version = watched.evidence.version
    decision_id = monitor_decision_id(pipeline, version, start, end, policy)
    past = read_pipeline_past(lake, pipeline, as_of).without(decision_id)
    judged = decide(watched.evidence, past, policy, as_of, start, end)
    return record_decision(
        lake,
        Decision(
            decision_id=decision_id,
            pipeline=pipeline,
            kind="monitor",
            version=version,
            window_start=start,
            window_end=end,
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


def read_pipeline_past(lake: Lake, pipeline: str, moment: datetime) -> Past:
    """What the pipeline had been through by a moment, from the table of decisions."""
    return read_past(read_decisions(lake, pipeline).iter_rows(named=True)).until(moment)


def _evidence_json(watched: "Watched", judged: Verdict) -> str:
    told = {
        "report": watched.report,
        "evidence_file": watched.evidence_file,
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
