"""Batch scoring as an effect: one window, one version, one commit."""

from datetime import datetime
from pathlib import Path

from prefect import get_run_logger, task

from perennial.lakehouse.lake import Lake
from tasks.compute import Compute, run_job


@task(timeout_seconds=3600)  # no retries: the committer has its own; a rerun of the flow finds what landed
def score_window(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    version: int,
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> int:
    """Score [start, end) with a version; return how many rows carry its scores, written now or before."""
    from ray_jobs.score import ScoreRequest
    from ray_jobs.score import score as score_on_ray

    request = ScoreRequest(
        lake=lake, pipelines=pipelines, pipeline=pipeline, version=version, start=start, end=end, as_of=as_of
    )
    scored = run_job(compute, score_on_ray, request)
    state = "were scored before: nothing was written" if scored.already else "are scored"
    get_run_logger().info(
        "%s rows of %s from %s to %s %s by version %s", scored.rows, pipeline, start, end, state, version
    )
    return scored.rows
