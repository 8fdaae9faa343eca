"""Tasks on features over windows of event time."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task

from perennial.lakehouse.lake import Lake
from perennial.spec import load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, report_url, show_link, show_table

if TYPE_CHECKING:
    from ray_jobs.features.build import BuiltFeatures
    from ray_jobs.features.explain import RowExplained

Window = tuple[datetime, datetime]


@task(timeout_seconds=600)
def plan_windows(
    lake: Lake, pipelines: Path, pipeline: str, start: datetime | None, end: datetime | None, as_of: datetime
) -> list[Window]:
    """The months of event time between start and end, cut to what the entity's rows known by `as_of` have."""
    from perennial.lakehouse.stretch import event_times
    from perennial.rules.windows import months

    found = event_times(lake, load_pipeline(pipeline, pipelines), as_of)
    if found is None:
        return []
    return months(max(found[0], start or found[0]), min(found[1], end or found[1]), end)


@task(timeout_seconds=4 * 3600)
def build_window(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, as_of: datetime, start: datetime, end: datetime
) -> int:
    """Build the rows of one window in one commit; return how many came or changed."""
    from ray_jobs.features.build import BuildRequest, build

    place = {"lake": lake, "pipeline": pipeline, "pipelines": pipelines}
    built = run_job(compute, build, BuildRequest(**place, as_of=as_of, start=start, end=end))
    rows = 0 if built.already else built.rebuilt_rows
    get_run_logger().info(
        "features of %s from %s to %s: %s rows built", pipeline, start.date(), end.date(), f"{rows:,}"
    )
    return rows


@task
def show_windows(pipeline: str, as_of: datetime, built: dict[str, int]) -> None:
    """Show what was built of every window."""
    rows: list[dict[str, object]] = [
        {"window from": start, "rows built": count or "none: it stood already"} for start, count in built.items()
    ]
    show_table(f"backfill-{pipeline}", rows, f"Backfill of the features of {pipeline} as of {as_of.isoformat()}")


@task(timeout_seconds=1800)
def show_feature_page(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    as_of: datetime,
    built: "BuiltFeatures",
    reports_base_url: str,
) -> None:
    """Publish the pipeline's feature page and show it; left as it is where nothing was built."""
    from perennial.datadocs.features import feature_rows, features_path
    from perennial.datadocs.publish_features import publish_features
    from ray_jobs.features.describe import DescribeRequest, describe

    if built.already:
        return
    place = {"lake": lake, "pipeline": pipeline, "pipelines": pipelines}
    request = DescribeRequest(**place, as_of=as_of, snapshot_id=built.snapshot_id, inputs=built.inputs)
    figures = run_job(compute, describe, request)
    champion = publish_features(lake, figures)
    page = report_url(reports_base_url, features_path(pipeline))
    show_link(f"feature-page-{pipeline}", page, f"Features of {pipeline}", f"Feature page of {pipeline}")
    rows = feature_rows(figures, champion)
    show_table(f"feature-list-{pipeline}", rows, f"Features of {pipeline}, with meaning, unit and lineage")


@task(timeout_seconds=1800)
def explain_on_ray(
    compute: Compute, lake: Lake, pipelines: Path, pipeline: str, key: dict[str, Any], as_of: datetime
) -> "RowExplained":
    """Work out where every value of a row's features came from."""
    from ray_jobs.features.explain import ExplainRequest, explain_row

    request = ExplainRequest(lake=lake, pipeline=pipeline, pipelines=pipelines, key=key, as_of=as_of)
    return run_job(compute, explain_row, request)


@task
def show_explained(found: "RowExplained") -> None:
    """Show a line for each column that an input was made from."""
    rows = [
        {
            "input": plain(each.name),
            "value": plain(each.value),
            "in the table": plain(found.stored.get(each.name, "") if found.stored is not None else "no such row"),
            "column": plain(read.column.name),
            "its value": plain(read.value),
            "how": plain(read.column.how),
            "from": plain(", ".join(f"{read.column.source}.{name}" for name in read.column.columns)),
            "snapshot": str(found.snapshots[read.column.source]),
            "rows that count": read.rows,
            "happened": " to ".join(moment.isoformat() for moment in read.happened if moment),
            "known at": read.known_at.isoformat() if read.known_at else "",
            "newest rows": plain("; ".join(str(row) for row in read.newest)),
        }
        for each in found.explained
        for read in each.evidence
    ]
    description = f"Features of {plain(found.key)} of {found.pipeline}, as known at {found.moment.isoformat()}"
    show_table(f"explain-{found.pipeline}", rows, description)
