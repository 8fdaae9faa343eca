"""Batch scoring as an effect: some rows, one version, one commit."""

from datetime import datetime
from pathlib import Path

from prefect import get_run_logger, task

from perennial.lakehouse.lake import Lake
from tasks.compute import Compute, run_job


@task(timeout_seconds=3600)  # no retries: the committer has its own; a rerun of the flow finds what landed
def score_rows(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    version: int,
    start: datetime | None,
    end: datetime | None,
    as_of: datetime,
    table: str | None,
    snapshot_id: int | None,
    into: str,
) -> int:
    """Score rows with a version; return how many carry its scores, written now or before."""
    from ray_jobs.score import ScoreRequest
    from ray_jobs.score import score as score_on_ray

    request = ScoreRequest(
        lake=lake,
        pipelines=pipelines,
        pipeline=pipeline,
        version=version,
        start=start,
        end=end,
        as_of=as_of,
        table=table,
        snapshot_id=snapshot_id,
        into=into,
    )
    scored = run_job(compute, score_on_ray, request)
    state = "were scored before: nothing was written" if scored.already else f"are scored into {into}"
    get_run_logger().info("%s rows of %s %s by version %s", f"{scored.rows:,}", table or pipeline, state, version)
    return scored.rows
