"""The closing account: served scores beside a version that was never replaced, as figures and as a picture."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from perennial.lakehouse.lake import Lake
from tasks.compute import Compute, run_job
from tasks.telemetry import report_url, show_image, show_table

if TYPE_CHECKING:
    from ray_jobs.drift.compare import Compared


@task(timeout_seconds=1800)
def compare_versions(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    baseline_version: int,
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> "Compared":
    """Compare month by month on the same rows; figures and picture are written over those of an earlier run."""
    from ray_jobs.drift.compare import CompareRequest, compare

    request = CompareRequest(
        lake=lake,
        pipelines=pipelines,
        pipeline=pipeline,
        start=start,
        end=end,
        baseline_version=baseline_version,
        as_of=as_of,
    )
    return run_job(compute, compare, request, spreads=False)


@task
def show_comparison(compared: "Compared", reports_base_url: str) -> None:
    """Show the months as a table and the picture beside it."""
    seen = compared.performance
    show_table(
        f"performance-{seen.pipeline}",
        [
            {
                "month": month.month,
                "rows": month.rows,
                "served by": ", ".join(f"v{version}" for version in month.versions),
                f"v{seen.baseline_version}, never retrained": _figure(month.baseline),
                "served": _figure(month.served),
                "gain": _figure(month.gain, "+.4f"),
            }
            for month in seen.months
        ],
        description=_sentence(compared),
    )
    show_image(
        f"performance-picture-{seen.pipeline}", report_url(reports_base_url, compared.picture), _sentence(compared)
    )


def _sentence(compared: "Compared") -> str:
    seen, after = compared.performance, compared.performance.after_first_promotion
    if after is None:
        return f"{seen.metric} of {seen.pipeline} by month; version {seen.baseline_version} served throughout"
    return (
        f"{seen.metric} of {seen.pipeline} by month; mean gain since the first promotion ({', '.join(after.months)}) "
        f"{after.gain:+.4f}, 95% interval {after.low:+.4f} to {after.high:+.4f}"
    )


def _figure(value: float | None, form: str = ".4f") -> str:
    return "not defined" if value is None else format(value, form)
